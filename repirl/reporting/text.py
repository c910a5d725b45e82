"""Wording shared by the Markdown page and the terminal table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from repirl.reporting.board import Cell, Checkpoints, Column, Difference, Row
from repirl.stats import PairedDifference
from repirl.types import Interval

KIND_MARK = {"method": "", "null": " (null)", "reference": " (reference)"}
KEPT_THE_START = "kept the start: no checkpoint beat the base"


def column_labels(columns: Sequence[Column]) -> dict[Column, str]:
    """`arith greedy`, `judge arith F1`; numbered where digests alone tell two columns apart."""
    names = {column: " ".join((table_name(column), column.metric)) for column in columns}
    count = Counter(names.values())
    seen: Counter[str] = Counter()
    labels: dict[Column, str] = {}
    for column, name in names.items():
        seen[name] += 1
        labels[column] = name + (f" ({seen[name]})" if count[name] > 1 else "")
    return labels


def table_name(column: Column) -> str:
    """What the columns of one table have in common."""
    return column.benchmark if column.kind == "policy" else f"{column.kind} {column.benchmark}"


def finding(difference: Difference) -> str:
    """What a difference shows, in words: who is ahead of whom, or that they are not told apart."""
    better, worse = difference.better.name, difference.worse.name
    if difference.sign == 0:
        return f"{better} and {worse} are not told apart"
    return f"{better} is {'ahead of' if difference.sign > 0 else 'behind'} {worse}"


def evidence(difference: Difference, labels: dict[Column, str], *, stage: bool) -> str:
    """What a finding rests on: where, the difference with its interval and corrected p-value, seeds, and what it would say of
    the question that was asked; `stage`: say what was trained on."""
    column, result = difference.column, difference.result
    size = signed(result.interval, column)
    trained = f", trained on {difference.stage}" if stage else ""
    asked = {1: "{}", 0: "no clear {}", -1: "no {}: the reverse"}[difference.sign].format(difference.says)
    text = f"{labels[column]}{trained}: {size}, p={difference.corrected_p:.3f}, {seed_count(result.seeds)}"
    return f"{text} ({asked})" if difference.says else text


def difference_text(result: PairedDifference, column: Column) -> str:
    """Value, interval, p-value."""
    return f"{signed(result.interval, column)}, p={result.p_value:.3f}"


def signed(interval: Interval, column: Column) -> str:
    """A difference with its interval."""
    return f"{number(interval.value, column, '+')}{bounds(interval, column, '+')}"


def place_text(cell: Cell) -> str:
    """`2 of 6`, or `2-4 of 6` where one of the others is ahead, two are behind, and the rest is not told apart; nothing for a
    row without a rank."""
    rank = cell.rank
    if rank is None:
        return ""
    return f"{rank.place} of {rank.of}" if rank.place == rank.last else f"{rank.place}-{rank.last} of {rank.of}"


def bounds(interval: Interval, column: Column, sign: str = "") -> str:
    """` [low, high]`, or nothing where there are no bounds."""
    if interval.low is None or interval.high is None:
        return ""
    return f" [{number(interval.low, column, sign)}, {number(interval.high, column, sign)}]"


def number(value: float, column: Column, sign: str = "") -> str:
    """A share with three decimals, percent with one; never a negative zero, whose sign would depend on rounding."""
    digits = 1 if column.kind == "judge" else 3
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def row_name(row: Row) -> str:
    """The row's name, with what kind of method it is where it does not compete."""
    return row.name + KIND_MARK[row.kind]


def accuracy(value: float | None) -> str:
    """A validation accuracy; `?` where it is not known."""
    return "?" if value is None else f"{value:.3f}"


def seed_list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def seed_count(seeds: int) -> str:
    return f"{seeds} seed" + ("s" if seeds > 1 else "")


def chosen_steps(checkpoints: Checkpoints | None) -> str:
    """The step that each run kept, in the order of its seeds; nothing for a row that chose none."""
    return "" if checkpoints is None else ", ".join("?" if step is None else str(step) for step in checkpoints.chosen)
