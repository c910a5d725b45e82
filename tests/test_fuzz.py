"""A small part of the fuzz campaign (`tests/campaigns/fuzz.py`); the whole of it is run by hand."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))

import pytest
from fuzz import deadline, fuzz, targets

from repirl.grading.code.fences import extract_code, has_closed_block
from repirl.tasks import arith


def test_hostile_input_is_refused_in_one_line_or_read() -> None:
    counts = fuzz(3000, seed=1)
    assert counts.faults == []
    # The inputs are near enough to valid ones: of each kind some are read.
    assert all(counts.inputs[target.name] > counts.refused[target.name] for target in targets())
    assert sum(counts.refused.values()) > 500


PIECES = ("```\n", "~~~a\n```b\n", "```py\n'''\n", '```py\n"""\n```\n', "`", "~", " ", "\\", "\n", "from __future__ import a\n")
PIECES += ("1+", "(", "9", "\\boxed{1}", " as ", "=", "1=1\n", " so ", "first ", ": ", "((1+2)*3)-", "-")


@pytest.mark.parametrize("piece", PIECES)
def test_what_else_reads_a_models_text_is_linear(piece: str) -> None:
    """Programs and steps are looked for in this process, without a deadline: 200,000 characters take parts of a second."""
    text = piece * (200_000 // len(piece))
    source = arith.problems("validation", 1, levels=(8,))[0].source
    with deadline(10):
        extract_code(text)
        has_closed_block(text)
        arith.check_steps(source, text)
        arith.check_steps(source, f"{source}\n{text}")
