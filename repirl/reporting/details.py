"""What stands behind a stage's numbers, as lines of Markdown: which checkpoints were kept, what rewards said, what it cost.

Each part begins with an empty line, and is nothing where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repirl.reporting.board import Checkpoints, Column, Row
from repirl.reporting.collect import budget_fields
from repirl.reporting.published import markdown_table
from repirl.reporting.text import KEPT_THE_START, accuracy, chosen_steps, row_name


def checkpoint_lines(rows: Sequence[Row]) -> list[str]:
    """Which step each run kept, and its validation accuracy there, at the start and at the end."""
    known = [(row, row.checkpoints) for row in rows if row.checkpoints is not None]
    if not known:
        return []
    header = ["run", "step kept by each run", "of", "at the start", "at the kept step", "at the last step", ""]
    body = [
        [
            row_name(row),
            chosen_steps(found),
            ", ".join(dict.fromkeys("?" if step is None else str(step) for step in found.last)),
            *(accuracy(value) for value in (found.accuracy_at_start, found.accuracy_at_chosen, found.accuracy_at_last)),
            _remark(found),
        ]
        for row, found in known
    ]
    said = "Checkpoints, chosen by validation accuracy (mean over runs; `?`: not recorded):"
    return ["", said, "", *markdown_table(header, body)]


def _remark(checkpoints: Checkpoints) -> str:
    if checkpoints.kept_the_start:
        return KEPT_THE_START
    count = sum(step == 0 for step in checkpoints.chosen)
    return f"{count} of {len(checkpoints.chosen)} kept the start" if count else ""


_MEANS = {"score_expert": "demonstrations", "score_correct": "right rollouts", "score_failed": "failed rollouts"}
_MARGINS = {"expert_margin_start": "margin at the start", "expert_margin": "margin at the end"}
_REWARDS_SAID = (
    "What process rewards said in the last training step (mean token reward, mean over runs; margin: demonstrations minus "
    "failed rollouts). A reward with a base measure starts as the base policy's log-probability, in which demonstrations, who "
    "speak another style, are far below the policy's own rollouts, failed ones too: what inverse RL did is the change of "
    "the margin, not its sign ([method.md](../docs/method.md), section 11)."
)


def reward_lines(rows: Sequence[Row]) -> list[str]:
    """Scores of learned and null rewards; nothing where no row has any."""
    names = _MEANS | _MARGINS
    body = []
    for row in rows:
        values = [_mean_diagnostic(row, f"prm/{name}") for name in names]
        if any(value is not None for value in values):
            body.append([row_name(row), *("" if value is None else f"{value:.2f}" for value in values)])
    return ["", _REWARDS_SAID, "", *markdown_table(["run", *names.values()], body)] if body else []


def _mean_diagnostic(row: Row, name: str) -> float | None:
    """Mean over the row's runs; None unless all of them measured it."""
    values = [run.record.diagnostics.get(name) for run in row.runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def cost_lines(rows: Sequence[Row]) -> list[str]:
    """What training, validation and earlier stages cost."""
    header = ["run", "part", *(field.replace("_", " ") for field in budget_fields())]
    table = markdown_table(header, [line for row in rows for line in _cost_of(row)])
    return ["", "What it cost, mean of the row's runs:", "", *table]


def _cost_of(row: Row) -> list[list[str]]:
    """A line for each part that cost something."""
    cost = row.cost
    parts: list[tuple[str, Mapping[str, float]]] = []
    if cost.validation is None and row.checkpoints is not None:
        parts.append(("training and validation", cost.training))
    else:
        parts += [("training", cost.training), ("validation", cost.validation or {})]
    parts.append(("earlier stages", cost.parents or {}))
    spending = [(part, spent) for part, spent in parts if any(spent.values())]
    lines = [[row_name(row), part, *(f"{spent[name]:,.0f}" for name in budget_fields())] for part, spent in spending]
    if cost.parents is None:
        lines.append([row_name(row), "earlier stages", *("?" for _ in budget_fields())])
    return lines or [[row_name(row), "nothing", *("0" for _ in budget_fields())]]


def ungraded_lines(rows: Sequence[Row], labels: dict[Column, str]) -> list[str]:
    """Samples that no grader could decide, and solutions that no reward scored."""

    def said(kind: str) -> str:
        return "; ".join(
            f"{row.name}, {labels[column]}: {cell.ungraded} of {cell.total}"
            for row in rows
            for column, cell in row.cells.items()
            if column.kind == kind and cell.ungraded
        )

    lines = ["", f"Ungraded samples (left out, not counted as wrong): {said('policy') or 'none'}."]
    if unscored := said("judge"):
        lines.append(f"Solutions without scores (too long, or a token spans two steps; counted as judged wrongly): {unscored}.")
    return lines
