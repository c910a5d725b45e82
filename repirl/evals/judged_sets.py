"""Step-labelled sets by name: ProcessBench, PRMBench, `arith` with exact labels, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from repirl.engines.base import SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.evals.selection import Draw
from repirl.grading.dispatch import check_ungraded, grade_rollouts
from repirl.processes import turn_at
from repirl.rng import seed_for, stream
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.pool import SamplePool
from repirl.tasks import arith
from repirl.tasks.prm_benchmarks import (
    ARITH_PROBLEMS,
    ARITH_SETS,
    PRMCard,
    load_prmbench,
    load_processbench,
    prm_cards,
    subset_of,
)
from repirl.tasks.step_labels import LabelledSolution, StepFormat, read_labelled, solutions_digest
from repirl.types import Outcome, Problem, SampleRow, Verdict

_ARITH_MAX_NEW_TOKENS = 192


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """Solutions to be judged, each with its `subset`.

    `kind` says how: `first_error` as ProcessBench (F1 of each subset, unweighted mean), `steps` as PRMBench (PRMScore over all
    steps; solutions of the class `correct` are controls). `tuning` are the solutions for choosing a threshold, from
    `tuned_on`; without them it is chosen in folds of the set itself. `notes` are counts of what was left out, and why. `draws`
    are all samples of the problems, where the solutions are such: for choosing among them.
    """

    name: str
    kind: Literal["first_error", "steps"]
    solutions: tuple[LabelledSolution, ...]
    separator: str
    tuning: tuple[LabelledSolution, ...] = ()
    tuned_on: str = ""
    notes: tuple[tuple[str, int], ...] = ()
    draws: tuple[Draw, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over problems, steps and labels, in order."""
        return solutions_digest(self.solutions)


@dataclass(frozen=True, slots=True)
class SetOptions:
    """`limit`: that many solutions of each subset, drawn with `seed`, as files may be sorted by label.

    `solver` is the policy that wrote the solutions of `ARITH_SETS`; they are kept in `pool_folder` (None: in memory only),
    where of several processes one samples and the others find them.
    """

    data_dir: Path | None = None
    limit: int | None = None
    step_format: StepFormat | None = None
    solver: str = "tiny"
    seed: int = 0
    with_tuning: bool = True
    pool_folder: Path | None = None


def natural_separator(name: str) -> str:
    """What lies between the steps of the set's texts, for rewards that have no separator of their own."""
    return "\n" if name in ARITH_SETS else "\n\n"


def load_set(name: str, options: SetOptions) -> JudgedSet:
    """A set by name (`processbench`, `processbench/gsm8k`, `prmbench`, `arith`, `arith_long`) or a file of labelled steps.

    UserError for an unknown name (listing the known ones), missing data, and malformed rows.
    """
    if name in ARITH_SETS:
        return _arith(name, options)
    cards = prm_cards()
    benchmark, _, subset = name.partition("/")
    if benchmark in cards and not Path(name).is_file():
        load = _processbench if cards[benchmark].format == "processbench" else _prmbench
        return load(name, cards[benchmark], subset, options)
    path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join((*cards, arith.FAMILY))
        raise UserError("neither a step-labelled set nor a file", name, f"choose one of {known}, or give a JSONL file")
    solutions = [_in_subset(one, path.stem) for one in read_labelled(path, options.step_format)]
    return JudgedSet(name, "first_error", tuple(_limited(solutions, options)), natural_separator(name))


def _processbench(name: str, card: PRMCard, chosen: str, options: SetOptions) -> JudgedSet:
    subsets = [subset_of(card, chosen)] if chosen else list(card.subsets)

    def rows(subset) -> list[LabelledSolution]:
        found = load_processbench(card, subset, options.data_dir)
        return [_in_subset(one, subset.name) for one in _limited(found, options)]

    tuning = subset_of(card, card.tuning_subset) if options.with_tuning and card.tuning_subset else None
    return JudgedSet(
        name,
        "first_error",
        tuple(one for subset in subsets for one in rows(subset)),
        natural_separator(name),
        tuple(rows(tuning)) if tuning else (),
        f"{card.folder}/{tuning.name}" if tuning else "",
    )


def _prmbench(name: str, card: PRMCard, chosen: str, options: SetOptions) -> JudgedSet:
    found = load_prmbench(card, subset_of(card, chosen) if chosen else card.subsets[0], options.data_dir)
    classes = dict.fromkeys(one.subset for one in found.solutions)
    kept = [one for kind in classes for one in _limited([s for s in found.solutions if s.subset == kind], options)]
    items = {one.cluster for one in kept}
    controls = [one for one in found.controls if one.cluster in items]
    notes = (("controls", len(controls)), ("error_marks_beyond_the_last_step", found.marks_beyond_end))
    return JudgedSet(name, "steps", (*kept, *controls), natural_separator(name), notes=notes)


def _limited(solutions: Sequence[LabelledSolution], options: SetOptions) -> list[LabelledSolution]:
    """A seeded sample of `limit` solutions, in their order; all without a limit."""
    chosen = stream(options.seed, "judge-limit").permutation(len(solutions))[: options.limit]
    return [solutions[i] for i in sorted(chosen.tolist())]


def _in_subset(solution: LabelledSolution, subset: str) -> LabelledSolution:
    return replace(solution, subset=subset)


def _arith(name: str, options: SetOptions) -> JudgedSet:
    """Solutions sampled from the solver for the problems of the benchmark of that name; validation problems for tuning."""
    solutions, dropped, draws = _sampled(name, "test", options)
    tuning = _sampled(name, "validation", options)[0] if options.with_tuning else ()
    return JudgedSet(
        name,
        "first_error",
        solutions,
        natural_separator(name),
        tuning,
        f"{name} validation problems" if tuning else "",
        (("unfinished_or_repeated_samples_left_out", dropped),),
        draws,
    )


def _sampled(name: str, split: str, options: SetOptions) -> tuple[tuple[LabelledSolution, ...], int, tuple[Draw, ...]]:
    """Labelled samples, the number of samples left out (their last step is cut off, or they say nothing new), and all draws."""
    count = ARITH_PROBLEMS if options.limit is None else min(ARITH_PROBLEMS, options.limit)
    levels, samples = ARITH_SETS[name]
    problems = arith.problems(split, count, levels=levels)
    policy = load_policy(options.solver)
    decoding = Decoding(SamplingParams(_ARITH_MAX_NEW_TOKENS))
    collector = Collector(policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, decoding)
    folder = options.pool_folder
    with nullcontext() if folder is None else turn_at(folder):
        pool = SamplePool(folder, f"judge-{name}-{split}", {"policy": policy.digest, "seed": options.seed})
        pool.fill(split, collector, problems, samples, seed_for(options.seed, "judge", split))
    rows = [(problem, row) for problem in problems for row in pool.rows(split, problem.id)]
    check_ungraded([Verdict(row.outcome, row.reason) for _, row in rows])
    finished = [(problem, row) for problem, row in rows if row.outcome != "truncated" and row.text.strip()]
    first: dict[tuple[str, str], tuple[Problem, SampleRow]] = {}
    for problem, row in finished:
        first.setdefault((problem.id, row.text), (problem, row))
    distinct = list(first.values())
    solutions = label_arith([p for p, _ in distinct], [row.text for _, row in distinct], [row.outcome for _, row in distinct])
    place = {pair: i for i, pair in enumerate(first)}
    draws = [Draw(p.id, place.get((p.id, row.text)), row.extracted, row.outcome == "correct") for p, row in rows]
    kept = solutions[: options.limit]
    # With a limit only problems whose solutions are all among them.
    cut = {draw.problem for draw in draws if draw.solution is not None and draw.solution >= len(kept)}
    return tuple(kept), len(rows) - len(distinct), tuple(draw for draw in draws if draw.problem not in cut)


def label_arith(problems: Sequence[Problem], texts: Sequence[str], outcomes: Sequence[Outcome]) -> list[LabelledSolution]:
    """Finished and graded solutions of `arith` problems with the exact checker's label of every line; blank lines are no steps.

    After the first wrong line a label says nothing (there is no right line after a wrong state), so it is None.
    """
    found = []
    for i, (problem, text, outcome) in enumerate(zip(problems, texts, outcomes, strict=True)):
        steps = tuple(line for line in text.split("\n") if line.strip())
        right = arith.check_steps(problem.source, "\n".join(steps))
        alive = right.index(False) + 1 if False in right else len(right)
        labels = (*map(float, right[:alive]), *(None,) * (len(right) - alive))
        found.append(
            LabelledSolution(
                id=f"{problem.id}.{i}",
                problem=problem.prompt,
                steps=steps,
                labels=labels,
                subset=arith.FAMILY,
                final_answer_correct=outcome == "correct" if outcome != "ungraded" else None,
                source=problem.source,
                cluster=problem.id,
            )
        )
    return found
