"""Search with a live policy: solutions grow step by step, a process reward says which to go on with (docs/recipes.md C2).

One loop for all approaches (`evals/approaches.py`): every problem's live solutions are continued by one step at once, the new
steps are scored, and the approach says what is continued next and how often. All tokens are counted: what the policy wrote,
what of it no final solution holds, what lookahead wrote besides, and what the reward read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repirl.engines.base import Engine, Request, SamplingParams
from repirl.engines.loading import LoadedPolicy
from repirl.evals.approaches import APPROACHES, Approach, Expansion, Node, SearchConfig
from repirl.evals.growing import IncrementalSteps, StepScorer, WholeSteps
from repirl.rewards.aggregate import aggregate
from repirl.rewards.incremental import can_score
from repirl.rewards.load import LoadedReward
from repirl.rng import seed_for, stream
from repirl.rollouts.prompts import encode_prompt
from repirl.tasks.sample_pools import PooledProblem, PooledSample
from repirl.types import Problem, Rollout

OnProgress = Callable[[int, int], None]
_MAX_ROWS = 512
"""Solutions that grow at a time, over problems: their caches are held."""


@dataclass(frozen=True, slots=True)
class SearchCost:
    """Tokens of all problems. `generated` by the policy, of which `discarded` are in no final solution; `lookahead` besides;
    `scored` by the reward."""

    generated: int = 0
    discarded: int = 0
    lookahead: int = 0
    scored: int = 0

    def __add__(self, other: SearchCost) -> SearchCost:
        return SearchCost(
            self.generated + other.generated,
            self.discarded + other.discarded,
            self.lookahead + other.lookahead,
            self.scored + other.scored,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ended with, as a pool whose scores are those that steered it, under `reward`."""

    problems: tuple[PooledProblem, ...]
    cost: SearchCost


def search(
    problems: Sequence[Problem],
    policy: LoadedPolicy,
    engine: Engine,
    loaded: LoadedReward,
    config: SearchConfig,
    *,
    name: str,
    chat: bool = False,
    on_progress: OnProgress | None = None,
) -> Found:
    """Up to `config.n` solutions of each problem. The result depends neither on the other problems nor on their order.

    UserError as in sampling and scoring.
    """
    found: list[PooledProblem] = []
    cost = SearchCost()
    at_a_time = max(1, _MAX_ROWS // config.n)
    for start in range(0, len(problems), at_a_time):
        chunk = problems[start : start + at_a_time]
        run = _Run(chunk, policy, engine, loaded, config, chat)
        leaves = run.to_the_end()
        found += [_pooled(problem, own, name) for problem, own in zip(chunk, leaves, strict=True)]
        cost += run.cost(leaves)
        if on_progress is not None:
            on_progress(len(found), len(problems))
    return Found(tuple(found), cost)


class _Run:
    """A chunk of problems from their prompts to their last solutions."""

    def __init__(
        self,
        problems: Sequence[Problem],
        policy: LoadedPolicy,
        engine: Engine,
        loaded: LoadedReward,
        config: SearchConfig,
        chat: bool,
    ) -> None:
        self.problems, self.config, self.engine, self.loaded = problems, config, engine, loaded
        self.tokenizer = policy.tokenizer
        self.separator = loaded.segmentation.separator
        self.prompts = [encode_prompt(policy.tokenizer, problem.prompt, chat=chat) for problem in problems]
        shared = can_score(loaded.reward) and loaded.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
        self.scorer: StepScorer = IncrementalSteps(loaded, problems) if shared else WholeSteps(loaded, problems)
        self.before = loaded.reward.budget.scored_tokens
        self.generated = self.lookahead = 0

    def to_the_end(self) -> list[list[Node]]:
        """The final solutions of each problem, best first."""
        config = self.config
        approach = APPROACHES[config.approach](config, probabilities=self.loaded.reward.probabilities)
        rows: Any = self.scorer.start()
        roots = [Node(problem=p, row=p) for p in range(len(self.problems))]
        plans: list[list[Expansion]] = [approach.first(root) for root in roots]
        held: list[list[Node]] = [[] for _ in roots]
        for depth in range(config.max_steps):
            if not any(plans):
                break
            last = depth == config.max_steps - 1
            children = self._children(plans, str(depth), last=last)
            rows, children = self._scored(rows, children)
            if config.lookahead and not last:
                children = self._looked_ahead(rows, children)
            plans = self._advance(approach, children, held, depth)
        return [sorted(own, key=lambda node: -node.value) for own in held]

    def _advance(
        self, approach: Approach, children: Sequence[Node], held: list[list[Node]], depth: int
    ) -> list[list[Expansion]]:
        plans: list[list[Expansion]] = []
        for p, problem in enumerate(self.problems):
            own = [child for child in children if child.problem == p]
            if not own:
                plans.append([])
                continue
            step = approach.advance(own, held[p], stream(self.config.seed, "search", problem.id, depth))
            held[p] = list(step.held)
            plans.append(list(step.expand))
        return plans

    def _children(
        self, plans: Sequence[Sequence[Expansion]], round_name: str, *, last: bool = False, greedy: bool = False
    ) -> list[Node]:
        """One step more of every node that is to be expanded, as often as it says; to the end in the last round."""
        config, asked = self.config, [one for plan in plans for one in plan]
        params = SamplingParams(
            config.max_new_tokens,
            0.0 if greedy else config.temperature,
            stop=() if last else (self.separator,),
            seed=seed_for(config.seed, "search"),
        )
        requests = []
        for plan in plans:
            for place, one in enumerate(plan):
                problem = self.problems[one.node.problem]
                requests.append(
                    Request(
                        problem.id,
                        (*self.prompts[one.node.problem], *one.node.tokens),
                        one.copies,
                        stream=f"{problem.id}/{round_name}/{place}",
                        max_new_tokens=config.max_new_tokens - len(one.node.tokens),
                    )
                )
        groups = self.engine.generate(requests, params)
        children = []
        for one, group in zip(asked, groups, strict=True):
            for rollout in group:
                children.append(self._child(one.node, rollout, one.tree, to_the_end=last))
                self.generated += len(rollout.token_ids)
        return children

    def _child(self, parent: Node, rollout: Rollout, tree: int, *, to_the_end: bool) -> Node:
        tokens = (*parent.tokens, *rollout.token_ids.tolist())
        end = "length" if rollout.finish_reason == "length" else "stop"
        if end == "stop" and not to_the_end and rollout.text.endswith(self.separator):
            end = "live" if len(tokens) < self.config.max_new_tokens else "length"
        return Node(
            problem=parent.problem,
            tokens=tokens,
            text=parent.text + rollout.text,
            end=end,
            parent=parent,
            tree=tree,
            log_weight=parent.log_weight,
        )

    def _scored(self, rows: Any, children: Sequence[Node]) -> tuple[Any, list[Node]]:
        """The children with the scores of all their steps and what these are worth; rows for them alone."""
        after, steps = self.scorer.extend(rows, children)
        how = self.config.aggregation
        return after, [
            replace(child, row=i, steps=own, value=aggregate(np.array(own), how) if own else float("-inf"))
            for i, (child, own) in enumerate(zip(children, steps, strict=True))
        ]

    def _looked_ahead(self, rows: Any, children: Sequence[Node]) -> list[Node]:
        """Live children are worth what greedy steps behind them make of them; those steps are thrown away."""
        generated = self.generated
        ends = {child.key: child for child in children if child.end == "live"}
        for _ in range(self.config.lookahead):
            live = {key: node for key, node in ends.items() if node.end == "live"}
            if not live:
                break
            plans = [[Expansion(node, 1, node.tree)] for node in live.values()]
            rows, grown = self._scored(rows, self._children(plans, "lookahead", greedy=True))
            ends |= dict(zip(live, grown, strict=True))
        self.lookahead += self.generated - generated
        self.generated = generated
        return [replace(child, value=ends[child.key].value) if child.key in ends else child for child in children]

    def cost(self, leaves: Sequence[Sequence[Node]]) -> SearchCost:
        """Of the run; what lies on the way to no leaf was discarded."""
        kept: dict[int, int] = {}
        for own in leaves:
            for leaf in own:
                node: Node | None = leaf
                while node is not None and node.parent is not None:
                    kept[node.key] = len(node.tokens) - len(node.parent.tokens)
                    node = node.parent
        scored = self.loaded.reward.budget.scored_tokens - self.before
        return SearchCost(self.generated, self.generated - sum(kept.values()), self.lookahead, scored)


def _pooled(problem: Problem, leaves: Sequence[Node], name: str) -> PooledProblem:
    samples = tuple(
        PooledSample(leaf.text, len(leaf.tokens), leaf.end == "stop", {name: leaf.steps or None}) for leaf in leaves
    )
    return PooledProblem(problem.id, problem.prompt, problem.answer, samples)
