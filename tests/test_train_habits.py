"""`repirl train` as people expect it: settings in files, plans, several seeds, continued and longer runs, trackers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from repirl.cli import main as cli
from repirl.cli.train_plan import seeds_of
from repirl.errors import UserError

SMALL = (
    "loop.sampling.prompts_per_step=2",
    "loop.sampling.group_size=2",
    "data.num_problems=16",
    "loop.sampling.max_new_tokens=12",
    "loop.validation.num_problems=2",
    "loop.validation.samples=1",
    "loop.validation.every=2",
    "data.validation_problems=8",
    "loop.optim.lr=0.001",
)


def sets(*settings: str) -> list[str]:
    return [word for setting in (*SMALL, *settings) for word in ("--set", setting)]


@pytest.fixture
def train(policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`train(words, code)`: stdout and stderr of `repirl train` of the random policy, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(words: Sequence[str], code: int = 0) -> tuple[str, str]:
        assert cli.run(["train", *words, "--policy", str(policy_folder)]) == code
        out, err = capsys.readouterr()
        return out, err

    return run


def weights(folder: Path) -> bytes:
    return (folder / "policy" / "model.safetensors").read_bytes()


def timeless(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(("time/", "wall_s"))} for line in lines]


# ------------------------------------------------------------------------------------------- settings and plans


def test_a_printed_config_is_read_again(train, tmp_path: Path) -> None:
    changed = ["repirl", "--set", "loop.credit.rule=alpha", "--set", "loop.credit.alpha=0.2", "--problems", "hard"]
    printed, _ = train([*changed, "--print-config"])
    (tmp_path / "mine.json").write_text(printed)
    again, _ = train(["repirl", "--config", "mine.json", "--print-config"])
    assert json.loads(again) == json.loads(printed)
    assert json.loads(printed)["loop"]["credit"]["alpha"] == 0.2
    assert json.loads(printed)["hard"]["samples"] == 16
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_set_goes_over_the_file_and_a_rule_before_its_settings(train, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('"loop.steps" = 7\n[loop.credit]\nprocess_weight = 0.25\nrule = "sequence"\n')
    found = json.loads(train(["oracle", "--config", "mine.toml", "--set", "loop.steps=9", "--print-config", "--json"])[0])
    assert (found["loop"]["steps"], found["loop"]["credit"]["process_weight"]) == (9, 0.25)
    assert found["loop"]["credit"]["rule"] == "sequence"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be one JSON object"),
        ('{"loop": {"stepz": 1}}', "no such setting: 'loop.stepz'; did you mean loop.steps?"),
        ('{"loop": {"steps": 0}}', "bad setting loop.steps"),
    ],
)
def test_bad_files_of_settings_are_one_line(train, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    out, err = train(["rloo", "--config", "mine.json"], 2)
    assert out == ""
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_dry_run_counts_what_training_then_does(train, tmp_path: Path) -> None:
    words = ["rloo", *sets("loop.steps=3"), "--out", "run"]
    plan = json.loads(train([*words, "--dry-run", "--json"])[0])
    assert list(tmp_path.iterdir()) == []
    assert plan["runs"] == [{"seed": 0, "folder": "run", "state": "new"}]
    assert plan["memory_bytes"] == {"policy": 16 * plan["policy"]["parameters"]}
    done = json.loads(train([*words, "--json"])[0])
    assert plan["updates"] == done["budget"]["policy_updates"] == 3
    assert plan["samples"] == done["budget"]["rollouts"] == 12
    assert plan["validation_samples"] == done["validation_budget"]["rollouts"] == 6
    text, _ = train([*words, "--dry-run"])
    assert "already done" in text
    assert "holds a run with other settings" in train([*words, "--dry-run", "--set", "loop.steps=2"])[0]
    longer = ["--set", "loop.steps=4", "--dry-run"]
    assert "holds a run of 3 steps, which cannot go on" in " ".join(train([*words, *longer])[0].split())
    constant = [*words[:-1], "other", "--set", "loop.optim.schedule=constant"]
    train(constant)
    assert "goes on from step 3 to 4" in train([*constant, *longer])[0]


def test_dry_run_looks_at_the_model_that_a_reward_starts_from(train, tmp_path: Path) -> None:
    small = json.loads(train(["repirl", "--set", "irl.base=mini", "--dry-run", "--json"])[0])
    assert small["memory_bytes"]["reward"] == 16 * small["reward"]["parameters"]
    assert small["reward"]["parameters"] != small["policy"]["parameters"]
    assert "the reward's start mini" in train(["repirl", "--set", "irl.base=mini", "--dry-run"])[0]
    (tmp_path / "empty").mkdir()
    assert "empty" in train(["repirl", "--set", "irl.base=empty", "--dry-run"], 2)[1]


# -------------------------------------------------------------------------------------------------- seeds


def test_lists_of_seeds() -> None:
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("4,0-1") == [4, 0, 1]
    for bad in ("", "a", "3-1", "1,1", "-1", "0-99999999"):
        with pytest.raises(UserError):
            seeds_of(bad)


def test_several_seeds_are_runs_of_their_own(train, tmp_path: Path) -> None:
    words = ["rloo", *sets("loop.steps=1")]
    found = json.loads(train([*words, "--seeds", "0-1", "--out", "runs", "--json"])[0])
    assert [run["folder"] for run in found["runs"]] == ["runs/s0", "runs/s1"]
    train([*words, "--seed", "1", "--out", "alone"])
    assert weights(tmp_path / "runs" / "s1") == weights(tmp_path / "alone") != weights(tmp_path / "runs" / "s0")
    table, said = train([*words, "--seeds", "0,1", "--out", "runs"])
    assert said.count("already done: 1 steps") == 2
    assert [line.split()[1] for line in table.splitlines() if line.startswith("│")] == ["0", "1", "mean"]
    assert "leave out one of them" in train([*words, "--seeds", "0,1", "--seed", "1"], 2)[1]


# ----------------------------------------------------------------------------------- going on, and to more steps


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_a_longer_run_is_what_it_had_been_from_the_start(train, tmp_path: Path, method: str) -> None:
    own = ["offline.updates=2", "offline.problems=4", "offline.samples=2", "irl.balance=false"] if method == "repirl" else []
    words = [method, *sets("loop.optim.schedule=constant", *own)]
    train([*words, "--set", "loop.steps=4", "--out", "run"])
    _, said = train([*words, "--set", "loop.steps=8", "--out", "run"])
    assert "resuming from step 4 of 8 (run)" in said
    train([*words, "--set", "loop.steps=8", "--out", "whole"])
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    for file in (tmp_path / "whole" / "reward").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "run" / "reward" / file.name).read_bytes()
    longer, whole = timeless(tmp_path / "run"), timeless(tmp_path / "whole")
    # The short run's last step also looked at what earns nothing.
    probes = ("prm/score_empty", "prm/score_one_token", "prm/score_repeated", "prm/score_truncated")
    assert [{k: v for k, v in line.items() if k not in probes} for line in longer[:5]] == whole[:5]
    assert longer[5:] == whole[5:]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("run", "whole")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("setting", "names"),
    [("loop.optim.schedule=linear", "loop.optim.schedule"), ("loop.credit.process_ends=0.9", "loop.credit.process_ends")],
)
def test_what_follows_a_schedule_is_not_made_longer(train, tmp_path: Path, setting: str, names: str) -> None:
    words = ["oracle", *sets("loop.optim.schedule=constant", setting), "--out", "run"]
    train([*words, "--set", "loop.steps=1"])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    out, err = train([*words, "--set", "loop.steps=2"], 2)
    assert out == ""
    assert f"a run of 1 steps cannot go on to 2, as {names} depends on their number" in err
    assert ("--set loop.optim.schedule=constant if more steps may follow" in err) == (names == "loop.optim.schedule")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_less_and_other_settings_are_refused_as_ever(train, tmp_path: Path) -> None:
    words = ["rloo", *sets("loop.optim.schedule=constant"), "--out", "run"]
    train([*words, "--set", "loop.steps=2"])
    assert "holds a run with other settings (loop.steps 2, now 1)" in train([*words, "--set", "loop.steps=1"], 2)[1]
    assert "holds a run with other settings" in train([*words, "--set", "loop.steps=3", "--set", "loop.optim.lr=1e-5"], 2)[1]
    (tmp_path / "run" / "checkpoint.pt").unlink()
    assert "kept no checkpoint" in train([*words, "--set", "loop.steps=3"], 2)[1]
    assert "already done: 2 steps (run)" in train([*words, "--set", "loop.steps=2"])[1]


# ------------------------------------------------------------------------------------------------- trackers


def test_tensorboard_has_the_curves_and_samples(train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    words = ["rloo", *sets("loop.optim.schedule=constant"), "--out", "run", "--log", "tensorboard"]
    train([*words, "--set", "loop.steps=2"])
    train([*words, "--set", "loop.steps=3"])  # goes on in files of its own
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("reward", "policy_grad_norm", "validation_accuracy"):
        expected = [(line["step"], line[name]) for line in logged if name in line]
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    texts = {tag: read.Tensors(tag) for tag in read.Tags()["tensors"]}
    assert b"loop.steps = 3" in make_ndarray(texts["settings/text_summary"][-1].tensor_proto)[0]
    assert [event.step for event in texts["samples/1/text_summary"]] == [0, 2, 3]
    assert b"Compute " in make_ndarray(texts["samples/1/text_summary"][0].tensor_proto)[0]


class Library:
    """Stands in for a tracker's package: what is documented of `init`, `log` and `finish`, written down."""

    def __init__(self) -> None:
        self.started: list[dict] = []
        self.logged: list[tuple[dict, dict]] = []
        self.ended = 0

    def init(self, **given):
        self.started.append(given)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict, **given) -> None:
        self.logged.append((values, given))

    def finish(self) -> None:
        self.ended += 1

    def Table(self, *, columns: list[str], data: list) -> tuple:
        return (tuple(columns), data)

    def Markdown(self, text: str) -> str:
        return text


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_are_told_the_same(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, name, library)
    train(["rloo", *sets("loop.steps=1"), "--out", "run", "--log", name])
    (started,) = library.started
    assert (started["project"], started["name"], started["config"]["loop.steps"]) == ("repirl", "run", 1)
    steps = [given.get("step", values.get("step")) for values, given in library.logged]
    assert steps == sorted(steps)
    assert {0, 1} == set(steps)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert any(values.get("reward") == last["reward"] for values, _ in library.logged)
    assert any("Compute " in str(values.get("samples/1")) for values, _ in library.logged)
    assert library.ended == 1


def test_trackers_that_cannot_be_had_are_one_line(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert "unknown tracker: 'mlflow'; choose of tensorboard, wandb, trackio" in train(["rloo", "--log", "mlflow"], 2)[1]
    assert "not installed: 'trackio'; pip install 'repirl[trackio]'" in train(["rloo", "--log", "trackio"], 2)[1]
    assert list(tmp_path.iterdir()) == []
