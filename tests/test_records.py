"""Run records: what they refuse, what they keep, what they never do twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from repirl import paths
from repirl.errors import UserError
from repirl.evals.judging import RewardOnSet, SetReport, Shortcuts
from repirl.evals.prm_quality import first_error_quality
from repirl.evals.thresholds import UsedThreshold
from repirl.records import index, judged_texts, provenance, rows, store
from repirl.records.build import new_record
from repirl.records.measured import Counts
from repirl.records.schema import BasePolicy, ParentStage, RunRecord, digest_without_seed, is_machine_path, run_key
from repirl.tasks.step_labels import LabelledSolution, solutions_digest
from repirl.types import Budget, Interval, JudgedRow, Report, SampleRow


def make_report(benchmark: str = "arith", text: str = "1+1\u2028=2\n\\boxed{2} \ud800") -> Report:
    greedy = (
        SampleRow("p1", 0, "correct", "", "2", 5, text, level=1),
        SampleRow("p2", 0, "ungraded", "timeout", None, 9, "?", level=2),
    )
    sampled = tuple(SampleRow(p, i, "wrong", "", "3", 4, "x") for p in ("p1", "p2") for i in range(2))
    zero = {"correct": 0, "wrong": 0, "truncated": 0, "ungraded": 0}
    return Report(
        benchmark=benchmark,
        card_digest="c" * 64,
        data_digest="d" * 64,
        protocol={"greedy": {"max_new_tokens": 16}, "sampled": {"n": 2, "temperature": 1.0}},
        metrics={"greedy": Interval(1.0, 1.0, 1.0), "avg@2": Interval(0.0, None, None)},
        counts={
            "greedy": zero | {"correct": 1, "ungraded": 1, "total": 2},
            "sampled": zero | {"wrong": 4, "total": 4},
        },
        samples={"greedy": greedy, "sampled": sampled},
        by_level={"greedy": {"1": 1.0}},
        budget=Budget(rollouts=6, generated_tokens=30),
    )


def make_judgement(name: str = "processbench/gsm8k", **changes: Any) -> store.Judgement:
    """Two solutions: the first is judged rightly, the second (without scores) not."""
    judged = (
        JudgedRow("s1", "gsm8k", 0.5, (0.9, 0.1), (1.0, 0.0), 1, 1, "p1"),
        JudgedRow("s2", "gsm8k", 0.5, None, (1.0, None), -1, -2, "p2"),
    )
    found = RewardOnSet(
        reward="x",
        threshold=UsedThreshold("fixed:0.5", (0.5,), None, "a score equal to the threshold is right"),
        headline=Interval(0.0, 0.0, 100.0),
        subsets={"gsm8k": first_error_quality([1, -2], [1, -1])},
        intervals={"gsm8k": Interval(0.0, 0.0, 100.0)},
        similarity={},
        shortcuts=Shortcuts(0.25, None, 0.5, 0.25, None),
        selection=None,
        unscored={"too long": 1},
        scored_tokens=40,
        rows=judged,
    )
    report = SetReport(name, "first_error", "e" * 64, 2, {"left_out": 3}, found, ())
    given: dict[str, Any] = {"protocol": {"limit": 2, "threshold": "fixed:0.5", "seed": 0}, "reward": "fitted", "wall_s": 1.5}
    return store.Judgement(**{"report": report, "reward_digest": "a" * 64, **given, **changes})


def make_record(run_id: str | None = None, **changes: Any) -> RunRecord:
    given: dict[str, Any] = {
        "suite": "trial",
        "method": "rloo",
        "kind": "method",
        "recipe": "tiny",
        "seed": 0,
        "stage": "arith",
        "config": {"lr": 1e-4, "steps": 3, "seed": 0},
        "base_policy": BasePolicy(name="tiny", digest="ab"),
        "budget": Budget(policy_updates=3, wall_s=1.5),
        "diagnostics": {"entropy": 0.5, "auc": float("nan")},
        "command": "repirl bench trial",
    }
    given |= changes
    label = given.get("label") or given["method"]
    key = run_key(label, given["stage"], given["seed"])
    return new_record(**given, run_id=key if run_id is None else run_id)


def edit(folder: Path, **changes: Any) -> None:
    """Change a stored record so that only what is wrong in it can give it away: its digest is made anew."""
    path = folder / "record.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(raw | {"digest": store.record_digest(raw)}))
    index.accept(folder.parent)


def test_round_trip(tmp_path: Path) -> None:
    report = make_report()
    stored = store.write(make_record(), [report, replace(report, protocol={"limit": 1})], root=tmp_path)
    (found,) = store.find("trial", root=tmp_path)
    assert found.record == stored.record
    assert found.file == tmp_path / "trial" / "rloo-arith-s0" / "record.json"
    first, second = found.record.evaluations
    assert first.samples_file != second.samples_file
    assert found.samples(first) == dict(report.samples)
    assert first.metrics["greedy"] == Interval(1.0, 1.0, 1.0)
    assert first.budget == report.budget
    assert found.record.diagnostics == {"entropy": 0.5, "auc": None}
    assert first.samples_sha256 == hashlib.sha256((found.folder / first.samples_file).read_bytes()).hexdigest()
    assert store.suites_with_records(root=tmp_path) == ["trial"]
    assert store.find("nothing", root=tmp_path) == []


def test_judgements_and_the_curve_are_kept_with_their_rows(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 0, "validation_accuracy": 0.25}\n{"step": 1, "loss": null}\n')
    judgement = make_judgement()
    stored = store.write(make_record(), [make_report()], [judgement, make_judgement("arith")], curve=log, root=tmp_path)
    found = store.load(stored.folder)
    assert found.record == stored.record
    first, second = found.record.judgements
    assert (first.set, first.metric, first.headline) == ("processbench/gsm8k", "F1", Interval(0.0, 0.0, 100.0))
    assert (first.rows_file, second.rows_file) == ("judged-processbench-gsm8k.jsonl.gz", "judged-arith.jsonl.gz")
    assert found.judged(first) == judgement.report.judged.rows
    assert first.budget == Budget(scored_tokens=40, wall_s=1.5)
    assert (first.unscored, first.reward_digest, first.notes) == ({"too long": 1}, "a" * 64, {"left_out": 3})
    assert first.shortcuts["step_length_correlation"] is None
    assert found.curve() == ({"step": 0, "validation_accuracy": 0.25}, {"step": 1, "loss": None})
    assert set(found.record.row_files) == {path.name for path in found.folder.iterdir()} - {"record.json"}
    for name in found.record.row_files:
        data = (found.folder / name).read_bytes()
        (found.folder / name).write_bytes(data + b"x")
        with pytest.raises(UserError, match=rf"SHA-256.*{name}"):
            store.load(found.folder)
        (found.folder / name).write_bytes(data)


def test_what_a_later_stage_and_its_reward_are_made_of(tmp_path: Path) -> None:
    parents = [
        ParentStage(key="x-arith-s0", run_id="x-arith-s0-1", budget=Budget(rollouts=5), validation_budget=Budget(rollouts=2))
    ]
    record = make_record(
        label="x",
        stage="minicode after arith",
        after="arith",
        parents=parents,
        policy_digest="b" * 64,
        runtime={"device": "cpu"},
    )
    found = store.load(store.write(record, [], root=tmp_path).folder).record
    assert (found.label, found.method, found.key) == ("x", "rloo", "x-minicode-after-arith-s0")
    assert found.parents == tuple(parents)
    assert (found.policy_digest, found.reward_digest, found.runtime) == ("b" * 64, None, {"device": "cpu"})
    assert make_record().label == "rloo"
    with pytest.raises(ValidationError, match="after and parents disagree"):
        make_record(after="arith")
    with pytest.raises(ValidationError, match="after and parents disagree"):
        make_record(parents=parents)


@pytest.mark.parametrize("changes", [{"protocol": {"solver": "/srv/models/x"}}, {"report": "/srv/sets/x.jsonl"}])
def test_a_judgement_refuses_paths_of_one_machine(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "report" in changes:
        changes = {"report": replace(make_judgement().report, name=changes["report"])}
    with pytest.raises(ValidationError, match="path of one machine"):
        store.write(make_record(), [], [make_judgement(**changes)], root=tmp_path)


@pytest.mark.parametrize("field", ["seed", "budget", "created_utc", "diagnostics", "label"])
def test_any_change_of_a_stored_record_is_noticed(tmp_path: Path, field: str) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    assert stored.record.digest == store.record_digest(json.loads(stored.file.read_text()))
    other = store.write(
        make_record(seed=1, budget=Budget(rollouts=9), diagnostics={}, label="z").model_copy(
            update={"created_utc": datetime(2001, 1, 1, tzinfo=UTC)}
        ),
        [],
        root=tmp_path,
    )
    raw = json.loads(stored.file.read_text())
    stored.file.write_text(json.dumps(raw | {field: json.loads(other.file.read_text())[field]}))
    with pytest.raises(UserError, match=r"changed after it was written"):
        store.load(stored.folder)
    stored.file.write_text(json.dumps({name: value for name, value in raw.items() if name != "digest"} | {"digest": None}))
    with pytest.raises(UserError, match=r"changed after it was written"):
        store.load(stored.folder)
    # The layout of the JSON says nothing.
    stored.file.write_text(json.dumps(dict(reversed(raw.items()))))
    index.accept(stored.folder.parent)
    assert store.load(stored.folder).record == stored.record


SCHEMA_1 = Path(__file__).parent / "data" / "schema_1"
"""Five of the first records of all."""


def test_records_of_schema_1_are_read_and_what_they_did_not_know_is_unknown() -> None:
    runs = store.find("tiny-full", root=SCHEMA_1)
    assert len(runs) == 5
    keys = {run.record.key: run.record for run in runs}
    first, later = keys["rloo-arith-s0"], keys["repirl-minicode-after-arith-s2"]
    for record in (first, later):
        assert (record.schema_version, record.label) == (1, record.method)
        unknown = (record.runtime, record.validation_budget, record.policy_digest, record.curve, record.digest)
        assert set(unknown) == {None}
    assert (first.after, first.parents) == (None, ())
    assert (later.after, later.parents, later.base_policy.root_name) == ("arith", None, "tiny")


def test_a_column_with_a_default_may_be_missing_and_no_other() -> None:
    report = make_report(text="x")
    lines = gzip.decompress(rows.encode_samples(report.samples)).decode().splitlines()
    cells = [json.loads(line) for line in lines]

    def parsed(changed: list[dict[str, Any]]) -> dict[str, tuple[SampleRow, ...]]:
        return rows.parse_samples(gzip.compress("".join(json.dumps(one) + "\n" for one in changed).encode()))

    assert parsed(cells) == dict(report.samples)
    without = parsed([{k: v for k, v in one.items() if k not in ("level", "subject")} for one in cells])
    assert without["greedy"] == tuple(replace(row, level=None) for row in report.samples["greedy"])
    with pytest.raises(rows.MalformedRow, match="line 1: columns"):
        parsed([{k: v for k, v in one.items() if k != "outcome"} for one in cells])
    with pytest.raises(rows.MalformedRow, match="line 1: columns"):
        parsed([one | {"colour": 1} for one in cells])


def test_provenance_is_filled_in_and_names_no_machine() -> None:
    record = make_record(config={"data": paths.CHECKOUT_DIR / "x.jsonl", "other": "/home/someone/deep/file", "n": (1, 2)})
    assert record.config == {"data": "x.jsonl", "other": "<outside>/file", "n": [1, 2]}
    assert record.packages["torch"]
    assert record.hardware.cores >= 1
    assert record.created_utc.utcoffset() is not None
    text = record.model_dump_json()
    assert str(paths.CHECKOUT_DIR) not in text
    assert str(Path.home()) + "/" not in text


def test_command_line_is_what_one_types_in_the_checkout() -> None:
    near = paths.CHECKOUT_DIR.parent / "shared" / "data"
    argv = [
        "/usr/bin/repirl",
        "eval",
        "--data-dir",
        str(near),
        f"--policy={paths.CHECKOUT_DIR / 'runs' / 'a b'}",
        "-n",
        "3",
    ]
    assert provenance.command_line(argv) == "repirl eval --data-dir ../shared/data '--policy=runs/a b' -n 3"
    assert all(map(is_machine_path, ["/x/y", "~/x", "C:\\x"]))
    assert not any(map(is_machine_path, ["a/b", "/", "/no_think", "/ 2/\nx", "3 / 4", "~2", "Q: {x}"]))


@pytest.mark.parametrize("command", ["repirl eval --data-dir /srv/x", "repirl eval --data-dir=/srv/x", "repirl eval ~/x"])
def test_a_record_refuses_paths_of_one_machine(command: str) -> None:
    with pytest.raises(ValidationError, match="path of one machine"):
        make_record(command=command)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    before = stored.file.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        store.write(make_record(config={}), [make_report()], root=tmp_path)
    assert stored.file.read_bytes() == before


def test_a_benchmark_with_parameters_is_stored_under_a_plain_file_name(tmp_path: Path) -> None:
    report = replace(make_report(), benchmark="lm-eval:gsm8k@exact_match,flexible-extract")
    stored = store.write(make_record(), [report, replace(report, benchmark="a:b=1")], root=tmp_path)
    names = [evaluation.samples_file for evaluation in stored.record.evaluations]
    assert names == ["samples-lm-eval-gsm8k-exact_match-flexible-extract.jsonl.gz", "samples-a-b-1.jsonl.gz"]
    assert store.load(stored.folder).record == stored.record
    assert stored.record.evaluations[0].benchmark == report.benchmark


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.write(make_record(), [make_report()], root=tmp_path)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "trial").iterdir()] == [(index.INDEX_FILE, b"")]
    monkeypatch.undo()
    store.write(make_record(), [make_report()], root=tmp_path)


def test_same_samples_same_bytes() -> None:
    first, second = (rows.encode_samples(make_report().samples) for _ in range(2))
    assert first == second
    assert first[4:8] == b"\0\0\0\0"  # no time stamp
    assert len(gzip.decompress(first).decode().split("\n")) == 7


def test_counts_must_add_up() -> None:
    with pytest.raises(ValidationError, match="do not add up"):
        Counts(correct=1, wrong=1, truncated=0, ungraded=1, total=4)
    with pytest.raises(ValidationError, match="greater than or equal"):
        Counts(correct=-1, wrong=1, truncated=0, ungraded=0, total=0)


def test_counts_must_be_those_of_the_samples(tmp_path: Path) -> None:
    report = make_report()
    swapped = {"correct": 0, "wrong": 1, "truncated": 0, "ungraded": 1, "total": 2}
    lying = replace(report, counts={**report.counts, "greedy": swapped})
    with pytest.raises(ValueError, match="not those of its samples"):
        store.write(make_record(), [lying], root=tmp_path)
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"extra": 1}, "extra"),
        ({"schema_version": 5}, "schema 5 is newer"),
        ({"schema_version": "2"}, "schema_version"),
        ({"seed": 7}, "run_id is not one of rloo-arith-s7"),
        ({"schema_version": 1, "seed": 7}, "changed after it was written"),
        ({"config": {"lr": 9}}, "config_digest"),
        ({"commit_known": None}, "commit_known"),
        ({"commit": None, "commit_known": True, "dirty": False}, "disagree"),
        ({"created_utc": "2025-01-01T00:00:00"}, "time zone"),
        ({"budget": {"policy_updates": 3, "coffee": 1}}, "budget.coffee"),
        ({"diagnostics": {"auc": "high"}}, "diagnostics.auc"),
        ({"run_id": "rloo-arith-s0-2"}, "another folder"),
    ],
)
def test_malformed_record_is_one_line_that_names_the_file(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    edit(stored.folder, **changes)
    with pytest.raises(UserError) as caught:
        store.find("trial", root=tmp_path)
    assert str(stored.file) in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_count_edited_in_the_record_is_noticed(tmp_path: Path) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    raw = json.loads(stored.file.read_text())
    counts = raw["evaluations"][0]["counts"]["greedy"]
    counts["correct"], counts["ungraded"] = 2, 0
    edit(stored.folder, **raw)
    loaded = store.load(stored.folder)
    with pytest.raises(UserError, match="disagrees with the counts"):
        loaded.samples(loaded.record.evaluations[0])
    counts["correct"] = 3
    edit(stored.folder, **raw)
    with pytest.raises(UserError, match="do not add up"):
        store.load(stored.folder)


def test_cut_off_and_missing_files(tmp_path: Path) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    samples = stored.folder / stored.record.evaluations[0].samples_file
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"SHA-256.*samples-arith"):
        store.find("trial", root=tmp_path)
    samples.unlink()
    with pytest.raises(UserError, match=r"no readable file of rows.*samples-arith"):
        store.find("trial", root=tmp_path)
    samples.write_bytes(whole)
    text = stored.file.read_text()
    stored.file.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"malformed record.*record\.json"):
        store.find("trial", root=tmp_path)
    stored.file.unlink()
    with pytest.raises(UserError, match=r"no readable record.*record\.json"):
        store.find("trial", root=tmp_path)


def test_malformed_sample_row_has_its_line_number(tmp_path: Path) -> None:
    stored = store.write(make_record(), [make_report()], root=tmp_path)
    evaluation = stored.record.evaluations[0]
    path = stored.folder / evaluation.samples_file
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    lines[2] = lines[2].replace('"wrong"', '"maybe"')
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    forged = evaluation.model_copy(update={"samples_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(UserError, match="line 3"):
        stored.samples(forged)


def test_digests_leave_the_seed_out_and_nothing_else() -> None:
    assert digest_without_seed({"a": 1, "b": 2}) == digest_without_seed({"b": 2, "a": 1})
    assert digest_without_seed({"lr": 1, "seed": 0, "in": [{"seed": 1}]}) == digest_without_seed({"lr": 1, "in": [{}]})
    assert digest_without_seed({"lr": 1}) != digest_without_seed({"lr": 2})


def test_dirty_flag_is_about_code(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert provenance.git_commit(tmp_path) == provenance.Commit(None, None)
    git("init")
    assert provenance.git_commit(tmp_path) == provenance.Commit(None, None)
    for name in ("repirl", "results", "leaderboard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.git_commit(tmp_path)
    assert clean.sha is not None
    assert len(clean.sha) == 40
    assert clean.dirty is False
    for name in ("results", "leaderboard"):
        (tmp_path / name / "file").write_text("2")
        (tmp_path / name / "new").write_text("2")
    assert provenance.git_commit(tmp_path) == clean
    (tmp_path / "repirl" / "new").write_text("2")
    assert provenance.git_commit(tmp_path) == provenance.Commit(clean.sha, True)
    inside = tmp_path / "repirl"
    assert provenance.git_commit(inside) == provenance.Commit(None, None)


def test_texts_of_a_judged_set_are_kept_once_and_known_by_their_digest(tmp_path: Path) -> None:
    solutions = [LabelledSolution(f"s{i}", "1+1", ("2", str(i)), (1.0, None), cluster="p") for i in range(3)]
    digest = solutions_digest(solutions)
    assert judged_texts.read(digest, tmp_path) == {}
    judged_texts.keep(solutions, tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    judged_texts.keep(solutions, tmp_path)
    assert file.stat().st_mtime_ns == before
    assert judged_texts.read(digest, tmp_path) == {one.id: one for one in solutions}
    assert store.suites_with_records(root=tmp_path.parent) == []
    other = solutions_digest(solutions[:2])
    renamed = file.rename(file.with_name(f"judged-{other[:16]}.jsonl.gz"))
    with pytest.raises(UserError, match="not the judged set that records name"):
        judged_texts.read(other, tmp_path)
    renamed.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="malformed row of a judged set"):
        judged_texts.read(other, tmp_path)
