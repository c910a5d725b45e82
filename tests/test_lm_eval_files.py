"""What `repirl eval --out` leaves for readers of lm-eval's files, read by lm-eval's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repirl.cli import main as cli
from repirl.tasks.benchmarks import load_benchmark

WORDS = ["--limit", "3", "--samples", "2", "--max-new-tokens", "8", "--out", "kept"]


@pytest.fixture(scope="module")
def kept(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    words = [*WORDS[:-1], str(folder / "kept"), "--policy", str(policy_folder), "--benchmark", "arith"]
    assert cli.run(["eval", *words, "--json"]) == 0
    return folder / "kept"


def samples(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (kept / "samples_arith.jsonl").read_text(encoding="utf-8").splitlines()]


def test_samples_say_what_was_asked_and_answered(kept: Path) -> None:
    problems = load_benchmark("arith").problems[:3]
    found = samples(kept)
    assert [(one["filter"], one["doc_id"]) for one in found] == [(part, i) for part in ("greedy", "sampled") for i in range(3)]
    for one in found:
        problem = problems[one["doc_id"]]
        assert one["arguments"]["gen_args_0"]["arg_0"] == problem.prompt
        assert (one["target"], one["doc"]["id"]) == (problem.answer, problem.id)
        assert len(one["resps"][0]) == (1 if one["filter"] == "greedy" else 2)
        assert one["acc"] == sum(outcome == "correct" for outcome in one["outcomes"]) / len(one["outcomes"])


def test_a_line_has_what_lm_eval_itself_writes(kept: Path, tmp_path: Path) -> None:
    """The same sample, through lm-eval's own writer of `--log_samples` files, comes out as it went in."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.utils import hash_string

    tracker = EvaluationTracker(output_path=str(tmp_path))
    tracker.general_config_tracker.model_name_sanitized = "model"
    tracker.date_id = "now"
    ours = samples(kept)
    given = [
        {**one, "arguments": [tuple(one["arguments"]["gen_args_0"].values())], "resps": [list(one["resps"][0])]} for one in ours
    ]
    tracker.save_results_samples("arith", given)  # type: ignore[arg-type]
    (file,) = (tmp_path / "model").glob("samples_arith_*.jsonl")
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == ours
    assert ours[0]["prompt_hash"] == hash_string(ours[0]["arguments"]["gen_args_0"]["arg_0"])


def test_lm_evals_table_and_wandb_reader_take_the_results(kept: Path) -> None:
    from lm_eval.loggers.wandb_logger import WandbLogger
    from lm_eval.utils import make_table

    found = json.loads((kept / "results.json").read_text(encoding="utf-8"))
    table = make_table(found)
    for metric in ("greedy", "avg@2", "pass@2"):
        assert f"|{metric}" in table.replace(" ", "")
    assert found["results"]["arith"]["avg@2,sampled"] == found["intervals"]["arith"]["avg@2"]["value"]
    assert found["n-samples"]["arith"] == {"original": 240, "effective": 3}
    reader = WandbLogger.__new__(WandbLogger)
    reader.post_init(found)
    summary, numbers = reader._sanitize_results_dict()
    assert summary == {"arith/alias": "arith"}
    assert numbers["arith/greedy,greedy"] == found["intervals"]["arith"]["greedy"]["value"]
    # In memory lm-eval has prompts as pairs; its files, and ours, have them by name.
    lines = [{**one, "arguments": [[*one["arguments"]["gen_args_0"].values()]]} for one in samples(kept)]
    frame = reader._generate_dataset(lines, found["configs"]["arith"])
    assert list(frame["data"]) == [one["arguments"][0][0] for one in lines]
    assert list(frame["acc"]) == [one["acc"] for one in lines]


def test_the_files_are_the_same_again_and_gather_benchmarks(
    kept: Path, policy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in kept.iterdir() if path.name.startswith(("results", "samples"))}
    words = [*WORDS[:-1], str(kept), "--policy", str(policy_folder)]
    assert cli.run(["eval", *words, "--benchmark", "arith"]) == 0
    assert {name: (kept / name).read_bytes() for name in before} == before
    assert cli.run(["eval", *words, "--benchmark", "arith_long"]) == 0
    found = json.loads((kept / "results.json").read_text(encoding="utf-8"))
    assert found["results"].keys() == found["configs"].keys() == {"arith", "arith_long"}
    (kept / "results.json").write_text("[]")
    capsys.readouterr()
    assert cli.run(["eval", *words, "--benchmark", "arith"]) == 2
    assert "is no result of an evaluation" in capsys.readouterr().err
