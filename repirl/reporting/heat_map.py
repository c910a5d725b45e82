"""Scores as colours: one static page with every step and token of some solutions. No script, no external file.

From orange (low) over grey to blue (high), which colour-blind readers can tell apart; every number is also there as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from repirl.evals.scored_solutions import ScoredSolution, ScoredStep, ScoredToken

LOW, MIDDLE, HIGH = (213, 94, 0), (150, 150, 150), (0, 114, 178)


def place_in(values: Sequence[float]) -> Callable[[float], float]:
    """Where a value stands among others: its share of them below it, from 0 to 1, ties in the middle."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))

    def place(value: float) -> float:
        low, high = np.searchsorted(ordered, value, "left"), np.searchsorted(ordered, value, "right")
        return float(low + high) / (2 * len(ordered)) if len(ordered) else 0.5

    return place


def heat_of(place: float) -> tuple[int, int, int]:
    """A colour for a place from 0 to 1."""
    start, end, share = (LOW, MIDDLE, place * 2) if place < 0.5 else (MIDDLE, HIGH, place * 2 - 1)
    r, g, b = (round(a + (z - a) * share) for a, z in zip(start, end, strict=True))
    return r, g, b


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;background:#fff;color:#1f2328}
section{border-top:1px solid #8886;padding:.5rem 0}
.problem{white-space:pre-wrap;opacity:.8;margin:.3rem 0}
table{border-collapse:collapse;width:100%}td{vertical-align:top;padding:.2rem .5rem}
td.score{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;border-right:.4rem solid}
td.step{white-space:pre-wrap;overflow-wrap:anywhere;width:100%}
.suspect td.step{outline:2px solid currentColor}
span[title]{border-radius:2px}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}
"""


def page(scored: Sequence[ScoredSolution], *, reward: str, threshold: float | None) -> str:
    """An HTML page; tokens are coloured among all tokens, steps among all steps, and hold their numbers as titles."""
    step_place = place_in([score for one in scored for score in one.scores])
    token_place = place_in([token.reward for one in scored for token in one.tokens])
    told = "" if threshold is None else f" Outlined: the first step below {threshold:g}."
    body = "".join(_section(one, step_place, token_place) for one in scored)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Scores by {escape(reward)}</title><style>{_STYLE}</style></head><body><h1>Scores by {escape(reward)}</h1>"
        "<p>Colours say where a score stands among all on this page: orange is low, blue is high. A token shows its reward "
        f"under the pointer.{told}</p>{body}</body></html>\n"
    )


def _section(one: ScoredSolution, step_place: Callable[[float], float], token_place: Callable[[float], float]) -> str:
    whole = ", ".join(f"{how} {value:.3g}" for how, value in one.aggregates.items()) or f"unscored: {one.reason}"
    sample = f", sample {one.given.sample}" if one.given.sample else ""
    rows = []
    for i, step in enumerate(one.steps):
        suspect = i == one.first_suspected
        score = "" if step.score is None else f"{step.score:.3f}"
        colour = "" if step.score is None else f' style="border-color:rgb{heat_of(step_place(step.score))}"'
        mark = ' class="suspect"' if suspect else ""
        note = " <b>first suspected</b>" if suspect else ""
        text = _coloured(step, token_place)
        rows.append(f'<tr{mark}><td class="score"{colour}>{score}</td><td class="step">{text}{note}</td></tr>')
    head = f"<h2>{escape(one.given.id)}{sample}</h2><p>{escape(whole)}</p>"
    return f'<section>{head}<div class="problem">{escape(one.given.problem)}</div><table>{"".join(rows)}</table></section>'


def _coloured(step: ScoredStep, place: Callable[[float], float]) -> str:
    return "".join(_token(token, place(token.reward)) for token in step.tokens) or escape(step.text)


def _token(token: ScoredToken, place: float) -> str:
    colour = ",".join(map(str, heat_of(place)))
    shown = escape(token.text) or "&#9646;"  # the end of the sequence has no text
    return f'<span title="{token.reward:.3f}" style="background:rgba({colour},.35)">{shown}</span>'
