"""repirl: process reward models learned from demonstrations by inverse reinforcement learning.

`load_reward`, `grade`, `evaluate` and `load_records` do what the verbs do; nothing else is loaded before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repirl.api.evaluation import evaluate
    from repirl.api.grading import grade, grade_many
    from repirl.api.records import load_records
    from repirl.api.scoring import Reward, load_reward
    from repirl.errors import UserError
    from repirl.evals.scored_solutions import ScoredSolution, ScoredStep, ScoredToken
    from repirl.types import Interval, Report, Verdict

__version__ = "0.1.0"

_PLACES = {
    "repirl.api.evaluation": ("evaluate",),
    "repirl.api.grading": ("grade", "grade_many"),
    "repirl.api.records": ("load_records",),
    "repirl.api.scoring": ("Reward", "load_reward"),
    "repirl.errors": ("UserError",),
    "repirl.evals.scored_solutions": ("ScoredSolution", "ScoredStep", "ScoredToken"),
    "repirl.types": ("Interval", "Report", "Verdict"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "Interval",
    "Report",
    "Reward",
    "ScoredSolution",
    "ScoredStep",
    "ScoredToken",
    "UserError",
    "Verdict",
    "__version__",
    "evaluate",
    "grade",
    "grade_many",
    "load_records",
    "load_reward",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'repirl' has no attribute {name!r}")
    return getattr(import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
