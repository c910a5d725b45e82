"""`benchmarks/search_gain.py`: what a search adds to sampling, from records, by hand."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from test_reporting import GOOD, scored_pool, searches, write

from repirl.errors import UserError
from repirl.paths import CHECKOUT_DIR
from repirl.records.store import find
from repirl.types import Budget

spec = importlib.util.spec_from_file_location("search_gain", CHECKOUT_DIR / "benchmarks" / "search_gain.py")
assert spec is not None
assert spec.loader is not None
search_gain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(search_gain)


def test_both_differences_are_of_the_same_problems_and_the_same_tokens(tmp_path: Path) -> None:
    """96 samples cost 12 tokens each: the search of n=4 costs 72, which is more than all 4 of them; that of n=1 18, as much as
    2 samples."""
    for seed in range(3):
        pool = replace(scored_pool(seed, 0.5), budget=Budget(generated_tokens=96 * 5, scored_tokens=96 * 7))
        write(tmp_path, "good", seed, GOOD, scalings=[pool], searches=[searches(seed, 0.9)])
    runs = find("trial", root=tmp_path)
    right, tokens, same, number, costly = search_gain.compared(runs, 0, 4)
    best = {n: [run.record.scalings[0].curves["best-of-N mean"][n].value for run in runs] for n in ("1", "2", "4")}
    found = [run.record.searches[0].points["4"].accuracy["best"].value for run in runs]
    mean = sum(found) / 3
    assert right.startswith(f"{mean:.3f} [")
    assert (tokens, number) == ("72", "4")
    assert same == costly
    assert same.startswith(f"{mean - sum(best['4']) / 3:+.3f} [")
    right, tokens, same, number, costly = search_gain.compared(runs, 0, 1)
    assert (right.split()[0], tokens, number) == ("0.000", "18", "2")
    assert same.startswith(f"{-sum(best['1']) / 3:+.3f} [")
    assert costly.startswith(f"{-sum(best['2']) / 3:+.3f} [")


def test_samples_of_another_policy_are_refused(tmp_path: Path) -> None:
    pool = replace(scored_pool(0, 0.5), policy_digest="1" * 64)
    write(tmp_path, "good", 0, GOOD, scalings=[pool], searches=[searches(0, 0.9)])
    with pytest.raises(UserError, match="another policy"):
        search_gain.compared(find("trial", root=tmp_path), 0, 4)
    pool = replace(scored_pool(1, 0.5), protocol={"samples": 4, "seed": 0, "limit": 3})
    write(tmp_path, "good", 1, GOOD, scalings=[pool], searches=[searches(1, 0.9)])
    with pytest.raises(UserError, match="differ in limit"):
        search_gain.compared([run for run in find("trial", root=tmp_path) if run.record.seed == 1], 0, 4)
