"""What does not fit into the policy's context is found when data are loaded, not at the step that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from repirl.errors import UserError
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.tasks.training_sets import TrainingSet
from repirl.types import Demonstration, Problem, RolloutGroup

T = TypeVar("T")

_TEMPLATE_BYTES = 1024
"""More than what a chat template adds."""


def within_context(data: TrainingSet, policy: Any, too_long: str, *, chat: bool) -> TrainingSet:
    """The training set without what is too long for `policy` (a LoadedPolicy), counted in `left_out`.

    A prompt must leave room for one token, a demonstration must fit whole, prompt and EOS included. UserError, with how many
    there are, unless `too_long` is `drop`, and if nothing is left.
    """
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return data
    tokenizer = policy.tokenizer

    def fits(problem: Problem) -> bool:
        return _short(problem.prompt, limit) or len(encode_prompt(tokenizer, problem.prompt, chat=chat)) < limit

    def fits_with(problem: Problem, demonstration: Demonstration) -> bool:
        if _short(problem.prompt + demonstration.text, limit):
            return True
        return len(encode_solution(tokenizer, encode_prompt(tokenizer, problem.prompt, chat=chat), demonstration.text)) <= limit

    problems, validation = (_kept(part, fits) for part in (data.problems, data.validation))
    demonstrations = {
        problem.id: _kept(data.demonstrations[problem.id], lambda demo, problem=problem: fits_with(problem, demo))
        for problem in (*problems, *validation)
        if problem.id in data.demonstrations
    }
    known = sum(len(demos) for key, demos in data.demonstrations.items() if key in demonstrations)
    left_out = {
        "prompts": len(data.problems) - len(problems),
        "validation prompts": len(data.validation) - len(validation),
        "demonstrations": known - sum(map(len, demonstrations.values())),
    }
    left_out = {kind: count for kind, count in left_out.items() if count}
    said = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
    if left_out and too_long == "refuse":
        todo = "set data.too_long=drop to leave them out, or train a policy with a longer context"
        raise UserError(f"too long for the policy's context of {limit} tokens", said, todo)
    if not problems or (data.validation and not validation):
        raise UserError(f"no prompt fits into the policy's context of {limit} tokens", said, "give shorter problems")
    return replace(data, problems=problems, validation=validation, demonstrations=demonstrations, left_out=left_out)


def check_pool(groups: Sequence[RolloutGroup], policy: Any) -> None:
    """UserError if a rollout of a pool, its prompt included, is longer than the context of `policy` (a LoadedPolicy)."""
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    lengths = [len(r.prompt_ids) + len(r.token_ids) for group in groups for r in group.rollouts]
    if limit is not None and max(lengths) > limit:
        many = f"{sum(length > limit for length in lengths)} solutions"
        raise UserError(f"too long for the policy's context of {limit} tokens", many, "take them out of the pool")


def _short(text: str, limit: int) -> bool:
    """True if the text cannot be too long: no tokenizer makes more tokens of it than it has bytes."""
    return len(text.encode("utf-8", "surrogatepass")) + _TEMPLATE_BYTES < limit


def _kept(items: Iterable[T], keep: Callable[[T], bool]) -> tuple[T, ...]:
    return tuple(item for item in items if keep(item))
