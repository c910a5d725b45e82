"""A small part of the fuzz campaign (`tests/campaigns/fuzz.py`); the whole of it is run by hand."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))

from fuzz import fuzz, targets


def test_hostile_input_is_refused_in_one_line_or_read() -> None:
    counts = fuzz(3000, seed=1)
    assert counts.faults == []
    # The inputs are near enough to valid ones: of each kind some are read.
    assert all(counts.inputs[target.name] > counts.refused[target.name] for target in targets())
    assert sum(counts.refused.values()) > 500
