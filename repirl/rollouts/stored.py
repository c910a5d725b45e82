"""Graded rollouts in a file, to fit rewards on: one problem a line, with its demonstrations.

    {"id", "prompt", "demonstrations": [text, ...], "completions": [{"text", "reward": 1, 0 or null}, ...]}

is enough. What `write_groups` writes has also the problem's `family`, `source`, `level` and `answer`, and of each completion
`token_ids`, their `logprobs` under the policy that sampled them, `finish_reason` and `temperature`; of a program `score`, the
share of tests passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repirl.errors import UserError
from repirl.files import read_objects
from repirl.paths import replace_file
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.types import Demonstration, Problem, Rollout, RolloutGroup, Verdict

_OUTCOMES = {1: "correct", 0: "wrong", None: "ungraded"}


def write_groups(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Write the file, atomically."""
    text = "".join(json.dumps(_row(group), allow_nan=False) + "\n" for group in groups)
    replace_file(path, lambda file: file.write(text.encode()))


def read_groups(path: Path, tokenizer: Any, *, chat: bool = False) -> list[RolloutGroup]:
    """The groups of a file; texts without `token_ids` are encoded as finished solutions, their log-probabilities NaN.

    UserError, with line and field, for what is not of the form above, and for a file without rows.
    """
    groups = [_group(row, f"line {number} of {path.name}", path.stem, tokenizer, chat) for number, row in read_objects(path)]
    if not groups:
        raise UserError("no graded rollouts in the file", str(path), "give one problem a line, with its completions")
    return groups


def _row(group: RolloutGroup) -> dict[str, Any]:
    problem = group.problem
    known = {name: getattr(problem, name) for name in ("family", "answer", "level", "source")}
    completions = [
        {
            "text": rollout.text,
            "reward": None if verdict.outcome == "ungraded" else int(verdict.reward),
            "finish_reason": rollout.finish_reason,
            "temperature": rollout.temperature,
            "token_ids": rollout.token_ids.tolist(),
            "logprobs": [float(value) for value in rollout.logprobs],
            **({} if verdict.score is None else {"score": verdict.score}),
        }
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
    ]
    texts = [demo.text for demo in group.demonstrations]
    return {"id": problem.id, "prompt": problem.prompt, **known, "demonstrations": texts, "completions": completions}


def _group(row: dict[str, Any], where: str, family: str, tokenizer: Any, chat: bool) -> RolloutGroup:
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        raise UserError(f"{where} lacks the text field", "prompt")
    key = str(row.get("id") or where)
    texts = row.get("demonstrations") or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"`demonstrations` in {where} is not a list of texts", str(texts)[:60])
    completions = row.get("completions")
    if not isinstance(completions, list) or not completions:
        raise UserError(f"{where} lacks the field", "completions", 'give a list of {"text", "reward"}')
    prompt_ids = encode_prompt(tokenizer, prompt, chat=chat)
    pairs = [
        _completion(one, i, f"completion {i + 1} in {where}", key, prompt_ids, tokenizer) for i, one in enumerate(completions)
    ]
    level = row.get("level")
    problem = Problem(
        key,
        str(row.get("family") or family),
        prompt,
        "math",
        str(row["answer"]) if row.get("answer") is not None else None,
        level=level if isinstance(level, int) else None,
        source=str(row.get("source") or prompt),
    )
    demonstrations = tuple(Demonstration(key, text, "file") for text in texts)
    return RolloutGroup(problem, tuple(r for r, _ in pairs), tuple(v for _, v in pairs), demonstrations)


def _completion(
    one: Any, index: int, where: str, key: str, prompt_ids: tuple[int, ...], tokenizer: Any
) -> tuple[Rollout, Verdict]:
    if not isinstance(one, dict) or not isinstance(one.get("text"), str):
        raise UserError(f"{where} lacks the text field", "text")
    reward = one.get("reward", "")
    if isinstance(reward, bool) or reward not in (0, 1, None):
        raise UserError(f"`reward` of {where} is not 1, 0 or null", str(reward)[:60])
    ids = one.get("token_ids")
    if ids is None:
        ids = encode_solution(tokenizer, prompt_ids, one["text"]).response_ids
    elif not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < len(tokenizer) for i in ids):
        raise UserError(
            f"`token_ids` of {where} are not tokens of this policy", str(ids)[:60], "leave them out: the text is enough"
        )
    logprobs = one.get("logprobs")
    if logprobs is None:
        logprobs = [float("nan")] * len(ids)
    elif not isinstance(logprobs, list) or len(logprobs) != len(ids) or not all(type(x) in (int, float) for x in logprobs):
        raise UserError(f"`logprobs` of {where} are not one number for each token", str(logprobs)[:60])
    temperature = one.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        raise UserError(f"`temperature` of {where} is not a number above 0", str(temperature)[:60])
    score = one.get("score")
    if score is not None and not (type(score) in (int, float) and 0 <= score <= 1):
        raise UserError(f"`score` of {where} is not a share from 0 to 1", str(score)[:60])
    finish = one.get("finish_reason", "stop")
    rollout = Rollout(
        key,
        index,
        prompt_ids,
        np.array(ids, dtype=np.int64),
        np.array(logprobs, dtype=np.float32),
        one["text"],
        "length" if finish == "length" else "stop",
        float(temperature),
    )
    return rollout, Verdict(_OUTCOMES[reward], score=score)  # pyright: ignore[reportArgumentType]
