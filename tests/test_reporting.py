"""The leaderboard: what shares a row, what shares a column, what is compared, and that it never goes stale unseen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from rich.console import Console

from repirl import paths
from repirl.bench.suites import Contrast
from repirl.errors import UserError
from repirl.evals.attacks import Lift, summed_up
from repirl.evals.judged_sets import JudgedSet
from repirl.evals.judging import judge
from repirl.evals.metrics import problem_values
from repirl.evals.pools import GradedPool
from repirl.evals.scaling import Candidates, scaled_rows, scaling
from repirl.evals.searched import SearchPoint
from repirl.evals.step_scoring import ScoredSteps
from repirl.evals.thresholds import ThresholdRule
from repirl.methods.registry import methods
from repirl.records import index, store
from repirl.records.build import Attacked, PoolScaling, Searched, new_record
from repirl.records.schema import BasePolicy, ParentStage, run_key
from repirl.records.store import StoredRun
from repirl.reporting.board import Board, Column, Rank, Row
from repirl.reporting.collect import collect
from repirl.reporting.figures import of_board
from repirl.reporting.flat import to_csv, to_json_rows
from repirl.reporting.forest import of_stage
from repirl.reporting.leaderboard import LOCAL_SUITES, build_board, build_pages, stale_files, write_pages
from repirl.reporting.markdown import to_markdown
from repirl.reporting.plots import Figure, digest_in
from repirl.reporting.published import load_published, render_published
from repirl.reporting.terminal import to_terminal
from repirl.reporting.text import finding
from repirl.reporting.transitions import Bar, Bars
from repirl.stats import PairedDifference, clustered_interval, holm, paired_difference, problem_means
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import AttackedRow, Budget, Interval, Outcome, Report, SampleRow

Grid = Sequence[Sequence[Outcome]]
C: Outcome = "correct"
W: Outcome = "wrong"


def make_report(grid: Grid, benchmark: str = "arith", card: str = "card", **protocol: Any) -> Report:
    """`grid[p]`: outcomes of problem p; the first sample is also the greedy one."""
    n = len(grid[0])
    rows = tuple(
        SampleRow(f"p{p}", i, outcome, "", outcome, 5, "t", level=1)
        for p, row in enumerate(grid)
        for i, outcome in enumerate(row)
    )
    samples = {"greedy": tuple(row for row in rows if row.sample_index == 0), "sampled": rows}
    metrics = {
        name: Interval(float(np.nanmean(list(problem_values(name, samples[part]).values()))))
        for name, part in (("greedy", "greedy"), (f"avg@{n}", "sampled"))
    }
    counts = {part: store.count_outcomes(part_rows).model_dump() for part, part_rows in samples.items()}
    return Report(benchmark, card, "data", {"n": n, **protocol}, metrics, counts, samples)


def write(root: Path, method: str, seed: int, grid: Grid, **changes: Any) -> StoredRun:
    given: dict[str, Any] = {
        "suite": "trial",
        "method": method,
        "kind": {"oracle": "reference", "random": "null", "length": "null"}.get(method, "method"),
        "recipe": "tiny",
        "seed": seed,
        "stage": "arith",
        "config": {"seed": seed, "lr": 1e-4},
        "base_policy": BasePolicy(name="tiny", digest="ab"),
        "budget": Budget(policy_updates=10, generated_tokens=1000 + seed),
        "command": "repirl bench trial",
    }
    reports = changes.pop("report", [make_report(grid)])
    beside = {name: changes.pop(name) for name in ("judgements", "scalings", "searches", "attacks", "curve") if name in changes}
    given |= changes
    run_id = run_key(given.get("label", method), given["stage"], seed) + given.pop("again", "")
    reports = [reports] if isinstance(reports, Report) else reports
    return store.write(new_record(run_id=run_id, **given), reports, root=root, **beside)


CONTRASTS = (
    Contrast(better="oracle", worse="rloo", benchmark="arith", metric="avg@2", says="room for process rewards here"),
    Contrast(better="repirl", worse="rloo"),
)


def board_of(root: Path, suite: str = "trial") -> Board:
    return collect(suite, store.find(suite, root=root), CONTRASTS, "rloo")


def edit(stored: StoredRun, raw: dict[str, Any]) -> None:
    """Change a stored record, with a digest that fits."""
    stored.file.write_text(json.dumps(raw | {"digest": store.record_digest(raw)}))
    index.accept(stored.folder.parent)


def row_of(board: Board, method: str, stage: str = "arith") -> Row:
    (row,) = [row for row in board.rows if (row.label, row.stage) == (method, stage)]
    return row


def column_of(board: Board, metric: str, benchmark: str = "arith") -> Column:
    (column,) = [column for column in board.columns if (column.metric, column.benchmark) == (metric, benchmark)]
    return column


GOOD: Grid = [[C, C], [C, C], [W, C], [C, W], [W, W]]
POOR: Grid = [[W, C], [C, W], [W, W], [W, W], [W, W]]


def full_suite(root: Path) -> Board:
    """Three seeds of two methods, an oracle, and one seed of a null."""
    for seed in range(3):
        write(root, "rloo", seed, POOR)
        write(root, "repirl", seed, GOOD)
        write(root, "oracle", seed, [[C, C]] * 5)
    write(root, "random", 0, [[W, W]] * 5)
    return board_of(root)


def test_value_is_the_mean_over_seeds_and_the_interval_comes_from_the_samples(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    write(tmp_path, "rloo", 1, POOR)
    row = row_of(board_of(tmp_path), "rloo")
    assert row.seeds == (0, 1)
    board = board_of(tmp_path)
    cell = row.cells[column_of(board, "avg@2")]
    assert cell.interval.value == pytest.approx((0.6 + 0.2) / 2)
    assert cell.interval.low is not None
    assert cell.interval.high is not None
    assert 0 <= cell.interval.low < 0.4 < cell.interval.high <= 1
    assert row.cost.training["generated_tokens"] == 1000.5
    assert row.cost.training["policy_updates"] == 10
    assert [column.metric for column in board.columns] == ["greedy", "avg@2"]


def test_one_seed_agrees_with_the_clustered_interval(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    board = board_of(tmp_path)
    values = [[outcome == C for outcome in row] for row in GOOD]
    assert row_of(board, "rloo").cells[column_of(board, "avg@2")].interval == clustered_interval(values)


def test_difference_is_paired_on_shared_seeds(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path, "rloo", seed, POOR)
    for seed in (1, 2, 9):
        write(tmp_path, "repirl", seed, GOOD)
    board = board_of(tmp_path)
    versus = row_of(board, "repirl").cells[column_of(board, "avg@2")].versus_baseline
    good, poor = (problem_means([[o == C for o in row] for row in grid]) for grid in (GOOD, POOR))
    assert versus == paired_difference(np.tile(good, (2, 1)), np.tile(poor, (2, 1)))
    assert versus is not None
    assert versus.interval.value == pytest.approx(0.4)
    assert versus.seeds == 2
    assert row_of(board, "rloo").cells[column_of(board, "avg@2")].versus_baseline is None


def test_no_difference_across_stages_or_without_shared_seeds_or_problems(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, POOR)
    write(tmp_path, "repirl", 0, GOOD, stage="minicode after arith")
    write(tmp_path, "bc", 1, GOOD)
    write(tmp_path, "length", 0, GOOD[:4])
    board = board_of(tmp_path)
    assert board.stages == ("arith", "minicode after arith")
    assert all(cell.versus_baseline is None for row in board.rows for cell in row.cells.values())


def test_ranks_need_three_seeds_and_references_have_none(tmp_path: Path) -> None:
    board = full_suite(tmp_path)
    column = column_of(board, "avg@2")
    ranks = {row.method: row.cells[column].rank for row in board.rows}
    assert ranks == {"repirl": Rank(1, 1, 2), "rloo": Rank(2, 2, 2), "oracle": None, "random": None}
    assert {row.method: row.kind for row in board.rows} == {
        "repirl": "method",
        "rloo": "method",
        "oracle": "reference",
        "random": "null",
    }
    assert [row.method for row in board.rows] == ["oracle", "repirl", "rloo", "random"]


def test_equal_values_share_a_rank(tmp_path: Path) -> None:
    for seed in range(3):
        for method in ("a", "b"):
            write(tmp_path, method, seed, GOOD)
        write(tmp_path, "c", seed, POOR)
    board = board_of(tmp_path)
    column = column_of(board, "avg@2")
    found = {row.method: row.cells[column].rank for row in board.rows}
    assert found == {"a": Rank(1, 2, 3), "b": Rank(1, 2, 3), "c": Rank(3, 3, 3)}
    # A benchmark is read by one column: no other has places.
    assert {row.cells[column_of(board, "greedy")].rank for row in board.rows} == {None}


@pytest.mark.parametrize("changes", [{"card": "other"}, {"temperature": 0.7}])
def test_different_digests_never_share_a_column(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    write(tmp_path, "bc", 0, GOOD, report=make_report(GOOD, **changes))
    board = board_of(tmp_path)
    assert len(board.columns) == 4
    assert all(len(row.cells) == 2 for row in board.rows)
    assert row_of(board, "rloo").cells.keys().isdisjoint(row_of(board, "bc").cells)
    text = to_markdown(board, tmp_path)
    assert "arith greedy (1)" in text
    assert "arith greedy (2)" in text


def test_a_protocol_that_differs_in_its_seed_only_is_one_column(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "rloo", seed, GOOD, report=make_report(GOOD, seed=seed))
    board = board_of(tmp_path)
    assert len(board.columns) == 2
    assert len(board.rows) == 1


def test_other_settings_are_another_row_not_another_seed(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    write(tmp_path, "rloo", 1, GOOD, config={"seed": 1, "lr": 9.0})
    write(tmp_path, "repirl", 0, GOOD, recipe="other")
    board = board_of(tmp_path)
    rows = [row for row in board.rows if row.method == "rloo"]
    assert [row.seeds for row in sorted(rows, key=lambda row: row.seeds)] == [(0,), (1,)]
    text = to_markdown(board, tmp_path)
    for row in rows:
        assert f"rloo `{row.config_digest[:6]}`" in text
    # Which of the two would be the reference? Neither.
    assert all(cell.versus_baseline is None for row in board.rows for cell in row.cells.values())


def test_a_setting_that_a_records_version_did_not_know_makes_no_other_row(tmp_path: Path) -> None:
    """It has its default there; another value of it is another row."""
    known = methods()["rloo"].recipe("tiny").model_dump(mode="json")
    older = {**known, "data": {name: value for name, value in known["data"].items() if name != "demos_share"}}
    other = {**known, "data": {**known["data"], "demos_share": 0.25}}
    for seed, config in enumerate((older, known, other)):
        write(tmp_path, "rloo", seed, GOOD, config=config)
    assert sorted(row.seeds for row in board_of(tmp_path).rows) == [(0, 1), (2,)]


def test_the_later_of_two_equal_runs_is_shown_and_the_other_named(tmp_path: Path) -> None:
    first = write(tmp_path, "rloo", 0, POOR, again="-x")
    raw = json.loads(first.file.read_text()) | {"created_utc": "2001-01-01T00:00:00Z"}
    edit(first, raw)
    write(tmp_path, "rloo", 0, GOOD, again="-a")
    board = board_of(tmp_path)
    assert row_of(board, "rloo").cells[column_of(board, "avg@2")].interval.value == pytest.approx(0.6)
    assert [run.record.run_id for run in board.superseded] == ["rloo-arith-s0-x"]
    assert "superseded" in to_markdown(board, tmp_path)


def test_ungraded_is_counted_and_left_out(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, [[C, "ungraded"], [W, C]])
    board = board_of(tmp_path)
    cell = row_of(board, "rloo").cells[column_of(board, "avg@2")]
    assert cell.interval.value == pytest.approx((1.0 + 0.5) / 2)
    assert (cell.ungraded, cell.total) == (1, 4)
    assert "rloo, arith avg@2: 1 of 4" in to_markdown(board, tmp_path)


def test_a_number_that_does_not_follow_from_its_samples_is_refused(tmp_path: Path) -> None:
    stored = write(tmp_path, "rloo", 0, GOOD)
    raw = json.loads(stored.file.read_text())
    raw["evaluations"][0]["metrics"]["avg@2"]["value"] = 0.9
    edit(stored, raw)
    with pytest.raises(UserError, match=r"avg@2 of arith does not follow .*rloo-arith-s0"):
        board_of(tmp_path)


def test_the_two_claims_are_printed(tmp_path: Path) -> None:
    board = full_suite(tmp_path)
    assert [(d.better.label, d.column.metric) for d in board.differences] == [
        ("oracle", "avg@2"),
        ("repirl", "greedy"),
        ("repirl", "avg@2"),
    ]
    page = to_markdown(board, tmp_path)
    assert "- **oracle is ahead of rloo** in arith avg@2: +0.800 [" in page
    assert "(room for process rewards here)" in page
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_terminal(board))
    shown = console.export_text()
    assert "- oracle is ahead of rloo in arith avg@2: +0.800" in shown
    assert "- repirl is ahead of rloo in arith avg@2: +0.400" in shown
    assert "random (null)" in shown


def test_a_narrow_terminal_cuts_no_number(tmp_path: Path) -> None:
    for seed in range(5):
        for method in ("confidence", "repirl"):
            reports = [make_report(GOOD, name) for name in ("arith", "minicode")]
            given: dict[str, Any] = {"budget": Budget(generated_tokens=10**9, wall_s=10**5)}
            given |= {"diagnostics": {"best_step": 200.0, "best_validation_accuracy": 0.5}}
            write(tmp_path, method, seed, GOOD, report=reports, **given)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_terminal(board_of(tmp_path)))
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("(1-2 of 2)") == 4
    assert "1,000,000,000" in shown


def test_no_room_is_said_too(tmp_path: Path) -> None:
    for method in ("rloo", "oracle"):
        write(tmp_path, method, 0, GOOD)
    assert "+0.000 [+0.000, +0.000], p=1.000, 1 seed (no clear room" in to_markdown(board_of(tmp_path), tmp_path)


def test_every_markdown_cell_links_to_records_that_exist(tmp_path: Path) -> None:
    board = full_suite(tmp_path / "results")
    folder = tmp_path / "leaderboard"
    page = to_markdown(board, folder)
    links = [part.split(")")[0] for part in page.split("](")[1:]]
    anchors = {link[1:] for link in links if link.startswith("#")}
    files = [link for link in links if not link.startswith("#")]
    assert anchors == {f"row-{i}" for i in range(1, 5)}
    assert all(f'<a id="{anchor}"></a>' in page for anchor in anchors)
    assert len(files) == 10
    folder.mkdir()
    assert all((folder / link).is_file() for link in files)


def test_csv_and_json_rows(tmp_path: Path) -> None:
    board = full_suite(tmp_path / "results")
    lines = list(csv.DictReader(io.StringIO(to_csv(board, tmp_path / "leaderboard"))))
    rows = to_json_rows(board, tmp_path)
    assert len(lines) == len(rows) == 8
    line = next(line for line in lines if (line["method"], line["metric"]) == ("repirl", "avg@2"))
    row = next(row for row in rows if (row["method"], row["metric"]) == ("repirl", "avg@2"))
    assert float(line["value"]) == pytest.approx(row["value"])
    assert float(line["minus_baseline"]) == pytest.approx(0.4)
    assert (line["rank"], line["ranked"], line["seeds"], line["kind"]) == ("1", "2", "0 1 2", "method")
    assert (line["label"], line["baseline"], line["base_policy"], line["evaluation"]) == ("repirl", "rloo", "tiny", "policy")
    assert (row["baseline"], row["base_policy"], row["chosen_steps"]) == ("rloo", "tiny", None)
    assert row["minus_baseline"] == pytest.approx(0.4)
    assert row["seeds"] == [0, 1, 2]
    assert row["records"][0] == "results/trial/repirl-arith-s0/record.json"
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert row.keys() >= {"method", "benchmark", "metric", "value", "ci_low", "ci_high", "seeds", "budget", "records"}
    json.dumps(rows, allow_nan=False)


def test_pages_are_identical_and_staleness_is_seen(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "leaderboard"
    full_suite(results)
    first = build_pages(results=results, folder=folder)
    assert stale_files(first) == ["README.md", "trial-forest.svg", "trial.csv", "trial.md"]
    assert len(write_pages(first)) == 5  # these, and the page, which is not committed
    again = build_pages(results=results, folder=folder)
    assert again.files == first.files
    assert stale_files(again) == []
    assert write_pages(again) == []
    write(results, "bc", 0, GOOD)
    stale = stale_files(build_pages(results=results, folder=folder))
    assert stale == ["README.md", "trial-forest.svg", "trial.csv", "trial.md"]
    write_pages(build_pages(results=results, folder=folder))
    (folder / "gone.md").write_text("a suite whose records are no more")
    assert stale_files(build_pages(results=results, folder=folder)) == ["gone.md"]


def learning(folder: Path, *accuracies: float, **more: list[float]) -> Path:
    """A log of training: validation accuracy at updates 0, 1, 2, ..., and other metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": i, "validation_accuracy": value} | {name.replace("__", "/"): values[i] for name, values in more.items()}
        for i, value in enumerate(accuracies)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "log.jsonl"


def test_curves_are_pictures_that_go_stale_with_their_numbers(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "leaderboard"
    for seed in range(3):
        write(results, "rloo", seed, POOR, curve=learning(tmp_path / "a", 0.1, 0.2, 0.2 + seed / 10))
        write(results, "repirl", seed, GOOD, curve=learning(tmp_path / "b", 0.1, 0.3, 0.4))
    pages = build_pages(results=results, folder=folder)
    assert "trial-learning.svg" in stale_files(pages)
    assert "](trial-learning.svg)" in pages.files["trial.md"]
    write_pages(pages)
    assert stale_files(pages) == []
    shown = pages.figures["trial-learning.svg"]
    assert isinstance(shown, Figure)
    lines = {panel.title: {line.label: line for line in panel.series} for panel in shown.panels}
    assert lines.keys() == {"rloo", "repirl"}
    own = lines["rloo"]["rloo"]
    assert own.y == pytest.approx([0.1, 0.2, 0.3])
    assert own.low[:2] == own.high[:2] == pytest.approx([0.1, 0.2])  # all seeds alike
    assert own.low[2] < 0.3 < own.high[2]
    picture = folder / "trial-learning.svg"
    drawn_elsewhere = picture.read_text().replace('width="', 'width="0')
    picture.write_text(drawn_elsewhere)
    assert stale_files(pages) == []  # the same numbers
    write(results, "repirl", 3, GOOD, curve=learning(tmp_path / "b", 0.1, 0.3, 0.5))
    assert "trial-learning.svg" in stale_files(build_pages(results=results, folder=folder))


def test_what_test_time_training_could_not_know_is_drawn(tmp_path: Path) -> None:
    problems = {"benchmark": "arith", "limit": None, "answers": "none"}
    for seed in range(2):
        log = learning(
            tmp_path / "a",
            0.1,
            0.1,
            accuracy=[0.2, 0.4],
            prm__agreement=[0.5, 0.7],
            prm__specific_agreement=[0.4, 0.1],
            prm__signal=[1.0, 9.0],
        )
        write(tmp_path / "results", "test_time", seed, POOR, curve=log, problems=problems)
    figures = of_board(board_of(tmp_path / "results"))
    accuracy, signal = (figures[f"{kind}-while-adapting"].panels[0] for kind in ("accuracy", "signal"))
    assert [(line.label, line.y) for line in accuracy.series] == [
        ("accuracy", [0.2, 0.4]),
        ("agreement", [0.5, 0.7]),
        ("specific", [0.4, 0.1]),
    ]
    assert [(line.label, line.y) for line in signal.series] == [("batch", [1.0, 9.0])]


def test_local_suites_do_not_touch_the_committed_index(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "leaderboard"
    empty = build_pages(results=results, folder=folder)
    write(results, "rloo", 0, GOOD, suite="tiny")
    local = build_pages(results=results, folder=folder)
    assert local.files["README.md"] == empty.files["README.md"]
    assert {"tiny.md", "tiny.csv"} < local.files.keys()
    ignored = (paths.CHECKOUT_DIR / ".gitignore").read_text().split()
    assert {"leaderboard/tiny.*", "results/tiny/"} <= set(ignored)


def test_published_numbers_are_complete_and_their_averages_fit() -> None:
    published = load_published()
    rows = {table.id: {row.name: row for row in table.rows} for table in published.table}
    assert {name: len(table) for name, table in rows.items()} == {"2a": 9, "2b": 9, "4": 6, "5": 2, "6": 1}
    assert rows["2a"]["RLOO"].values[0] == 63.6
    assert rows["4"]["RLOO"].values[0] == 60.1
    odd = {
        (table.id, row.name)
        for table in published.table
        for row in table.rows
        if abs(np.mean(row.values[:5]) - row.values[5]) > 0.1
    }
    assert odd == {("4", "RLOO")}  # the one that the footnote is about
    lines = render_published(published)
    assert "published, not measured here" in lines[0]
    assert any("RLOO<sup>1</sup>" in line for line in lines)


def test_malformed_published_numbers_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "published.toml"
    text = (paths.CHECKOUT_DIR / "leaderboard" / "published.toml").read_text()
    for bad in (text.replace("46.0, ", "", 1), text.replace('id = "amc"', 'id = "amx"'), text + "\nx = ", text + "\nx = 1"):
        path.write_text(bad)
        with pytest.raises(UserError, match=r"malformed published numbers.*published\.toml"):
            load_published(path)


# ------------------------------------------------------------------------------------------- what is a row


def test_labels_and_base_policies_tell_rows_apart(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    write(tmp_path, "rloo", 0, POOR, label="rloo-slow")
    write(tmp_path, "rloo", 1, POOR, label="rloo-slow", base_policy=BasePolicy(name="large", digest="cd"))
    write(tmp_path, "bc", 0, GOOD, base_policy=BasePolicy(name="tiny", digest="ef"))
    board = board_of(tmp_path)
    assert {(row.name, row.base, row.seeds) for row in board.rows} == {
        ("rloo", "tiny `ab`", (0,)),
        ("rloo-slow from tiny `ab`", "tiny `ab`", (0,)),
        ("rloo-slow from large", "large", (1,)),
        ("bc", "tiny `ef`", (0,)),
    }
    # The baseline is no baseline for rows that started elsewhere.
    compared = {row.name for row in board.rows for cell in row.cells.values() if cell.versus_baseline is not None}
    assert compared == {"rloo-slow from tiny `ab`"}
    page = to_markdown(board, tmp_path)
    assert "Base policies: " in page
    assert "| rloo-slow from large | large | 1 |" in page
    assert to_csv(board, tmp_path).count("\ntrial,arith,rloo-slow,rloo,") == 4


def test_seeds_of_a_later_stage_are_one_row_and_other_roots_another(tmp_path: Path) -> None:
    parent = ParentStage(key="x", run_id="x", budget=Budget(rollouts=7), validation_budget=Budget(rollouts=3))
    for seed, root in ((0, "ab"), (1, "ab"), (2, "cd")):
        base = BasePolicy(name="tiny, trained", digest=f"own{seed}", root_name="tiny", root_digest=root)
        write(tmp_path, "rloo", seed, GOOD, stage="b after a", after="a", parents=[parent], base_policy=base)
    rows = board_of(tmp_path).rows
    assert sorted(row.seeds for row in rows) == [(0, 1), (2,)]
    assert {row.base for row in rows} == {"tiny `ab`", "tiny `cd`"}
    assert all(row.cost.parents is not None and row.cost.parents["rollouts"] == 10 for row in rows)


def test_later_stages_of_schema_1_come_from_the_policy_of_their_parents() -> None:
    board = build_board("tiny-full", results=Path(__file__).parent / "data" / "schema_1")
    assert len({row.base_digest for row in board.rows}) == 1
    first, later = row_of(board, "repirl"), row_of(board, "repirl", "minicode after arith")
    (parent,) = first.runs
    assert later.cost.parents is not None
    assert later.cost.parents["generated_tokens"] == parent.record.budget.generated_tokens
    assert first.cost.parents is not None
    assert not any(first.cost.parents.values())
    assert later.cost.validation is None  # within training


def test_costs_stand_apart(tmp_path: Path) -> None:
    parent = ParentStage(key="x", run_id="x", budget=Budget(rollouts=70), validation_budget=Budget(rollouts=3))
    base = BasePolicy(name="t", digest="q", root_name="tiny", root_digest="ab")
    given: dict[str, Any] = {"validation_budget": Budget(rollouts=11), "stage": "b", "after": "a", "parents": [parent]}
    write(tmp_path, "rloo", 0, GOOD, budget=Budget(rollouts=5), base_policy=base, **given)
    board = board_of(tmp_path)
    cost = row_of(board, "rloo", "b").cost
    assert [part and part["rollouts"] for part in (cost.training, cost.validation, cost.parents)] == [5, 11, 73]
    page = to_markdown(board, tmp_path)
    for part, spent in (("training", 5), ("validation", 11), ("earlier stages", 73)):
        assert f"| rloo | {part} | 0 | {spent} |" in page
    (line, *_) = csv.DictReader(io.StringIO(to_csv(board, tmp_path)))
    assert (line["rollouts"], line["validation_rollouts"], line["parents_rollouts"]) == ("5.0", "11.0", "73.0")
    row = to_json_rows(board, tmp_path)[0]
    assert (row["budget"]["rollouts"], row["validation_budget"]["rollouts"], row["parents_budget"]["rollouts"]) == (5, 11, 73)


# -------------------------------------------------------------------------------------- kept checkpoints


def test_the_kept_step_comes_from_the_curve(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    points = {0: 0.25, 1: None, 2: 0.5, 4: 0.375}
    lines = [{"step": k, "validation_accuracy": v} if v is not None else {"step": k, "loss": 1} for k, v in points.items()]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(tmp_path, "rloo", 0, GOOD, curve=log, diagnostics={"best_step": 2.0, "step": 4.0})
    board = board_of(tmp_path)
    found = row_of(board, "rloo").checkpoints
    assert found is not None
    assert (found.chosen, found.last, found.kept_the_start) == ((2,), (4,), False)
    assert (found.accuracy_at_start, found.accuracy_at_chosen, found.accuracy_at_last) == (0.25, 0.5, 0.375)
    assert "| rloo | 2 | 4 | 0.250 | 0.500 | 0.375 |  |" in to_markdown(board, tmp_path)


def test_a_row_that_kept_the_start_says_so(tmp_path: Path) -> None:
    old = {"best_validation_accuracy": 0.5, "validation_accuracy": 0.125, "step": 40.0}
    for seed in range(2):
        write(tmp_path, "bc", seed, GOOD, diagnostics={"best_step": 0.0, **old})
        write(tmp_path, "rloo", seed, GOOD, diagnostics={"best_step": 20.0 * seed, **old})
    write(tmp_path, "oracle", 0, GOOD)
    board = board_of(tmp_path)
    assert row_of(board, "oracle").checkpoints is None
    page = to_markdown(board, tmp_path)
    assert "| bc | 0, 0 | 40 | 0.500 | 0.500 | 0.125 | kept the start: no checkpoint beat the base |" in page
    assert "| bc *kept the start* | 0, 1 | 0, 0 |" in page
    # Where a later step was kept, older records do not say how the start did.
    assert "| rloo | 0, 20 | 40 | ? | 0.500 | 0.125 | 1 of 2 kept the start |" in page
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_terminal(board))
    assert "bc: kept the start: no checkpoint beat the base" in console.export_text()
    assert [row["chosen_steps"] for row in to_json_rows(board, tmp_path) if row["label"] == "bc"] == [[0, 0]] * 2


def test_what_rewards_say_of_experts_is_shown_with_its_meaning(tmp_path: Path) -> None:
    """Numbers of all runs, or none: a mean over some of them would stand for the row."""
    for seed in range(2):
        scores = {"prm/score_expert": -5.0 + seed, "prm/score_correct": -0.25, "prm/score_failed": -0.5}
        margin = {} if seed else {"prm/expert_margin": -4.5}
        write(tmp_path, "repirl", seed, GOOD, diagnostics=scores | margin)
        write(tmp_path, "rloo", seed, GOOD)
    page = to_markdown(board_of(tmp_path), tmp_path)
    assert "| repirl | -4.50 | -0.25 | -0.50 |  |  |" in page
    said = page[page.index("What process rewards said") :].split("\n")[0]
    assert "base measure" in said
    assert "the change of the margin, not its sign" in said
    assert "method.md" in said
    without = board_of(tmp_path / "none")
    assert "What process rewards said" not in to_markdown(without, tmp_path)


# ------------------------------------------------------------------------------------------------ ranks


def test_ranks_are_among_rows_with_the_same_seeds_and_base(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path, "a", seed, GOOD)
        write(tmp_path, "b", seed, POOR)
    for seed in range(3):
        write(tmp_path, "c", seed, [[C, C]] * 5)
        write(tmp_path, "d", seed, [[C, C]] * 5, base_policy=BasePolicy(name="other", digest="cd"))
    board = board_of(tmp_path)
    column = column_of(board, "avg@2")
    ranks = {row.method: row.cells[column].rank for row in board.rows}
    # The best rows have nobody to be compared with.
    assert ranks == {"a": Rank(1, 1, 2), "b": Rank(2, 2, 2), "c": None, "d": None}
    assert "| 1 of 2 | 0, 1, 2, 3 |" in to_markdown(board, tmp_path)
    for seed in range(3):
        write(tmp_path, "e", seed, GOOD)
    page = to_markdown(board_of(tmp_path), tmp_path)
    assert "Placed among each other: c, e (seeds 0, 1, 2); a, b (seeds 0, 1, 2, 3)." in page


def test_places_count_who_is_told_apart(tmp_path: Path) -> None:
    """a is ahead of c and d, b of d; a and b, b and c, c and d are not told apart: ties are not transitive."""
    right = {"a": 12, "b": 10, "c": 7, "d": 4}
    for method, count in right.items():
        for seed in range(3):
            write(tmp_path, method, seed, [[C, C] if p < count else [W, W] for p in range(16)])
    board = collect("trial", store.find("trial", root=tmp_path))
    column = column_of(board, "avg@2")
    ranks = {row.method: row.cells[column].rank for row in board.rows}
    assert ranks == {"a": Rank(1, 2, 4), "b": Rank(1, 3, 4), "c": Rank(2, 4, 4), "d": Rank(3, 4, 4)}


COMMITTED = [suite for suite in store.suites_with_records(root=paths.CHECKOUT_DIR / "results") if suite not in LOCAL_SUITES]


@pytest.mark.parametrize("suite", COMMITTED)
def test_ranks_of_the_committed_records_agree_with_their_differences(suite: str) -> None:
    committed = build_board(suite, results=paths.CHECKOUT_DIR / "results")
    for stage in committed.stages:
        named = [row for row in committed.rows_of(stage) if row.label == (committed.baseline or "rloo")]
        if not named or named[0].kind == "reference":  # none, or not in this stage, or an end of the scale without a rank
            continue
        (baseline,) = named
        rivals = [row for row in committed.rows_of(stage) if row.kind != "reference" and row.seeds == baseline.seeds]
        for column in committed.primary_of(stage):
            if column not in baseline.cells or column.kind == "attack":
                continue
            own = baseline.cells[column]
            gaps = [row.cells[column].versus_baseline for row in rivals if row is not baseline and column in row.cells]
            bounds = [(gap.interval.low, gap.interval.high) for gap in gaps if gap is not None]
            ahead = sum(low is not None and low > 1e-12 for low, _ in bounds)
            behind = sum(high is not None and high < -1e-12 for _, high in bounds)
            if own.rank is None:
                assert len(bounds) == 0 or len(own.seeds) < 3
            else:
                assert own.rank == Rank(1 + ahead, own.rank.of - behind, len(bounds) + 1)


# -------------------------------------------------------------------------------------------- contrasts


def test_a_contrast_can_be_narrowed_and_says_what_it_shows(tmp_path: Path) -> None:
    for seed in range(3):
        for stage in ("arith", "b"):
            write(tmp_path, "x", seed, POOR, stage=stage)
            write(tmp_path, "y", seed, GOOD, stage=stage)
    runs = store.find("trial", root=tmp_path)

    def lines(**narrowed: str) -> list[str]:
        board = collect("trial", runs, [Contrast(better="x", worse="y", **narrowed)])
        return [line for line in to_markdown(board, tmp_path).split("\n") if line.startswith(("- **x is", "- **x and"))]

    assert len(lines()) == 4
    assert len(lines(stage="b")) == 2
    assert len(lines(benchmark="minicode")) == 0
    assert len(lines(benchmark="arith", metric="avg@2", stage="b")) == 1
    (line,) = lines(metric="avg@2", stage="b", says="gain")
    assert line.startswith("- **x is behind y** in arith avg@2, trained on b: -0.400 [")
    assert line.endswith("3 seeds (no gain: the reverse)")
    assert not lines(metric="greedy", stage="b")[0].endswith(")")


def test_p_values_are_corrected_for_their_number() -> None:
    """Holm (1979): the steps down by hand, in the order given; never below one before it, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


def test_a_finding_takes_its_interval_and_the_corrected_p_value(tmp_path: Path) -> None:
    """p = 2 / 2001 for one of few differences, and the same one among so many that it could be chance."""
    for seed in range(3):
        write(tmp_path, "x", seed, POOR)
        write(tmp_path, "y", seed, [[C, C]] * 5)
    runs = store.find("trial", root=tmp_path)
    told = Contrast(better="y", worse="x", metric="avg@2", says="gain")
    (alone,) = collect("trial", runs, [told]).differences
    assert alone.result.interval.low is not None
    assert alone.result.interval.low > 0
    assert (alone.sign, finding(alone)) == (1, "y is ahead of x")
    first, *others = collect("trial", runs, [told] * 60).differences
    assert first.result == alone.result
    assert first.corrected_p == pytest.approx(60 * alone.result.p_value)
    assert (first.sign, finding(first)) == (0, "y and x are not told apart")
    assert all(other.corrected_p >= first.corrected_p for other in others)


def test_the_forest_has_each_rows_difference_from_the_baseline(tmp_path: Path) -> None:
    board = full_suite(tmp_path)
    forest = of_stage(board, "arith")
    assert forest is not None
    (panel,) = forest.panels
    assert panel.title.startswith("arith avg@2, minus rloo's")
    assert [point.label for point in panel.points] == ["oracle (reference)", "repirl", "random (null)"]
    assert [point.filled for point in panel.points] == [False, True, False]
    assert [point.value for point in panel.points][:2] == pytest.approx([0.8, 0.4])
    assert all(point.low <= point.value <= point.high for point in panel.points)
    assert panel.points[2].value < panel.points[1].value
    alone = of_stage(collect("trial", store.find("trial", root=tmp_path)), "arith")
    assert alone is not None  # without a baseline: the values
    assert not alone.panels[0].zero
    assert alone.panels[0].points[0].value == pytest.approx(1.0)
    assert digest_in(forest.svg()) == forest.digest != alone.digest


def test_a_contrast_across_base_policies_is_stated_if_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, "x", 0, GOOD)
    write(tmp_path, "y", 0, POOR, base_policy=BasePolicy(name="large", digest="cd"))
    board = collect("trial", store.find("trial", root=tmp_path), [Contrast(better="x", worse="y", metric="avg@2")], "y")
    assert [(d.better.base, d.worse.base) for d in board.differences] == [("tiny", "large")]
    assert all(cell.versus_baseline is None for row in board.rows for cell in row.cells.values())


def test_contrasts_come_from_the_suites_file(tmp_path: Path) -> None:
    full_suite(tmp_path / "results")
    given: dict[str, Any] = {"results": tmp_path / "results", "folder": tmp_path / "leaderboard"}
    assert build_pages(**given).boards[0].differences == ()
    (tmp_path / "more" / "suites").mkdir(parents=True)
    (tmp_path / "more" / "suites" / "trial.toml").write_text(
        'title = "t"\nbaseline = "random"\nruns = [{method = "repirl"}, {method = "rloo"}, {method = "random"}]\n'
        'evaluations = [{benchmark = "arith"}]\ncontrasts = [{better = "rloo", worse = "repirl", metric = "greedy"}]\n'
    )
    board = build_pages(**given, include=[tmp_path / "more"]).boards[0]
    assert [(d.better.label, d.worse.label, d.column.metric) for d in board.differences] == [("rloo", "repirl", "greedy")]
    assert "Paired difference from `random`" in to_markdown(board, tmp_path)


def test_no_method_is_named_in_the_code() -> None:
    """Which rows are compared is said by suites."""
    for path in (paths.PACKAGE_DIR / "reporting").glob("*.py"):
        text = path.read_text()
        for name in methods():
            assert f'"{name}"' not in text, f"{path.name} names {name}"
        assert "rloo" not in text
        assert "oracle" not in text


# ------------------------------------------------------------------------------------------ judged sets


Judge = Callable[..., store.Judgement]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Judgements, as `repirl judge` makes them, of a reward whose step scores are given: labels plus noise."""

    def make(kind: Literal["first_error", "steps"], noise: float, seed: int, **changes: Any) -> store.Judgement:
        rng = np.random.default_rng(seed)

        def told(loaded: object, solutions: Sequence[LabelledSolution], *rest: object) -> list[ScoredSteps]:
            return [
                ScoredSteps(
                    None if i == 5 else np.array(one.labels, dtype=np.float64) + noise * rng.normal(size=3), np.array([4, 4, 4])
                )
                for i, one in enumerate(solutions)
            ]

        monkeypatch.setattr("repirl.evals.judging.score_solutions", told)
        reward: Any = SimpleNamespace(name="told", reward=SimpleNamespace(budget=Budget()))
        solutions = changes.pop("solutions", labelled(kind))
        report = judge(reward, JudgedSet("told-set", kind, solutions, "\n"), ThresholdRule("fixed", 0.5), nulls=False)
        given: dict[str, Any] = {"protocol": {"limit": None, "seed": 0}, "reward": "fitted", "reward_digest": None}
        return store.Judgement(report, wall_s=1.0, **(given | changes))

    return make


def labelled(kind: str) -> tuple[LabelledSolution, ...]:
    """Two solutions of each of twelve problems: in two subsets, or modified in two ways with a control each."""
    found = []
    for i in range(24):
        labels = (1.0, 1.0, 1.0) if i % 3 == 0 else (1.0, 0.0, 0.0)
        subset = ("easy", "hard")[i % 2] if kind == "first_error" else ("correct", "odd", "even")[i % 3]
        found.append(LabelledSolution(f"s{i}", f"p{i // 2}", ("a", "b", "c"), labels, subset=subset, cluster=f"p{i // 2}"))
    return tuple(found)


@pytest.mark.parametrize(("kind", "metric"), [("first_error", "F1"), ("steps", "PRMScore")])
def test_the_headline_and_its_interval_follow_from_the_rows(tmp_path: Path, judged: Judge, kind: str, metric: str) -> None:
    one = judged(kind, 0.6, 0)
    write(tmp_path, "x", 0, GOOD, judgements=[one])
    board = board_of(tmp_path)
    (column,) = [column for column in board.columns if column.kind == "judge"]
    assert (column.benchmark, column.metric, column.data_digest) == ("told-set", metric, one.report.digest)
    cell = row_of(board, "x").cells[column]
    wanted = one.report.judged.headline
    assert cell.interval.value == pytest.approx(wanted.value)
    assert (cell.interval.low, cell.interval.high) == pytest.approx((wanted.low, wanted.high))
    assert 0 < wanted.value < 100
    assert (cell.ungraded, cell.total) == (1, one.report.num_solutions)
    page = to_markdown(board, tmp_path)
    assert f"judge told-set {metric}" in page
    assert f"[{wanted.value:.1f}](#row-1) [{wanted.low:.1f}, {wanted.high:.1f}]" in page
    assert f"x, judge told-set {metric}: 1 of {one.report.num_solutions}" in page


def test_a_headline_that_does_not_follow_from_its_rows_is_refused(tmp_path: Path, judged: Judge) -> None:
    stored = write(tmp_path, "x", 0, GOOD, judgements=[judged("first_error", 0.6, 0)])
    raw = json.loads(stored.file.read_text())
    raw["judgements"][0]["headline"]["value"] += 1
    edit(stored, raw)
    with pytest.raises(UserError, match=r"F1 of told-set does not follow .*x-arith-s0"):
        board_of(tmp_path)


def test_judged_rewards_are_compared_over_seeds_on_the_same_draws(tmp_path: Path, judged: Judge) -> None:
    for seed in range(3):
        write(tmp_path, "good", seed, GOOD, judgements=[judged("first_error", 0.3, seed)])
        write(tmp_path, "same", seed, GOOD, judgements=[judged("first_error", 0.3, seed)])
        # A method without a policy is a row of judge columns.
        write(tmp_path, "noise", seed, GOOD, report=[], judgements=[judged("first_error", 9.0, seed)])
    board = collect("trial", store.find("trial", root=tmp_path), [Contrast(better="good", worse="noise")], "same")
    (column,) = [column for column in board.columns if column.kind == "judge"]
    good, same, noise = (row_of(board, name).cells[column] for name in ("good", "same", "noise"))
    values = [judged("first_error", 0.3, seed).report.judged.headline for seed in range(3)]
    assert good.interval.value == pytest.approx(np.mean([one.value for one in values]))
    assert good.interval.low is not None
    assert good.interval.high is not None
    assert good.interval.low < good.interval.value < good.interval.high
    # What the same reward says again is no difference at all, whatever is drawn.
    assert good.versus_baseline is not None
    assert good.versus_baseline == PairedDifference(Interval(0.0, 0.0, 0.0), 1.0, problems=12, seeds=3)
    assert noise.versus_baseline is not None
    assert noise.versus_baseline.interval.high is not None
    assert noise.versus_baseline.interval.high < 0
    assert (good.rank, same.rank, noise.rank) == (Rank(1, 2, 3), Rank(1, 2, 3), Rank(3, 3, 3))
    assert set(row_of(board, "noise").cells) == {column}
    (difference,) = board.differences
    assert difference.result.interval.value == pytest.approx(good.interval.value - noise.interval.value)
    page = to_markdown(board, tmp_path)
    assert f"- **good is ahead of noise** in judge told-set F1: +{difference.result.interval.value:.1f} [" in page
    table = page[page.index("### arith, trained on arith") : page.index("### judge told-set, trained on arith")]
    assert "noise" not in table
    rows = [row for row in to_json_rows(board, tmp_path) if row["label"] == "noise"]
    assert [(row["evaluation"], row["metric"]) for row in rows] == [("judge", "F1")]


def test_seeds_widen_the_interval_of_a_judged_reward(tmp_path: Path, judged: Judge) -> None:
    """From three seeds on they are drawn too: rewards that differ by seed are less certain than their problems alone say."""
    for seed, noise in enumerate((0.1, 0.1, 9.0)):
        write(tmp_path, "x", seed, GOOD, judgements=[judged("first_error", noise, seed)])
    board = board_of(tmp_path)
    (column,) = [column for column in board.columns if column.kind == "judge"]
    interval = row_of(board, "x").cells[column].interval
    assert interval.low is not None
    assert interval.high is not None
    alone = [judged("first_error", noise, seed).report.judged.headline for seed, noise in enumerate((0.1, 0.1, 9.0))]
    mean_width = np.mean([one.high - one.low for one in alone if one.high is not None and one.low is not None])
    assert interval.high - interval.low > 1.5 * mean_width


def test_other_sets_never_share_a_column(tmp_path: Path, judged: Judge) -> None:
    write(tmp_path, "x", 0, GOOD, judgements=[judged("first_error", 0.3, 0)])
    write(tmp_path, "y", 0, GOOD, judgements=[judged("first_error", 0.3, 0, solutions=labelled("first_error")[:20])])
    write(tmp_path, "z", 0, GOOD, judgements=[judged("first_error", 0.3, 0, protocol={"limit": 5, "seed": 0})])
    write(tmp_path, "w", 1, GOOD, judgements=[judged("first_error", 0.3, 0, protocol={"limit": None, "seed": 1})])
    board = board_of(tmp_path)
    columns = [column for column in board.columns if column.kind == "judge"]
    assert len(columns) == 3
    having = [[row.label for row in board.rows if column in row.cells] for column in columns]
    assert sorted(map(sorted, having)) == [["w", "x"], ["y"], ["z"]]


def scored_pool(seed: int, gain: float) -> PoolScaling:
    """24 problems x 4 samples, of which the first is right; its score is the higher, the more often `gain` says so."""
    rng = np.random.default_rng(seed)
    pool = []
    for i in range(24):
        scores = [np.array([float(rng.random() < gain)]), *(np.array([0.5]) for _ in range(3))]
        pool.append(Candidates(f"p{i}", np.array([1.0, 0, 0, 0]), ("a", "b", "b", "c"), np.ones(4), {"fitted": tuple(scores)}))
    return PoolScaling(
        benchmark="arith",
        card_digest="card",
        data_digest="data",
        protocol={"samples": 4, "seed": 0},
        policy_digest="0" * 64,
        reward="fitted",
        reward_digest=None,
        scaling=scaling(pool),
        counts={"correct": 24, "wrong": 72, "truncated": 0, "ungraded": 0},
        unscored={},
        rows=scaled_rows(pool, "fitted"),
        budget=Budget(rollouts=96, generated_tokens=96 * 6, scored_tokens=96 * 4),
    )


def test_scaling_is_a_column_and_follows_from_its_rows(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, "rloo", seed, GOOD, scalings=[scored_pool(seed, 0.2)])
        stored = write(tmp_path, "good", seed, GOOD, scalings=[scored_pool(seed, 0.9)])
    board = board_of(tmp_path)
    columns = {column.metric: column for column in board.columns if column.kind == "scale"}
    assert list(columns) == ["best-of-4", "maj@4", "weighted@4"]
    good, plain = (row_of(board, name).cells for name in ("good", "rloo"))
    assert good[columns["best-of-4"]].interval.value > 0.6 > plain[columns["best-of-4"]].interval.value
    assert good[columns["maj@4"]].interval.value == 0.0  # two vote for b
    more = good[columns["best-of-4"]].versus_baseline
    assert more is not None
    assert more.interval.low is not None
    assert more.interval.low > 0.3
    assert "scale arith best-of-4" in to_markdown(board, tmp_path)
    raw = json.loads(stored.file.read_text())
    raw["scalings"][0]["curves"]["best-of-N mean"]["4"] = {"value": 0.1, "low": 0.0, "high": 0.2, "level": 0.95}
    edit(stored, raw)
    with pytest.raises(UserError, match=r"best-of-N mean of arith does not follow"):
        board_of(tmp_path)


def searches(seed: int, gain: float) -> Searched:
    """Of 24 problems: one solution of each, and four of which the first is right, and best scored as often as `gain` says."""
    rng = np.random.default_rng(seed)
    points = []
    for n in (1, 4):
        pool = []
        for i in range(24):
            scores = [np.array([float(rng.random() < gain)]), *(np.array([0.5]) for _ in range(n - 1))]
            right = np.array([float(n > 1), *(0.0 for _ in range(n - 1))])
            pool.append(Candidates(f"p{i}", right, tuple("abbc")[:n], np.ones(n), {"fitted": tuple(scores)}))
        found = scaling(pool, [n], ["mean"])
        best = next(curve for curve in found.curves if curve.selector == "best-of-N").points[0].accuracy
        tokens = {"generated": 10.0 * n, "discarded": 2.0, "lookahead": 0.0, "scored": 8.0 * n}
        rows = tuple(replace(row, n=n) for row in scaled_rows(pool, "fitted"))
        graded = GradedPool((), {}, {}, {}, {}, {})
        points.append(SearchPoint(n, {"best": best}, 0, float(n), tokens, rows, graded))
    return Searched(
        benchmark="arith",
        card_digest="card",
        data_digest="data",
        protocol={"approach": "beam", "aggregation": "mean", "seed": 0},
        policy_digest="0" * 64,
        reward="fitted",
        reward_digest=None,
        points=points,
        parameters={"policy": 3, "reward": 2},
        budget=Budget(generated_tokens=50, scored_tokens=40),
    )


def test_searches_are_columns_a_curve_against_tokens_and_follow_from_their_rows(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, "rloo", seed, GOOD, searches=[searches(seed, 0.2)])
        scored = {"scalings": [scored_pool(seed, 0.5)], "searches": [searches(seed, 0.9)]}
        stored = write(tmp_path, "good", seed, GOOD, **scored)
    board = board_of(tmp_path)
    columns = {column.metric: column for column in board.columns if column.kind == "search"}
    assert list(columns) == ["beam-1", "beam-4"]
    good, plain = (row_of(board, name).cells for name in ("good", "rloo"))
    assert good[columns["beam-1"]].interval.value == 0.0
    assert good[columns["beam-4"]].interval.value > 0.6 > plain[columns["beam-4"]].interval.value
    assert columns["beam-4"] in board.primary_of("arith")
    assert columns["beam-1"] not in board.primary_of("arith")
    assert "search arith beam-4" in to_markdown(board, tmp_path)
    figure = of_board(board)["search"]
    assert isinstance(figure, Figure)
    assert [(panel.title, [line.label for line in panel.series]) for panel in figure.panels] == [
        ("good", ["best-of-N", "beam"]),
        ("rloo", ["beam"]),
    ]
    assert list(figure.panels[0].series[0].x) == [10.0, 20.0, 40.0]
    assert list(figure.panels[1].series[0].x) == [18.0, 72.0]
    raw = json.loads(stored.file.read_text())
    raw["searches"][0]["points"]["4"]["accuracy"]["best"] = {"value": 0.1, "low": 0.0, "high": 0.2, "level": 0.95}
    edit(stored, raw)
    with pytest.raises(UserError, match=r"beam n=4 of arith does not follow"):
        board_of(tmp_path)


def test_what_test_time_training_did_to_problems_is_drawn_as_means_of_runs(tmp_path: Path) -> None:
    for seed, learned in ((0, 6.0), (1, 8.0)):
        told = {"arith/learned": learned, "arith/kept": 2.0, "arith/corrupted": 1.0, "arith/never": 11.0 - learned}
        write(tmp_path, "good", seed, GOOD, diagnostics=told)
        write(tmp_path, "rloo", seed, GOOD, diagnostics=told | {"arith/learned": 1.0, "arith/never": 16.0})
        write(tmp_path, "repirl", seed, GOOD)
    figure = of_board(board_of(tmp_path))["transitions"]
    assert isinstance(figure, Bars)
    assert figure.panels == (("arith", (Bar("good", (7.0, 2.0, 1.0, 4.0)), Bar("rloo", (1.0, 2.0, 1.0, 16.0)))),)
    drawn = figure.svg()
    assert digest_in(drawn) == figure.digest
    assert all(f">{part}</text>" in drawn for part in ("learned", "kept", "corrupted", "never"))


def attacks(seed: int, lift: float) -> Attacked:
    """24 problems whose wrong solutions are raised by about that much under one attack, and none that another applies to."""
    rng = np.random.default_rng(seed)
    rows = tuple(
        AttackedRow(f"p{i}", "padded", lift + float(rng.normal()) / 10, i % 2 == 0 if i < 12 else None) for i in range(24)
    )
    lifts = [
        Lift("fitted", "padded", len(rows), *summed_up(rows), 2, 1, rows),
        Lift("fitted", "shuffled", 0, None, None, None, 0, 0, ()),
    ]
    return Attacked(
        benchmark="arith",
        card_digest="card",
        data_digest="data",
        protocol={"samples": 8, "seed": 0},
        policy_digest="0" * 64,
        reward="fitted",
        reward_digest=None,
        solutions=27,
        right=3,
        lifts=lifts,
        budget=Budget(scored_tokens=40),
    )


def test_attacks_are_columns_without_places_and_follow_from_their_rows(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, "rloo", seed, GOOD, attacks=[attacks(seed, -2.0)])
        stored = write(tmp_path, "good", seed, GOOD, attacks=[attacks(seed, 1.5)])
    record = stored.record.attacks[0].lifts["padded"]
    assert record.above_right is not None
    assert (record.above_right.value, record.still_right, record.unscored) == (0.5, 2, 1)
    board = board_of(tmp_path)
    (column,) = [column for column in board.columns if column.kind == "attack"]
    assert column.metric == "padded"
    good, plain = (row_of(board, name).cells[column] for name in ("good", "rloo"))
    assert good.interval.value == pytest.approx(1.5, abs=0.1)
    assert plain.interval.value == pytest.approx(-2.0, abs=0.1)
    assert (good.rank, plain.rank) == (None, None)
    more = good.versus_baseline
    assert more is not None
    assert more.interval.value == pytest.approx(3.5)
    assert "attack arith padded" in to_markdown(board, tmp_path)
    raw = json.loads(stored.file.read_text())
    raw["attacks"][0]["lifts"]["padded"]["lift"] = {"value": 0.1, "low": 0.0, "high": 0.2, "level": 0.95}
    edit(stored, raw)
    with pytest.raises(UserError, match=r"attack padded on arith does not follow"):
        board_of(tmp_path)


def test_a_suite_whose_differences_wait_for_runs_says_so(tmp_path: Path) -> None:
    write(tmp_path, "rloo", 0, GOOD)
    runs = store.find("trial", root=tmp_path)
    assert "some have no record" in to_markdown(collect("trial", runs, CONTRASTS, "rloo"), tmp_path)
    assert "This suite states no differences" in to_markdown(collect("trial", runs, (), "rloo"), tmp_path)
