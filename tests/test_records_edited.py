"""Records that somebody edited: what the index notices, what is refused even so, and what must go on working."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_records import edit, make_judgement, make_record, make_report

from repirl import paths
from repirl.errors import LONGEST_MESSAGE, UserError
from repirl.records import index, store
from repirl.records.store import StoredRun
from repirl.reporting.leaderboard import build_board, build_pages
from repirl.types import Budget, Report

Edit = Callable[[dict[str, Any]], Any]


def put(*keys: Any, to: Any) -> Edit:
    """An edit that puts a value at a path of keys."""

    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = to

    return change


def renamed(raw: dict[str, Any]) -> None:
    metrics = raw["evaluations"][0]["metrics"]
    metrics["solved"] = metrics.pop("greedy")


def changed(stored: StoredRun, change: Edit) -> None:
    """Edit the record, with a digest that fits; the index stays as it was."""
    raw = json.loads(stored.file.read_text())
    change(raw)
    stored.file.write_text(json.dumps(raw | {"digest": store.record_digest(raw)}))


def make_report_with(protocol: dict[str, Any]) -> Report:
    return replace(make_report(), protocol=protocol)


def stored_run(root: Path) -> StoredRun:
    return store.write(
        make_record(budget=Budget(generated_tokens=900, wall_s=1.5)), [make_report()], [make_judgement()], root=root
    )


# An editor who makes the digest inside the record anew is found by the index.
PLAUSIBLE: dict[str, Edit] = {
    "budget": put("budget", "generated_tokens", to=9),
    "seconds": put("budget", "wall_s", to=0.1),
    "kind": put("kind", to="null"),
    "dirty": put("dirty", to=False),
    "commit": put("commit", to="0" * 40),
    "method": put("method", to="ppo"),
    "protocol": put("evaluations", 0, "protocol", "sampled", "temperature", to=0.5),
    "card": put("evaluations", 0, "card_digest", to="e" * 64),
    "data": put("evaluations", 0, "data_digest", to="e" * 64),
    "by_level": put("evaluations", 0, "by_level", "greedy", "1", to=0.5),
    "diagnostics": put("diagnostics", "entropy", to=0.1),
    "interval": put("evaluations", 0, "metrics", "greedy", "low", to=0.9),
    "judged": put("judgements", 0, "headline", "high", to=99.0),
}


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_an_edit_with_a_digest_that_fits_is_found_by_the_index(tmp_path: Path, name: str) -> None:
    stored = stored_run(tmp_path)
    changed(stored, PLAUSIBLE[name])
    with pytest.raises(UserError, match=r"changed after it was listed in SHA256SUMS.*record\.json.*restore it"):
        store.find("trial", root=tmp_path)
    index.accept(tmp_path / "trial")
    assert len(store.find("trial", root=tmp_path)) == 1


# And these are no record, whatever the index says.
IMPOSSIBLE: dict[str, tuple[Edit, str]] = {
    "negative tokens": (put("budget", "generated_tokens", to=-1), "a budget is what was spent"),
    "negative seconds": (put("budget", "wall_s", to=-5), "a budget is what was spent"),
    "negative seconds of an evaluation": (put("evaluations", 0, "budget", "wall_s", to=-5.0), "a budget is what was spent"),
    "too many tokens": (put("budget", "generated_tokens", to=2**60), "a budget is what was spent"),
    "tokens without end": (put("budget", "generated_tokens", to=10**400), "budget.generated_tokens: an integer of 1329 bits"),
    "a setting without end": (put("config", "lr", to=10**400), "config.lr: an integer of 1329 bits"),
    "a metric without samples": (put("evaluations", 0, "metrics", "accuracy", to={"value": 0.999}), "metric without samples"),
    "a renamed metric": (renamed, "solved: a metric without samples"),
    "levels of no metric": (put("evaluations", 0, "by_level", "easy", to={"1": 1.0}), "easy: a metric without samples"),
    "an unknown metric": (put("evaluations", 0, "metrics", "mean@2", to={"value": 0.0}), "metric without samples"),
    "a metric above 1": (put("evaluations", 0, "metrics", "greedy", to={"value": 1.5}), "not within 0 and 1"),
    "a level above 1": (put("evaluations", 0, "by_level", "greedy", "1", to=1.5), "less than or equal to 1"),
    "swapped ends": (put("evaluations", 0, "metrics", "greedy", to={"value": 0.5, "low": 0.9, "high": 0.1}), "swapped"),
    "a value outside": (put("evaluations", 0, "metrics", "greedy", to={"value": 0.5, "low": 0.6, "high": 0.9}), "outside"),
    "half an interval": (put("evaluations", 0, "metrics", "greedy", to={"value": 0.5, "low": 0.4}), "half an interval"),
    "a headline above 100": (put("judgements", 0, "headline", "value", to=101.0), "not within 0 and 100"),
    "a negative count": (put("judgements", 0, "num_solutions", to=-2), "greater than or equal to 0"),
    "another seed": (put("seed", to=3), "run_id is not one of rloo-arith-s3"),
    "a negative seed": (put("seed", to=-1), "greater than or equal to 0"),
    "another label": (put("label", to="ppo"), "run_id is not one of ppo-arith-s0"),
    "another stage": (put("stage", to="code"), "run_id is not one of rloo-code-s0"),
    "no cores": (put("hardware", "cores", to=0), "greater than 0"),
    "a newer schema": (put("schema_version", to=5), "schema 5 is newer than this version of repirl, which knows 4"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_refused_whatever_the_index_says(tmp_path: Path, name: str) -> None:
    change, complaint = IMPOSSIBLE[name]
    stored = stored_run(tmp_path)
    raw = json.loads(stored.file.read_text())
    change(raw)
    edit(stored.folder, **raw)
    with pytest.raises(UserError) as caught:
        store.find("trial", root=tmp_path)
    assert complaint in str(caught.value)
    assert "record.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"schema_version": 2, "seed": NaN}', "9" * 5000, '{"schema_version": null}', "[]", '"x"']
)
def test_what_is_no_record_at_all(tmp_path: Path, text: str) -> None:
    stored = stored_run(tmp_path)
    stored.file.write_text(text)
    index.accept(tmp_path / "trial")
    with pytest.raises(UserError, match=r"malformed record.*record\.json"):
        store.find("trial", root=tmp_path)


def test_added_and_missing_records_are_noticed(tmp_path: Path) -> None:
    first = stored_run(tmp_path)
    second = store.write(make_record(seed=1), [make_report()], root=tmp_path)
    sums = subprocess.run(["sha256sum", "-c", index.INDEX_FILE], cwd=tmp_path / "trial", capture_output=True, text=True)
    assert sums.stdout.splitlines() == ["rloo-arith-s0/record.json: OK", "rloo-arith-s1/record.json: OK"]
    shutil.move(second.folder, tmp_path / "aside")
    assert [run.record.seed for run in store.find("trial", root=tmp_path)] == [0]  # it can be made again
    with pytest.raises(UserError, match=r"listed in SHA256SUMS is not there.*rloo-arith-s1"):
        build_board("trial", results=tmp_path)
    assert index.accept(tmp_path / "trial") == index.Changes(added=(), changed=(), gone=("rloo-arith-s1",))
    assert len(build_board("trial", results=tmp_path).rows) == 1
    shutil.move(tmp_path / "aside", second.folder)
    with pytest.raises(UserError, match=r"not listed in its suite's SHA256SUMS.*rloo-arith-s1"):
        store.find("trial", root=tmp_path)
    assert index.accept(tmp_path / "trial").added == ("rloo-arith-s1",)
    (tmp_path / "trial" / index.INDEX_FILE).unlink()
    with pytest.raises(UserError, match="not listed"):
        store.load(first.folder)
    (tmp_path / "trial" / index.INDEX_FILE).write_text("hello\n")
    with pytest.raises(UserError, match=r"malformed line of an index.*SHA256SUMS:1"):
        store.find("trial", root=tmp_path)


def test_a_write_that_fails_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = stored_run(tmp_path)
    before = (tmp_path / "trial" / index.INDEX_FILE).read_bytes()

    def refuses(source: Path, target: Path) -> None:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuses)
        with pytest.raises(OSError, match="no"):
            store.write(make_record(seed=1), [make_report()], root=tmp_path)
    assert (tmp_path / "trial" / index.INDEX_FILE).read_bytes() == before
    # What a killed process left is cleared away by the next.
    (tmp_path / "trial" / ".tmp-rloo-arith-s9").mkdir()
    store.write(make_record(seed=1), [make_report()], root=tmp_path)
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == [
        index.INDEX_FILE,
        stored.folder.name,
        "rloo-arith-s1",
    ]


def test_a_run_evaluated_with_the_seed_of_another_is_refused(tmp_path: Path) -> None:
    report = make_report()
    for seed, told in ((0, 5), (1, 6)):
        protocol = {**report.protocol, "seed": told}
        store.write(make_record(seed=seed), [make_report_with(protocol)], root=tmp_path)
    assert len(build_board("trial", results=tmp_path).rows) == 1
    store.write(make_record(seed=2), [make_report_with({**report.protocol, "seed": 5})], root=tmp_path)
    with pytest.raises(UserError, match=r"seeds of two records do not fit.*rloo-arith-s0, rloo-arith-s2"):
        build_board("trial", results=tmp_path)


def test_results_may_be_a_link(tmp_path: Path) -> None:
    real, seen = tmp_path / "disk" / "kept", tmp_path / "project"
    stored_run(real)
    seen.mkdir()
    (seen / "results").symlink_to(real)
    pages = build_pages(results=seen / "results")
    assert pages.folder == seen / "leaderboard"
    assert "../results/trial/rloo-arith-s0/record.json" in pages.files["trial.md"]
    # A suite that is a link, too, under its own name.
    (seen / "more").mkdir()
    (real / "trial").rename(tmp_path / "elsewhere")
    (seen / "more" / "trial").symlink_to(tmp_path / "elsewhere")
    assert len(store.find("trial", root=seen / "more")) == 1


def test_committed_records_are_in_the_index() -> None:
    for suite in store.suites_with_records(root=paths.CHECKOUT_DIR / "results"):
        done = subprocess.run(["git", "check-ignore", "-q", f"results/{suite}"], cwd=paths.CHECKOUT_DIR)
        if done.returncode:
            index.check_complete(paths.CHECKOUT_DIR / "results" / suite)
            store.find(suite, root=paths.CHECKOUT_DIR / "results")
