"""`repirl check`: cards parse, gold answers grade as correct and wrong ones do not, and what this machine can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.completing import benchmark_names
from repirl.cli.output import JsonFlag, emit, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from types import ModuleType

    from rich.console import Group

    from repirl.evals.label_accuracy import LabelAccuracy
    from repirl.tasks.benchmarks import Benchmark, BenchmarkCard
    from repirl.types import Problem

# Statuses of a card whose problems can be had without a network.
_AT_HAND = ("embedded", "local", "own loader")
_WRONG = {"math": "\\boxed{-123456789}", "integer": "\\boxed{-123456789}", "code": "def f(*_):\n    raise ValueError"}


TESTBED, LABELS = "testbed", "labels"


def register(app: typer.Typer) -> None:
    app.command("check")(check_command)


def check_command(
    benchmark: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these benchmarks or suites of them; or `testbed`, or `labels`.", autocompletion=benchmark_names
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="Of `testbed` and `labels`: the policy that training would start from.")] = "tiny",
    family: Annotated[str, typer.Option(help="Of both: arith, arith_hard or minicode.")] = "arith",
    level: Annotated[
        list[int] | None, typer.Option(help="Of both: a level; default: 4 to 8 (labels: 2 to 6), of minicode all.")
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help="Of `testbed`: a saved reward, to be held against what can be known.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check benchmark cards, gold answers and the environment; exit 1 if a gold answer is refused.

    `repirl check testbed`: can rewards show themselves when this policy is trained on arith? Exit 1 if a bound is missed.
    `repirl check labels`: how often step labels from N continuations (Math-Shepherd) are right, by N. Exit 1 unless it rises.
    """
    from repirl.errors import UserError
    from repirl.tasks.benchmarks import benchmark_cards, expand_benchmarks

    if benchmark == [TESTBED]:
        _check_testbed(policy, family, tuple(level or ()), reward or (), as_json)
        return
    if benchmark == [LABELS]:
        _check_labels(policy, family, tuple(level or ()), as_json)
        return
    if data_dir is not None and not data_dir.is_dir():
        raise UserError("no such data folder", str(data_dir))
    with working("checking") as on_progress:
        cards = benchmark_cards(include=include or (), data_dir=data_dir)
        if benchmark:
            names = expand_benchmarks(benchmark, include or ())
            if unknown := sorted(set(names) - {card.name for card in cards}):
                raise UserError("unknown benchmark", unknown[0], "see `repirl list benchmarks`")
            cards = [card for card in cards if card.name in names]
        checked = [_check_card(card, data_dir, include or (), on_progress) for card in cards]
        found = {"benchmarks": checked, "environment": environment()}
    ok = not any(entry["gold_refused"] or entry["wrong_accepted"] for entry in checked)
    emit(as_json, found | {"ok": ok}, lambda: _tables(found))
    if not ok:
        raise typer.Exit(1)


def _family(name: str, levels: tuple[int, ...]) -> ModuleType:
    """The embedded family; UserError unless it has all these levels."""
    from repirl.errors import UserError
    from repirl.tasks.training_sets import FAMILIES

    if name not in FAMILIES:
        raise UserError("no such embedded family", name, f"choose one of {', '.join(FAMILIES)}")
    known = FAMILIES[name].LEVELS
    if unknown := sorted(set(levels) - set(known)):
        raise UserError(f"no such level of {name}", unknown[0], f"levels are {known[0]} to {known[-1]}")
    return FAMILIES[name]


def _check_labels(policy: str, name: str, given: tuple[int, ...], as_json: bool) -> None:
    from dataclasses import asdict

    from repirl.engines.loading import load_policy
    from repirl.evals.label_accuracy import label_accuracy

    family = _family(name, given)
    levels = given or ((2, 3, 4, 5, 6) if name == "arith" else family.LEVELS)
    with working("labels") as on_progress:
        found = label_accuracy(load_policy(policy), family, levels, on_progress=on_progress)
    ok = found[-1].accuracy.value > found[0].accuracy.value
    payload = {"policy": policy, "family": name, "levels": levels, "labels": [asdict(one) for one in found], "ok": ok}
    emit(as_json, payload, lambda: _labels_table(policy, name, levels, found))
    if not ok:
        raise typer.Exit(1)


def _labels_table(policy: str, family: str, levels: Sequence[int], found: Sequence[LabelAccuracy]) -> Group:
    from rich.console import Group

    title = f"hard labels of the steps of {policy} on {family}, levels {levels[0]} to {levels[-1]}"
    columns = ("N", "like the exact label", "right steps", "wrong steps", "more than with N / 2")
    table = Sheet(*columns, title=title, texts=columns[1::3], right=("N", "right steps", "wrong steps"))
    share = lambda value: "-" if value is None else f"{value:.3f}"
    for one in found:
        gained = "" if one.gained is None else f"{one.gained.value:+.3f} [{one.gained.low:+.3f}, {one.gained.high:+.3f}]"
        whole = f"{one.accuracy.value:.3f} [{one.accuracy.low:.3f}, {one.accuracy.high:.3f}]"
        table.add(str(one.continuations), whole, share(one.right), share(one.wrong), gained)
    return Group(table, "A step's label is 1 if any of N continuations is right. Steps up to the first wrong one.")


def _check_testbed(policy: str, name: str, given: tuple[int, ...], rewards: Sequence[str], as_json: bool) -> None:
    from dataclasses import asdict

    from repirl.engines.loading import load_policy
    from repirl.evals.testbed import check_testbed
    from repirl.methods.registry import load_method
    from repirl.methods.rl import TINY_LEVELS, RLConfig
    from repirl.rewards.load import LoadOptions, load_reward

    family = _family(name, given)
    levels = given or (TINY_LEVELS if name == "arith" else family.LEVELS)
    easy = tuple(one for one in family.LEVELS[:3] if one < min(levels)) or family.LEVELS[:3]
    credits_of = {}
    for credited, method in (("outcome", "rloo"), ("oracle", "oracle")):
        recipe = load_method(method).recipe("tiny")
        assert isinstance(recipe, RLConfig)
        credits_of[credited] = recipe.loop.credit
    judged = {one: load_reward(one, LoadOptions(policy)).reward for one in rewards}
    with working("testbed") as on_progress:
        found = check_testbed(load_policy(policy), family, levels, easy, credits_of, rewards=judged, on_progress=on_progress)
    ok = all(one.holds for one in found)
    rows = [asdict(one) | {"holds": one.holds} for one in found]
    payload = {"policy": policy, "family": name, "levels": levels, "measured": rows, "ok": ok}
    emit(as_json, payload, lambda: _testbed_table(policy, name, levels, rows))
    if not ok:
        raise typer.Exit(1)


def _testbed_table(policy: str, family: str, levels: Sequence[int], rows: Sequence[dict[str, Any]]) -> Group:
    from rich.console import Group

    title = f"{policy} on {family}, levels {levels[0]} to {levels[-1]}"
    table = Sheet("what", "value", "wanted", "holds", title=title, texts=("what", "wanted"), right=("value",))
    for row in rows:
        low, high = row["low"], row["high"]
        wanted = " to ".join(f"{end:g}" for end in (low, high) if end is not None)
        wanted = f"at most {wanted}" if low is None and wanted else f"at least {wanted}" if high is None and wanted else wanted
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        table.add(row["name"], value, wanted, ("yes" if row["holds"] else "no") if wanted else "")
    return Group(table, "The room itself takes training: oracle against rloo at equal rollouts.")


def _check_card(
    card: BenchmarkCard, data_dir: Path | None, include: Sequence[Path], on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Grades the gold of every problem that has one, and one wrong completion of every problem.

    `gold_refused` maps problem ids to reasons, without those that the card lists as mistakes of the source
    (`gold_exceptions`); `wrong_accepted` are ids. `checked` counts golds.
    """
    from repirl.grading.dispatch import grade_rollouts
    from repirl.tasks.benchmarks import load_benchmark

    entry: dict[str, Any] = {"name": card.name, "status": card.status, "problems": card.num_problems, "checked": 0}
    entry |= {"gold_refused": {}, "gold_exceptions": {}, "wrong_accepted": []}
    if card.status not in _AT_HAND:
        return entry
    benchmark = load_benchmark(card.name, data_dir=data_dir, include=include)
    golds = [(problem, gold) for problem in benchmark.problems if (gold := gold_completion(problem, benchmark)) is not None]
    graded = [problem for problem, _ in golds] + list(benchmark.problems)
    texts = [gold for _, gold in golds] + [_WRONG[problem.grader] for problem in benchmark.problems]
    verdicts = grade_rollouts(graded, texts, on_progress=on_progress)
    refused = {
        problem.id: f"{verdict.outcome}{f': {verdict.reason}' if verdict.reason else ''}"
        for (problem, _), verdict in zip(golds, verdicts, strict=False)
        if verdict.outcome != "correct"
    }
    accepted = [p.id for p, v in zip(benchmark.problems, verdicts[len(golds) :], strict=True) if v.outcome == "correct"]
    known = {key: f"{why} ({refused.pop(key)})" for key, why in card.gold_exceptions.items() if key in refused}
    return entry | {
        "checked": len(golds),
        "gold_refused": refused,
        "gold_exceptions": known,
        "wrong_accepted": accepted,
    }


def gold_completion(problem: Problem, benchmark: Benchmark) -> str | None:
    """A completion that must grade as correct; None where no gold program is known."""
    from repirl.tasks.training_sets import FAMILIES

    if problem.grader == "code":
        solution = benchmark.solutions.get(problem.id)
        return None if solution is None else f"```python\n{solution}\n```"
    if (family := FAMILIES.get(problem.family)) is not None:
        return family.solution(problem.source, family.OWN_STYLE)
    return f"\\boxed{{{problem.answer}}}" if problem.answer is not None else None


def environment() -> dict[str, Any]:
    """Versions, hardware, and what optional parts are usable."""
    import importlib.util

    import torch

    from repirl.grading.sandbox.runner import sandbox_level
    from repirl.records.provenance import hardware, package_versions, python_version

    machine = hardware()
    return {
        "python": python_version(),
        "torch": package_versions()["torch"],
        "threads": torch.get_num_threads(),
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory_gib": machine.memory_gib,
        "gpu": machine.gpu,
        "vllm": importlib.util.find_spec("vllm") is not None,
        "openai": importlib.util.find_spec("openai") is not None,
        "sandbox": sandbox_level().describe(),
    }


def _tables(found: dict[str, Any]) -> Group:
    from rich.console import Group

    columns = ("name", "status", "problems", "golds checked", "gold refused", "wrong accepted")
    cards = Sheet(*columns, title="benchmarks", texts=columns[3:], right=("problems",), optional=("problems", "status"))
    listed = Sheet("benchmark", "problem", "reason", title="golds refused, and why", texts=("reason",))
    for entry in found["benchmarks"]:
        refused, known, accepted = (entry[name] for name in ("gold_refused", "gold_exceptions", "wrong_accepted"))
        at_hand = entry["status"] in _AT_HAND
        checked = str(entry["checked"] or "none: it brings no solutions") if at_hand else "no: not in a --data-dir"
        counts = f"{len(refused)}{f' and {len(known)} listed' if known else ''}"
        said = f"{len(accepted)}: {', '.join(accepted[:3])}" if accepted else "0"
        cards.add(entry["name"], entry["status"], str(entry["problems"]), checked, counts, said)
        for key, why in {**refused, **known}.items():
            listed.add(entry["name"], key, why)
    machine = Sheet("what", "value", title="environment", texts=("what", "value"), header=False)
    for name, value in found["environment"].items():
        machine.add(name, _said(value))
    return Group(cards, *([listed] if listed.rows else []), machine)


def _said(value: object) -> str:
    """Yes, no, none, or the value (1 is a number here, not True)."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
