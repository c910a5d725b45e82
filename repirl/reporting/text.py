"""Wording shared by the Markdown page and the terminal table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from repirl.reporting.collect import Column, Difference, Row
from repirl.stats import PairedDifference
from repirl.types import Interval

_KIND_MARK = {"method": "", "null": " (null)", "reference": " (reference)"}


def column_labels(columns: Sequence[Column]) -> dict[Column, str]:
    """`arith greedy`; numbered where digests alone tell two columns apart."""
    count = Counter((column.benchmark, column.metric) for column in columns)
    seen: Counter[tuple[str, str]] = Counter()
    labels: dict[Column, str] = {}
    for column in columns:
        name = (column.benchmark, column.metric)
        seen[name] += 1
        labels[column] = " ".join(name) + (f" ({seen[name]})" if count[name] > 1 else "")
    return labels


def difference_line(difference: Difference, labels: dict[Column, str]) -> str:
    """One line: what is compared, the difference, and what it is good for."""
    text = (
        f"{difference.better} - {difference.worse}, {labels[difference.column]}, trained on {difference.stage}: "
        f"{difference_text(difference.result)}"
    )
    if difference.better != "oracle":
        return text
    low = difference.result.interval.low
    clear = low is not None and low > 0
    return f"{text} ({'room' if clear else 'no clear room'} for process rewards here)"


def difference_text(result: PairedDifference) -> str:
    """Value, interval, p-value and number of matched seeds."""
    seeds = f"{result.seeds} seed" + ("s" if result.seeds > 1 else "")
    value = _three(result.interval.value, "+")
    return f"{value}{bounds(result.interval, signed=True)}, p={result.p_value:.3f}, {seeds}"


def bounds(interval: Interval, *, signed: bool = False) -> str:
    """` [low, high]`, or nothing where there are no bounds."""
    if interval.low is None or interval.high is None:
        return ""
    sign = "+" if signed else ""
    return f" [{_three(interval.low, sign)}, {_three(interval.high, sign)}]"


def _three(value: float, sign: str) -> str:
    """Three decimals; never a negative zero, whose sign would depend on rounding."""
    return f"{round(value, 3) + 0.0:{sign}.3f}"


def row_name(row: Row, rows: Sequence[Row]) -> str:
    """The method; with its config digest where another row of the stage differs in nothing else."""
    twins = sum((other.method, other.recipe) == (row.method, row.recipe) for other in rows)
    return row.method + _KIND_MARK[row.kind] + (f" `{row.config_digest[:6]}`" if twins > 1 else "")


def seed_list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
