"""The rooms of the package: who may import whom, read from the source (docs/design.md section 3)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from repirl.paths import CHECKOUT_DIR, PACKAGE_DIR

# Data flows down this list: a room imports the ground floor and rooms above it, never below.
ROOMS = (
    "engines",
    "tasks",
    "grading",
    "rollouts",
    "rewards",
    "learn",
    "methods",
    "evals",
    "records",
    "bench",
    "reporting",
    "theory",
    "api",
    "cli",
)
# Must not be imported when the command line only parses: anything that takes a second.
HEAVY = {"torch", "transformers", "datasets", "lm_eval", "sympy", "math_verify", "scipy", "pandas", "evaluate", "trl", "openai"}
FILES = sorted(path for path in PACKAGE_DIR.rglob("*.py") if "_content" not in path.parts)
# `__main__` starts the command line: it reaches down on purpose.
REACHES_DOWN = {PACKAGE_DIR / "__main__.py"}


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Dotted names that a module imports, and whether only for type checkers."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, typing_only = stack.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they reach"
            yield from ((f"{node.module}.{alias.name}", typing_only) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += [(child, True) for child in node.body] + [(child, typing_only) for child in node.orelse]
        else:
            stack += [(child, typing_only) for child in ast.iter_child_nodes(node)]


def room_of(name: str) -> str | None:
    """Room of `repirl.<room>...`; None for the ground floor and other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "repirl" and len(parts) > 1 and parts[1] in ROOMS else None


def breaches(source: str, own: str | None) -> list[str]:
    """Imports of `source`, a module of room `own` (None: ground floor), that go down the list."""
    rank = ROOMS.index(own) if own else -1
    found = [name for name, typing_only in imports(ast.parse(source)) if not (own is None and typing_only)]
    return [name for name in found if (room := room_of(name)) is not None and ROOMS.index(room) > rank]


def own_room(path: Path) -> str | None:
    first = path.relative_to(PACKAGE_DIR).parts[0]
    return first if first in ROOMS else None


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE_DIR.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path not in REACHES_DOWN], ids=lambda path: str(path.relative_to(PACKAGE_DIR))
)
def test_imports_go_up(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8"), own_room(path)) == []


def test_content_is_not_an_import_root() -> None:
    for folder in ("baselines", "benchmarks"):
        assert not list((CHECKOUT_DIR / folder).rglob("__init__.py"))
    for path in FILES:
        names = {name.split(".")[0] for name, _ in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not names & {"baselines", "benchmarks", "tests"}, path


def test_command_line_defers_heavy_imports() -> None:
    """Module-level imports of `cli` and of the ground floor that it loads are light."""
    light = [path for path in FILES if own_room(path) == "cli"] + [PACKAGE_DIR / "errors.py", PACKAGE_DIR / "paths.py"]
    for path in light:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        for name, _ in imports(top):
            assert name.split(".")[0] not in HEAVY, f"{path.name} imports {name}"
            assert room_of(name) in {None, "cli"}, f"{path.name} imports {name} before the verb runs"


def test_a_breach_would_be_seen() -> None:
    assert breaches("from repirl.learn.loop import Loop", "rewards") == ["repirl.learn.loop.Loop"]
    assert breaches("def f():\n    import repirl.cli.main", "bench") == ["repirl.cli.main"]
    assert breaches("from repirl import evals", "learn") == ["repirl.evals"]
    assert breaches("from repirl.engines import base", None) == ["repirl.engines.base"]
    assert breaches("from repirl.rewards.base import R\nfrom repirl.types import Budget\nimport torch", "learn") == []


PASSING_ON = {"rollouts/following.py", "engines/copied.py", "engines/ray_engine.py"}


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (r"\.backward\(|clip_grad_norm_|optimizer\.step\(", {"learn/gradient.py"}),
        (r"length_sorted_chunks\(|pad_batch\(\[rows", {"rollouts/packing.py"}),
        # Completions of problems; judgements of them; steps of a search; engines that pass on to others.
        (r"\.generate\(", {"rollouts/collect.py", "rewards/written.py", "evals/search.py", *PASSING_ON}),
        (r"save_checkpoint\(|load_checkpoint\(", {"learn/run.py", "learn/checkpoint.py"}),
        (r"optim\.AdamW\(", {"learn/updater.py"}),
    ],
)
def test_what_stands_in_one_place(what: str, where: set[str]) -> None:
    """One gradient step, one loop, one way to sample: a copy elsewhere would drift from it."""
    content = [*FILES, *sorted((CHECKOUT_DIR / "baselines").glob("*.py"))]
    found = {path for path in content if re.search(what, path.read_text(encoding="utf-8"))}
    assert {path.relative_to(PACKAGE_DIR).as_posix() for path in found} == where
