"""Learning curves of the leaderboard, by hand: early gain, its quotient, and when a row is where the baseline ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_reporting import GOOD, write

from repirl.reporting.collect import collect
from repirl.reporting.curves import Curve, early
from repirl.reporting.markdown import to_markdown

STEPS = np.array([0, 10, 20, 40])


def test_the_early_gain_by_hand() -> None:
    """Over 15 updates: 0 to 10 rises linearly to 0.2, at 15 it is 0.3: (10 * 0.1 + 5 * 0.25) / 15."""
    curve = Curve((1,), STEPS, np.array([[0.1, 0.3, 0.5, 0.5]]))
    assert curve.gain_until(15) == pytest.approx([(10 * 0.1 + 5 * 0.25) / 15])
    assert curve.gain_until(20) == pytest.approx([(10 * 0.1 + 10 * 0.3) / 20])
    assert curve.reaches(0.4) == pytest.approx(15)
    assert curve.reaches(0.1) == 0
    assert curve.reaches(0.6) is None


def test_updates_until_a_share_is_solved_are_of_each_run_and_the_last_where_it_never_is() -> None:
    curve = Curve((1, 2, 3), STEPS, np.array([[0.1, 0.3, 0.5, 0.5], [0.1, 0.1, 0.1, 0.3], [0.1, 0.05, 0.12, 0.14]]))
    assert curve.solved_at(0.05) == pytest.approx([10 * 0.05 / 0.2, 20 + 20 * 0.05 / 0.2, 40])
    baseline = Curve((1, 2, 3), STEPS, np.array([[0.1, 0.1, 0.2, 0.5], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]))
    found = early(curve, baseline)
    assert found is not None
    assert found.later is not None
    assert found.solved_at.value == pytest.approx((2.5 + 25 + 40) / 3)
    assert found.later.interval.value == pytest.approx((2.5 - 15 + 25 - 40 + 0) / 3)
    assert found.later.interval.low is not None


def test_early_is_a_quarter_of_the_baselines_updates_on_the_seeds_of_both() -> None:
    """Seed 3 is the baseline's alone. A quarter of 40 updates: the mean from 0 to 10 is half of the gain at 10."""
    own = Curve((1, 2), np.array([0, 10, 20, 60]), np.array([[0.1, 0.3, 0.5, 0.5], [0.1, 0.4, 0.5, 0.5]]))
    baseline = Curve((1, 2, 3), STEPS, np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.1, 0.9, 0.9, 0.4]]))
    found = early(own, baseline)
    assert found is not None
    assert found.more is not None
    assert found.gain.value == pytest.approx((0.1 + 0.15) / 2)
    assert found.more.interval.value == pytest.approx(0.075)
    assert found.more.seeds == 2
    assert found.times == pytest.approx(2.5)
    assert found.reaches_at == pytest.approx(10 + 10 * 0.05 / 0.15)  # from 0.35 at 10 to 0.5 at 20
    assert found.gain.low is None  # of two seeds nothing is resampled
    assert found.more.interval.low is None
    alone = early(baseline, None)
    assert alone is not None
    assert (alone.more, alone.times, alone.reaches_at, alone.later) == (None, None, None, None)
    assert alone.gain.low is not None
    assert alone.gain.low < alone.gain.value


def test_a_row_that_was_shorter_has_no_early_gain() -> None:
    short = Curve((1,), np.array([0, 2, 4]), np.array([[0.1, 0.2, 0.3]]))
    assert early(short, Curve((1,), STEPS, np.array([[0.1, 0.2, 0.3, 0.4]]))) is None


def test_the_page_has_the_curves(tmp_path: Path) -> None:
    def log(name: str, accuracies: list[float]) -> Path:
        lines = [{"step": 10 * i, "validation_accuracy": value} for i, value in enumerate(accuracies)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 11, "loss": 1.0}]))
        return path

    for seed in (0, 1):
        write(tmp_path, "rloo", seed, GOOD, curve=log(f"rloo{seed}", [0.1, 0.2, 0.2, 0.3, 0.4]))
        write(tmp_path, "repirl", seed, GOOD, curve=log(f"repirl{seed}", [0.1, 0.3 + seed / 10, 0.5, 0.5, 0.5]))
    from repirl.records.store import find

    page = to_markdown(collect("trial", find("trial", root=tmp_path), (), "rloo"), tmp_path)
    (line,) = [line for line in page.splitlines() if line.startswith("| repirl | 0, 1 | 0.100")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:7] == ["0.100", "0.350", "0.500", "0.500", "0.500"]
    assert cells[7] == "+0.125"
    assert cells[8] == "+0.075"  # two seeds: no interval
    assert cells[9:] == ["2.50", "13", "2.1", "-2.9"]
    (line,) = [line for line in page.splitlines() if line.startswith("| rloo | 0, 1 | 0.100")]
    assert line.endswith("| +0.050 |  |  |  | 5.0 |  |")
