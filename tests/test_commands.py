"""Every command in the README and in `docs/` is run: in the order of its page, in a folder that has the files which they name.

What a user would wait for is made small by options behind it. What needs a hub, a GPU, several processes, or the whole of
`results/` is only read: its verb and its options must exist; the reason stands beside it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from repirl.cli import main as cli
from repirl.paths import ASSETS_DIR, CHECKOUT_DIR
from repirl.tasks import arith

PAGES = [CHECKOUT_DIR / "README.md", CHECKOUT_DIR / "CONTRIBUTING.md", *sorted((CHECKOUT_DIR / "docs").glob("*.md"))]
LOOP = (
    "loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "loop.sampling.max_new_tokens=16",
    "loop.validation.num_problems=2", "loop.validation.samples=1", "data.num_problems=8", "data.validation_problems=2",
)  # fmt: skip
OFFLINE = ("offline.updates=1", "offline.problems=4", "offline.samples=2", "offline.levels=[1]")
SMALL = {
    "train": (),
    "eval": ("--limit", "2", "--samples", "2", "--max-new-tokens", "16"),
    "judge": ("--limit", "8"),
    "scale": ("--limit", "2", "--samples", "2"),
    "demos": ("--samples", "2", "--max-new-tokens", "24"),
    "check": (),
}
ONLY_READ = {
    r"judge \S*(Qwen|peiyi9979|FOLDER)": "a published PRM, and ProcessBench: test_published_rewards.py reads these formats",
    r"--data-dir DATA|livecodebench:|lm-eval:|check mine": "benchmark data: test_benchmarks.py has small files",
    r"--ray address": "a cluster of several machines: test_machines.py has one",
    r"^bench ": "a suite: test_bench.py runs one",
    r"^leaderboard ": "all records: test_cli.py checks them",
    r"^(verify|check labels)": "minutes: test_theory.py and test_label_accuracy.py run them",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a page's code; `words` after `repirl`."""

    page: Path
    number: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def commands(page: Path) -> Iterator[Command]:
    """Lines of code blocks that begin with `repirl`, without what a comment says."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fenced ^= line.startswith("```")
        found = re.match(r"(?:    )?repirl ([a-z].*)", line)
        if found and (fenced or line.startswith("    ")):
            yield Command(page, number, tuple(shlex.split(re.sub(r"\s{2,}#.*", "", found[1]))))


def inline(page: Path) -> Iterator[Command]:
    """What stands in running text as code: at least the verb and an option or argument."""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        for said in re.findall(r"`repirl ([a-z]+ [^`]+)`", line):
            yield Command(page, number, tuple(said.split()))


IN_BLOCKS = {page.name: list(commands(page)) for page in PAGES if list(commands(page))}
IN_TEXT = [command for page in PAGES for command in inline(page)]


def why_only_read(command: Command) -> str | None:
    return next((why for pattern, why in ONLY_READ.items() if re.search(pattern, str(command))), None)


def options_of(verb: str) -> set[str]:
    """Names of a verb's options."""
    found = get_command(cli.app)
    assert isinstance(found, typer.core.TyperGroup)
    assert verb in found.commands, f"no such verb: {verb}"
    return {name for parameter in found.commands[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_there_are_such_pages() -> None:
    assert {"README.md", "own.md", "verbs.md"} <= IN_BLOCKS.keys()
    assert len(IN_TEXT) > 20


@pytest.mark.parametrize("command", [*IN_TEXT, *(one for of in IN_BLOCKS.values() for one in of)], ids=str)
def test_verbs_and_options_exist(command: Command) -> None:
    verb, *words = command.words
    known = options_of(verb) | {"--help", "--json"}
    assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == []


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ASSETS_DIR / "tiny", tmp_path / "FOLDER")
    problems = arith.problems("train", 24, levels=(1,), seed=3)
    written = lambda name, rows: (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    solutions = {problem.id: [demo.text for demo in arith.demonstrations(problem, 2)] for problem in problems}
    written(
        "MINE.jsonl",
        [{"problem": p.prompt, "answer": p.answer, "demonstrations": solutions[p.id]} for p in problems],
    )
    written("SOLUTIONS.jsonl", [{"problem": p.prompt, "solution": solutions[p.id][0]} for p in problems[:3]])
    return tmp_path


def made_small(command: Command) -> list[str]:
    verb, *words = command.words
    extra = list(SMALL.get(verb, ()))
    if verb == "train":
        settings = [*LOOP, *(OFFLINE if words[0] == "repirl" else ())]
        if "data.source=file" in words:
            settings = [one for one in settings if "data." not in one]
        extra += [part for setting in settings for part in ("--set", setting)]
    return [verb, *words, *extra]


@pytest.mark.parametrize("page", IN_BLOCKS)
def test_commands_run(page: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in IN_BLOCKS[page]:
        if why_only_read(command) is None:
            code = cli.run(made_small(command))
            assert code == 0, f"{page}, line {command.number}: {command}\n{capsys.readouterr().err}"


def test_the_settings_for_a_real_model_are_settings(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file in docs/own.md, with the command that stands in it."""
    page = (CHECKOUT_DIR / "docs" / "own.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    (command,) = re.findall(r"`repirl (.+?)`", text)
    (workspace / "mine.toml").write_text(text.replace("validation_problems = 32", "validation_problems = 4"))
    assert cli.run([*shlex.split(command), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "60 updates on 7,680 samples" in said
    assert "20 problems of MINE.jsonl, 4 held out" in said
