"""The leaderboard: what shares a row, what shares a column, what is compared, and that it never goes stale unseen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from repirl import paths
from repirl.errors import UserError
from repirl.evals.metrics import problem_values
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.records.store import StoredRun
from repirl.reporting.collect import Board, Column, Row, collect
from repirl.reporting.flat import to_csv, to_json_rows
from repirl.reporting.leaderboard import build_pages, stale_files, write_pages
from repirl.reporting.markdown import to_markdown
from repirl.reporting.published import load_published, render_published
from repirl.reporting.terminal import to_terminal
from repirl.stats import clustered_interval, paired_difference, problem_means
from repirl.types import Budget, Interval, Outcome, Report, SampleRow

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
    report = changes.pop("report", None) or make_report(grid)
    given |= changes
    run_id = given.pop("run_id", f"{method}-{given['stage'].replace(' ', '-')}-s{seed}")
    return store.write(new_record(run_id=run_id, **given), [report], root=root)


def board_of(root: Path, suite: str = "trial") -> Board:
    return collect(suite, store.find(suite, root=root))


def row_of(board: Board, method: str, stage: str = "arith") -> Row:
    (row,) = [row for row in board.rows if (row.method, row.stage) == (method, stage)]
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
    assert row.budget["generated_tokens"] == 1000.5
    assert row.budget["policy_updates"] == 10
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
    assert ranks == {"repirl": 1, "rloo": 2, "oracle": None, "random": None}
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
    column = column_of(board, "greedy")
    assert {row.method: row.cells[column].rank for row in board.rows} == {"a": 1, "b": 1, "c": 3}


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


def test_the_later_of_two_equal_runs_is_shown_and_the_other_named(tmp_path: Path) -> None:
    first = write(tmp_path, "rloo", 0, POOR, run_id="x")
    raw = json.loads(first.file.read_text()) | {"created_utc": "2001-01-01T00:00:00Z"}
    first.file.write_text(json.dumps(raw))
    write(tmp_path, "rloo", 0, GOOD, run_id="a")
    board = board_of(tmp_path)
    assert row_of(board, "rloo").cells[column_of(board, "avg@2")].interval.value == pytest.approx(0.6)
    assert [run.record.run_id for run in board.superseded] == ["x"]
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
    stored.file.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"avg@2 of arith does not follow .*rloo-arith-s0"):
        board_of(tmp_path)


def test_the_two_claims_are_printed(tmp_path: Path) -> None:
    board = full_suite(tmp_path)
    assert [(d.better, d.column.metric) for d in board.differences] == [
        ("oracle", "avg@2"),
        ("repirl", "greedy"),
        ("repirl", "avg@2"),
    ]
    page = to_markdown(board, tmp_path)
    assert "oracle - rloo, arith avg@2, trained on arith: +0.800 [" in page
    assert "(room for process rewards here)" in page
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_terminal(board))
    shown = console.export_text()
    assert "oracle - rloo, arith avg@2" in shown
    assert "repirl - rloo, arith avg@2, trained on arith: +0.400" in shown
    assert "random (null)" in shown


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
    assert float(line["minus_rloo"]) == pytest.approx(0.4)
    assert (line["rank"], line["seeds"], line["kind"]) == ("1", "0 1 2", "method")
    assert row["seeds"] == [0, 1, 2]
    assert row["records"][0] == "results/trial/repirl-arith-s0/record.json"
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert row.keys() >= {"method", "benchmark", "metric", "value", "ci_low", "ci_high", "seeds", "budget", "records"}
    json.dumps(rows, allow_nan=False)


def test_pages_are_identical_and_staleness_is_seen(tmp_path: Path) -> None:
    results, folder = tmp_path / "results", tmp_path / "leaderboard"
    full_suite(results)
    first = build_pages(results=results, folder=folder)
    assert stale_files(first) == ["README.md", "trial.csv", "trial.md"]
    assert len(write_pages(first)) == 3
    again = build_pages(results=results, folder=folder)
    assert again.files == first.files
    assert stale_files(again) == []
    assert write_pages(again) == []
    write(results, "bc", 0, GOOD)
    assert stale_files(build_pages(results=results, folder=folder)) == ["README.md", "trial.csv", "trial.md"]
    write_pages(build_pages(results=results, folder=folder))
    (folder / "gone.md").write_text("a suite whose records are no more")
    assert stale_files(build_pages(results=results, folder=folder)) == ["gone.md"]


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
