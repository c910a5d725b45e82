"""What the shell is offered for names: found without torch, as it waits for them at every press of the key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Offer = list[str]
_MODELS = ("policy", "reward")
"""Folders that make a folder in `runs/` one that can be given by its path."""


def method_names(incomplete: str) -> Offer:
    """Methods; none where they cannot be read without importing them."""
    from repirl.methods.described import described_unread

    return _beginning(incomplete, [one["name"] for one in described_unread() or ()])


def benchmark_names(incomplete: str) -> Offer:
    """Benchmarks and suites of them."""
    from repirl.tasks.task_files import find_task_files

    files = find_task_files(())
    return _beginning(incomplete, [*files.tasks, *files.groups])


def suite_names(incomplete: str) -> Offer:
    """Suites of runs."""
    from repirl.paths import suite_files

    return _beginning(incomplete, suite_files())


def reward_names(incomplete: str) -> Offer:
    """Rewards that go by a name, prefixes of published formats, run folders, and any path that begins so."""
    from repirl.rewards.names import NAMED_REWARDS, PUBLISHED_FORMATS

    prefixes = [f"{name}:" for name in PUBLISHED_FORMATS]
    return _beginning(incomplete, [*NAMED_REWARDS, *prefixes, *_runs()]) + _paths(incomplete)


def approach_names(incomplete: str) -> Offer:
    """Ways of searching."""
    from repirl.evals.approaches import APPROACHES

    return _beginning(incomplete, APPROACHES)


def set_names(incomplete: str) -> Offer:
    """Step-labelled sets, and any path that begins so."""
    from repirl.tasks.prm_benchmarks import ARITH_SETS, prm_cards

    subsets = [f"{name}/{subset.name}" for name, card in prm_cards().items() for subset in card.subsets]
    return _beginning(incomplete, [*ARITH_SETS, *prm_cards(), *subsets]) + _paths(incomplete)


def policy_names(incomplete: str) -> Offer:
    """Embedded policies, run folders' policies, and any path that begins so."""
    from repirl.engines.loading import EMBEDDED

    trained = [f"{run}/policy" for run in _runs() if Path(run, "policy").is_dir()]
    return _beginning(incomplete, [*EMBEDDED, *trained]) + _paths(incomplete)


def _runs() -> list[str]:
    """Folders in `runs/` that hold a policy or a reward."""
    found = sorted(Path("runs").glob("*")) if Path("runs").is_dir() else []
    return [str(path) for path in found if any((path / name).is_dir() for name in _MODELS)]


def _paths(incomplete: str) -> Offer:
    """Files and folders; none before a letter was typed."""
    start = Path(incomplete).parent
    if not incomplete or not start.is_dir():
        return []
    return _beginning(incomplete, [str(path) + "/" * path.is_dir() for path in sorted(start.iterdir())])


def _beginning(incomplete: str, names: Iterable[str]) -> Offer:
    return [name for name in names if name.startswith(incomplete)]
