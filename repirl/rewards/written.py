"""Judgements in words: a language model reads a solution and writes which steps are right (docs/recipes.md B8, C5).

What it writes is sampled, not a head's output. A step is worth the probability of the verdict that was written of it (or of
the other one), read from the log-probabilities of the verdict's own tokens, mean over the judgements of a rollout. A judgement
that cannot be read, or that is not of exactly the solution's steps, says nothing: it is no verdict of "wrong".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from repirl.engines.base import Engine, Request, SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.sampling import decode
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract, WrittenTerms
from repirl.rewards.base import StepReward
from repirl.rollouts.prompts import encode_prompt
from repirl.rollouts.steps import StepSegmentation, step_end_tokens, step_texts, token_char_ends
from repirl.types import Budget, Problem, Rollout, RolloutGroup

KIND = "written"
RIGHT_FROM = 0.5
"""A step whose score is below has been called wrong."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a text says: of each step, in order, whether it is right, and where in the text that stands; and of the whole
    solution. `final` None: it does not say."""

    steps: tuple[bool, ...]
    spans: tuple[tuple[int, int], ...]
    final: bool | None


class Style(Protocol):
    """How a judge is asked and answers."""

    def ask(self, problem: str, steps: Sequence[str], solution: str) -> str:
        """The judge's prompt; `solution` is the text of which `steps` are the steps."""
        ...

    def read(self, text: str) -> Judgement:
        """What an answer says; no steps and no `final` where nothing can be read."""
        ...

    def write(self, steps: Sequence[bool], final: bool) -> str:
        """An answer that says so."""
        ...


class _Xml:
    """For models that follow instructions. They may reason first; of several judgements of a step the last counts."""

    _STEP = re.compile(r'<judgment step="(\d{1,6})">\s*(right|wrong)\s*</judgment>')
    _FINAL = re.compile(r"<final>\s*(right|wrong)\s*</final>")

    def ask(self, problem: str, steps: Sequence[str], solution: str) -> str:
        shown = "\n".join(f'<step number="{i}">\n{step.strip()}\n</step>' for i, step in enumerate(steps, 1))
        return (
            f"A problem, and a solution of it in {len(steps)} steps:\n\n<problem>\n{problem.strip()}\n</problem>\n\n{shown}\n\n"
            "Check the steps one after the other. A step is wrong if it has an error of its own or rests on an earlier one. "
            "The solution is right if its final answer is. Reason as briefly as you can. Then end with one line for every "
            "step, and one for the solution, each `right` or `wrong`:\n"
            '<judgment step="1">right</judgment>\n<final>right</final>\n'
        )

    def read(self, text: str) -> Judgement:
        said = {int(match[1]): (match[2] == "right", match.span(2)) for match in self._STEP.finditer(text)}
        finals = self._FINAL.findall(text)
        final = finals[-1] == "right" if finals else None
        if sorted(said) != list(range(1, len(said) + 1)):
            return Judgement((), (), final)
        told = [said[i] for i in range(1, len(said) + 1)]
        return Judgement(tuple(right for right, _ in told), tuple(span for _, span in told), final)

    def write(self, steps: Sequence[bool], final: bool) -> str:
        word = lambda right: "right" if right else "wrong"
        lines = [f'<judgment step="{i}">{word(right)}</judgment>' for i, right in enumerate(steps, 1)]
        return "\n".join([*lines, f"<final>{word(final)}</final>"])


class _Marks:
    """For models that know no instructions (the embedded one): a letter for each step, a space, one for the solution."""

    _ANSWER = re.compile(r"([yn]*) ([yn])")

    def ask(self, problem: str, steps: Sequence[str], solution: str) -> str:
        return f"{problem}{solution}\n? "

    def read(self, text: str) -> Judgement:
        match = self._ANSWER.fullmatch(text)
        if match is None:
            return Judgement((), (), None)
        return Judgement(tuple(c == "y" for c in match[1]), tuple((i, i + 1) for i in range(len(match[1]))), match[2] == "y")

    def write(self, steps: Sequence[bool], final: bool) -> str:
        return "".join("y" if right else "n" for right in steps) + (" y" if final else " n")


STYLES: Mapping[str, Style] = {"xml": _Xml(), "marks": _Marks()}


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What was written of a rollout of S steps; `scores_S` None where it does not judge exactly these steps."""

    written: Rollout
    judgement: Judgement
    num_steps: int
    scores_S: np.ndarray | None


class WrittenReward(StepReward):
    """A language model's written judgements. `engine` follows its weights where it is trained elsewhere.

    What is sampled depends on the seed and the rollout alone.
    """

    name = "generative"
    probabilities = True

    def __init__(
        self,
        model: Any,
        engine: Engine,
        tokenizer: Any,
        segmentation: StepSegmentation,
        terms: WrittenTerms,
        judge_tokenizer: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, segmentation, "last")
        self.model, self.engine, self.terms, self.seed = model, engine, terms, seed
        self.judge_tokenizer = tokenizer if judge_tokenizer is None else judge_tokenizer
        self.style = STYLES[terms.style]

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return self.scores_of(groups, self.judge(groups))

    def scores_of(self, groups: Sequence[RolloutGroup], judged: Sequence[Sequence[Judged]]) -> list[np.ndarray]:
        """Float64 [T] of every rollout: at each step's last token its score, NaN elsewhere; NaN alone if nothing was read."""
        scores = []
        for rollout, own in zip((r for group in groups for r in group.rollouts), judged, strict=True):
            scores_T = np.full(len(rollout.token_ids), np.nan)
            read = [one.scores_S for one in own if one.scores_S is not None]
            if read:
                scores_T[self._ends(rollout)] = np.mean(read, axis=0)
            scores.append(scores_T)
        return scores

    def judge(self, groups: Sequence[RolloutGroup], seed: int | None = None) -> list[list[Judged]]:
        """`terms.samples` judgements of every rollout, group after group; none of those too long for the judge's model."""
        flat = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
        asked = [self._request(problem, rollout) for problem, rollout in flat]
        fitting = [request for request in asked if request is not None]
        terms = self.terms
        params = SamplingParams(terms.max_new_tokens, terms.temperature, seed=self.seed if seed is None else seed)
        found = iter(self.engine.generate(fitting, params))
        written = [() if request is None else tuple(next(found)) for request in asked]
        self.budget += Budget(
            generated_tokens=sum(len(one.token_ids) for group in written for one in group),
            scored_tokens=sum(len(request.prompt_ids) for request in fitting),
        )
        return [[self._judged(rollout, one) for one in own] for (_, rollout), own in zip(flat, written, strict=True)]

    def prompt_ids(self, problem: Problem, rollout: Rollout) -> tuple[int, ...]:
        """What the judge reads of a rollout."""
        steps = step_texts(rollout.text, self.segmentation) or [rollout.text]
        return encode_prompt(self.judge_tokenizer, self.style.ask(problem.prompt, steps, rollout.text), chat=self.terms.chat)

    def _request(self, problem: Problem, rollout: Rollout) -> Request | None:
        prompt_ids = self.prompt_ids(problem, rollout)
        longest = getattr(self.engine, "max_length", None)
        if longest is not None and len(prompt_ids) >= longest:
            return None
        digest = hashlib.sha256(rollout.token_ids.astype(np.int64).tobytes()).hexdigest()
        return Request(problem.id, prompt_ids, self.terms.samples, stream=f"{problem.id}, judged {digest}")

    def _judged(self, rollout: Rollout, written: Rollout) -> Judged:
        judgement, num_steps = self.style.read(written.text), self.num_steps(rollout)
        if len(judgement.steps) != num_steps:
            return Judged(written, judgement, num_steps, None)
        ids, tokenizer = written.token_ids, self.judge_tokenizer
        ends_T = token_char_ends(tokenizer, ids.tolist(), decode(tokenizer, ids))
        said = [_probability(written.logprobs, ends_T, span) for span in judgement.spans]
        if self.terms.score == "verdict":
            said = [1.0] * num_steps
        scores = [p if right else 1 - p for p, right in zip(said, judgement.steps, strict=True)]
        return Judged(written, judgement, num_steps, np.array(scores))

    def num_steps(self, rollout: Rollout) -> int:
        """How many verdicts a judgement of the rollout must have."""
        return len(self._ends(rollout))

    def _ends(self, rollout: Rollout) -> np.ndarray:
        return step_end_tokens(self.tokenizer, rollout.token_ids, self.segmentation, rollout.text)

    def state(self) -> dict[str, Any]:
        """The counts."""
        return {"budget": asdict(self.budget)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.budget = Budget(**state["budget"])


def _probability(logprobs_T: np.ndarray, ends_T: np.ndarray, span: tuple[int, int]) -> float:
    """Of the tokens that hold a span of the text."""
    first, last = np.searchsorted(ends_T, [span[0] + 1, span[1]], side="left")
    return float(np.exp(logprobs_T[first : last + 1].astype(np.float64).sum()))


def load_written(folder: Path, tokenizer: Any, contract: RewardContract, device: str | torch.device) -> WrittenReward:
    """A saved verifier, frozen; UserError if its weights cannot be loaded."""
    if contract.written is None:
        raise UserError("the reward's contract lacks what a written judgement needs", str(folder), f"{CONTRACT_FILE}: written")
    model = load_policy(folder, device=device).model.requires_grad_(False)
    return WrittenReward(model, TorchEngine(model, tokenizer), tokenizer, contract.segmentation, contract.written)
