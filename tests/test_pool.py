"""The pool of graded samples: its file, what is sampled to fill it, and what too many failures of the grader do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from repirl.engines.base import Request, SamplingParams
from repirl.engines.scripted import ScriptedEngine, encode
from repirl.errors import GradingFault, UserError
from repirl.rollouts.collect import Collector, Decoding, OnProgress
from repirl.rollouts.pool import SamplePool, read_samples, samples_file
from repirl.types import Problem, Rollout, SampleRow, Verdict

# A file as `repirl eval --out` has always written it, ending in a line that an interruption cut.
STORED = (
    '{"evaluation": {"policy": "dd", "seed": 0}}\n'
    '{"part": "greedy", "wall_s": 0.25, "rows": [{"problem_id": "a", "sample_index": 0, "outcome": "correct", "reason": "", '
    '"extracted": "5", "num_tokens": 2, "text": "5", "level": 1, "subject": "s"}]}\n'
    '{"part": "sampled", "wall_s": 0.5, "rows": [{"problem_id": "a", "sample_index": 0, "outcome": "ungraded", "reason": '
    '"timeout", "extracted": null, "num_tokens": 2, "text": "6", "level": 1, "subject": "s"}]}\n'
    '{"part": "sampled", "wall_s": 0.5, "rows": [{"problem_id": "a", "sam'
)
FINGERPRINT = {"policy": "dd", "seed": 0}
PROBLEMS = [Problem(key, "hand", f"{key}?", "integer", "5", level=1, subject="s") for key in "ab"]
PARAMS = SamplingParams(20, stop=("Q:",), seed=3)


class CodePointTokenizer:
    """Gives the token ids that `ScriptedEngine` uses."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*encode(text)]}


class RecordingEngine(ScriptedEngine):
    """Remembers what it was asked for, call by call."""

    def __init__(self, texts: dict[str, Sequence[str]]) -> None:
        super().__init__(texts)
        self.calls: list[list[tuple[str, int, int]]] = []

    def generate(self, requests: Sequence[Request], *rest: Any) -> list[list[Rollout]]:
        self.calls.append([(request.problem_id, request.first_sample, request.num_samples) for request in requests])
        return super().generate(requests, *rest)


def is_five(problems: Sequence[Problem], texts: Sequence[str], reasons: Sequence[str]) -> list[Verdict]:
    return [
        Verdict("truncated") if reason == "length" else Verdict("correct" if text == "5" else "wrong", extracted=text)
        for text, reason in zip(texts, reasons, strict=True)
    ]


@dataclass(frozen=True)
class Part:
    name: str
    samples: int
    params: SamplingParams


@dataclass(frozen=True)
class Sampler:
    engine: ScriptedEngine
    grader: Any = is_five
    options: dict[str, Any] = field(default_factory=dict)


def sampler_of(engine: ScriptedEngine, grader: Any = is_five, **options: Any) -> Sampler:
    return Sampler(engine, grader, options)


def fill(
    pool: SamplePool, problems: list[Problem], parts: list[Part], sampler: Sampler, on_progress: OnProgress | None = None
) -> dict[str, tuple[SampleRow, ...]]:
    """Every part filled by a collector of its own; part -> rows."""
    for part in parts:
        decoding = Decoding(part.params, ungraded_limit=None)
        collector = Collector(CodePointTokenizer(), sampler.engine, sampler.grader, decoding)
        pool.fill(
            part.name, collector, problems, part.samples, part.params.seed, on_progress=on_progress, **sampler.options
        )
    return {part.name: tuple(row for p in problems for row in pool.rows(part.name, p.id)) for part in parts}


def stored(folder: Path) -> Path:
    path = samples_file(folder, "bench:x/y")
    assert path.name == "evaluation-bench-x-y.jsonl"
    path.write_text(STORED)
    return path


def test_a_file_of_earlier_days_is_continued(tmp_path: Path) -> None:
    path = stored(tmp_path)
    pool = SamplePool(tmp_path, "bench:x/y", FINGERPRINT)
    assert pool.wall_s == 0.75
    engine = RecordingEngine({"a": ["5", "7"], "b": ["5Q:6", "5"]})
    parts = [Part("greedy", 1, replace(PARAMS, temperature=0.0)), Part("sampled", 2, PARAMS)]
    samples = fill(pool, PROBLEMS, parts, sampler_of(engine))
    assert engine.calls == [[("b", 0, 1)], [("a", 1, 1), ("b", 0, 2)]]
    found = {part: [(r.problem_id, r.sample_index, r.outcome, r.text) for r in rows] for part, rows in samples.items()}
    assert found == {
        "greedy": [("a", 0, "correct", "5"), ("b", 0, "correct", "5")],
        # The first of `a` had not been graded; the text of `b` ends before the stop string.
        "sampled": [("a", 0, "wrong", "6"), ("a", 1, "wrong", "7"), ("b", 0, "correct", "5"), ("b", 1, "correct", "5")],
    }
    assert samples["sampled"][1] == SampleRow("a", 1, "wrong", "", "7", 2, "7", 1, "s")
    # What stood there stays as it was, without the cut line; what was added is read back.
    lines = path.read_text().splitlines()
    assert lines[:3] == STORED.splitlines()[:3]
    assert [json.loads(line)["part"] for line in lines[1:]] == ["greedy", "sampled", "greedy", "sampled", "sampled"]
    assert json.loads(lines[-1])["rows"][0] == asdict(samples["sampled"][1])
    assert read_samples(path).samples == samples
    assert read_samples(path).fingerprint == FINGERPRINT
    again = SamplePool(tmp_path, "bench:x/y", FINGERPRINT)
    assert again.wall_s == pool.wall_s > 0.75
    assert fill(again, PROBLEMS, parts, sampler_of(RecordingEngine({}))) == samples


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    with pytest.raises(UserError, match="holds samples of another policy, another seed"):
        SamplePool(tmp_path, "bench:x/y", {"policy": "ee", "seed": 1})
    assert path.read_text() == STORED
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"line 1 of .* is not of an evaluation"):
        read_samples(path)


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pool, engine = SamplePool(None, "bench", {}), RecordingEngine({"a": ["5"], "b": ["6"]})
    seen: list[tuple[int, int]] = []
    fill(pool, PROBLEMS, [Part("s", 3, PARAMS)], sampler_of(engine, chunk_rows=3), lambda *counts: seen.append(counts))
    assert engine.calls == [[("a", 0, 3)], [("b", 0, 3)]]
    assert seen == [(3, 6), (6, 6)]
    assert [row.outcome for row in pool.rows("s", "a")] == ["correct"] * 3
    assert list(tmp_path.iterdir()) == []


def test_cut_samples_are_truncated_and_kept_whole() -> None:
    engine = ScriptedEngine({"a": ["5" * 30], "b": ["5"]})
    rows = fill(SamplePool(None, "bench", {}), PROBLEMS, [Part("s", 1, PARAMS)], sampler_of(engine))["s"]
    assert [(row.outcome, row.num_tokens, row.text) for row in rows] == [("truncated", 20, "5" * 20), ("correct", 2, "5")]


def test_a_broken_grader_stops_the_filling_early_and_costs_no_samples(tmp_path: Path) -> None:
    def broken(problems: Sequence[Problem], texts: Sequence[str], reasons: Sequence[str]) -> list[Verdict]:
        return [Verdict("ungraded", "timeout")] * len(texts)

    engine, part = RecordingEngine({"a": ["5"], "b": ["5"]}), Part("s", 250, PARAMS)
    with pytest.raises(GradingFault, match="250 of 250 completions could not be graded"):
        fill(SamplePool(tmp_path, "bench", {}), PROBLEMS, [part], sampler_of(engine, broken, chunk_rows=100))
    assert engine.calls == [[("a", 0, 250)]]
    rows = fill(SamplePool(tmp_path, "bench", {}), PROBLEMS, [part], sampler_of(engine))["s"]
    assert engine.calls[1:] == [[("b", 0, 250)]]
    assert {row.outcome for row in rows} == {"correct"}
    # A share of few samples says little: what to make of them is for the caller to say.
    rows = fill(SamplePool(None, "bench", {}), PROBLEMS, [Part("s", 2, PARAMS)], sampler_of(engine, broken))["s"]
    assert {(row.outcome, row.reason) for row in rows} == {("ungraded", "timeout")}
