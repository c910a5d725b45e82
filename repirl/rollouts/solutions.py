"""Given solutions in steps, as the rollouts that a policy would have written: to fit a PRM to their labels, or to judge one by
them (docs/design.md rule 4)."""

from __future__ import annotations

from typing import Any

import numpy as np

from repirl.engines.sampling import decode
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Problem, Rollout, RolloutGroup, Verdict


def solution_group(
    solution: LabelledSolution, tokenizer: Any, segmentation: StepSegmentation, *, chat: bool, suffix: str | None
) -> RolloutGroup:
    """The solution as a group of one rollout, without log-probabilities (NaN); a finished one ends with EOS.

    Its steps are joined with the separator. `suffix` follows the problem's text; None: a newline where a plain template would
    glue problem and solution together. An embedded problem is a whole prompt and takes none.
    """
    embedded = bool(solution.source)
    prompt = solution.problem
    if suffix is not None and not embedded:
        prompt += suffix
    elif not chat and not prompt[-1].isspace():
        prompt += "\n"
    prompt_ids = encode_prompt(tokenizer, prompt, chat=chat)
    text = segmentation.separator.join(_one_step(step, segmentation.separator) for step in solution.steps)
    with_eos = encode_solution(tokenizer, prompt_ids, text).response_ids
    ids = np.array(with_eos[:-1], dtype=np.int64)
    rollout = Rollout(
        problem_id=solution.id,
        sample_index=0,
        prompt_ids=prompt_ids,
        token_ids=np.array(with_eos, dtype=np.int64) if solution.finished else ids,
        logprobs=np.full(len(ids) + solution.finished, np.nan, dtype=np.float32),
        text=decode(tokenizer, ids),
        finish_reason="stop" if solution.finished else "length",
        temperature=1.0,
    )
    family = arith.FAMILY if embedded else solution.subset
    problem = Problem(solution.id, family, prompt, grader="math", source=solution.source)
    return RolloutGroup(problem, (rollout,), (Verdict("ungraded", "a labelled solution"),))


def _one_step(step: str, separator: str) -> str:
    """The step without the separator inside it."""
    step = step.lstrip("\n").rstrip()
    inner = "\n" if separator != "\n" and "\n" in separator else " "
    while separator in step:
        step = step.replace(separator, inner)
    return step
