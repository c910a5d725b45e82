"""Two processes come to what one does: gradients, weights, passes without gradient, whole runs, and resuming across numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import parallel_child as child
import pytest
import torch
from safetensors.torch import load_file

from repirl.paths import CHECKOUT_DIR
from repirl.rollouts import packing

pytestmark = pytest.mark.xdist_group("torchrun")


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine, by torch's own launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT_DIR)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def child_run(what: str, policy_folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return torchrun(Path(child.__file__), what, policy_folder, out)


@pytest.fixture(scope="module")
def out(policy_folder, tmp_path_factory) -> Path:
    """What two processes left; one run in it was begun by a single process."""
    folder = tmp_path_factory.mktemp("two")
    child.fit(policy_folder, folder / "from-one-to-two", "repirl", until=child.INTERRUPTED_AFTER)
    ended = child_run("all", policy_folder, folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def two(out) -> dict[str, Any]:
    return torch.load(out / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return child.gradients()


@pytest.fixture(scope="module", autouse=True)
def every_prompt_in_its_row():
    """As it is with several processes: passes of other shapes differ in their last digits, which AdamW makes first ones."""
    packing.SHARING_PAYS, before = 0.0, packing.SHARING_PAYS
    yield
    packing.SHARING_PAYS = before


KINDS = ("tied", "untied", "adapters", "energy")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_one_process(one, two, kind):
    ours, theirs = one[kind]["gradients"], two["gradients"][kind]["gradients"]
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert gradient.abs().max() > 0 or "lora_A" in name  # behind adapters that are 0 there is none yet
        torch.testing.assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_three_updates_leave_the_same_weights_losses_and_norms(one, two, kind):
    for name, weight in one[kind]["weights"].items():
        torch.testing.assert_close(two["gradients"][kind]["weights"][name], weight, atol=1e-5, rtol=0)
    for ours, theirs in zip(one[kind]["said"], two["gradients"][kind]["said"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)


def test_passes_without_gradient_are_shared_and_whole(two):
    for ours, theirs in zip(child.scores(), two["scores"], strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_cut_weights_come_out_whole_and_their_changes_are_noticed(two):
    ours, theirs = child.versions(), two["versions"]
    assert ours["seen"] == [0, 1, 2, 3]
    assert theirs["seen"] == ours["seen"]
    assert list(theirs["tensors"]) == list(ours["tensors"])
    assert all(torch.equal(theirs["tensors"][name], value) for name, value in ours["tensors"].items())


def test_work_is_shared_and_numbers_are_added(two):
    assert two["sums"]["shared"] == [(i * i, i % 2) for i in range(7)]
    assert two["sums"]["total"] == [[3.0, 1.0], [3, 20]]
    assert two["sums"]["gathered"] == [{"process": 1}, {"process": 2}]
    assert child.sums() == {
        "shared": [(i * i, 0) for i in range(7)],
        "total": [[1.0, 0.5], [1, 10]],
        "gathered": [{"process": 1}],
    }


def same(folder: Path, other: Path, parts: tuple[str, ...]) -> None:
    """Both runs have finished, with the same weights and (but for times) the same metrics."""
    for part in parts:
        ours, theirs = (load_file(place / part / "model.safetensors") for place in (folder, other))
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=0)
    logs = [[json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()] for place in (folder, other)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        kept = [name for name, value in ours.items() if value is not None and not name.endswith("_s") and "gap" not in name]
        assert {name: theirs[name] for name in kept} == pytest.approx({name: ours[name] for name in kept}, rel=1e-3, abs=1e-4)
        assert theirs.get("engine_logprob_gap_max", 0) < 1e-3


PARTS = {"rloo": ("policy",), "repirl": ("policy", "reward"), "sft_rloo": ("policy", "sft/policy")}


@pytest.mark.parametrize("method", PARTS)
def test_a_run_of_two_processes_is_a_run_of_one(out, policy_folder, tmp_path, method):
    child.fit(policy_folder, tmp_path / "one", method)
    same(tmp_path / "one", out / f"{method}-two", PARTS[method])


def test_adapters_are_trained_by_two_processes_as_by_one(out, policy_folder, tmp_path):
    child.fit(policy_folder, tmp_path / "one", lora=2)
    same(tmp_path / "one", out / "rloo-lora-two", ("policy",))
    start = load_file(policy_folder / "model.safetensors")
    left = load_file(out / "rloo-lora-two" / "policy" / "model.safetensors")
    assert any((left[name] - value).abs().max() > 1e-3 for name, value in start.items())


def test_a_run_goes_on_with_another_number_of_processes(out, policy_folder, tmp_path):
    child.fit(policy_folder, tmp_path / "one", "repirl")
    checkpoint = out / "from-two-to-one"
    assert (checkpoint / f"checkpoint-{child.INTERRUPTED_AFTER}" / ".metadata").is_file()
    child.fit(policy_folder, checkpoint, "repirl")
    assert not list(checkpoint.glob("checkpoint*"))
    for folder in (checkpoint, out / "from-one-to-two"):
        same(tmp_path / "one", folder, PARTS["repirl"])


@pytest.mark.ray
def test_workers_of_ray_sample_for_processes_that_train_together(policy_folder, tmp_path):
    """The first process drives them, all get what they sampled; the workers have the adapters merged."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'repirl[ray]')")
    settings = [part for key, value in child.SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    ray = [part for given in ("samplers=2", "sampler_cpus=0.5", "graders=1") for part in ("--ray", given)]
    given = ["-m", "repirl", "train", "rloo", "--policy", policy_folder, "--out", tmp_path / "two", *settings, *ray, "--json"]
    ended = torchrun(*given, "--lora-rank", "2")
    assert ended.returncode == 0, ended.stderr[-3000:]
    child.fit(policy_folder, tmp_path / "one", lora=2)
    same(tmp_path / "one", tmp_path / "two", ("policy",))
    last = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["engine_logprob_gap_max"] < 1e-4


def test_a_process_that_dies_ends_the_run_and_its_checkpoint_stays(policy_folder, tmp_path):
    ended = child_run("die", policy_folder, tmp_path)
    assert ended.returncode == 1
    assert "exitcode  : 3" in ended.stderr
    child.fit(policy_folder, tmp_path / "dies")
    child.fit(policy_folder, tmp_path / "one")
    same(tmp_path / "one", tmp_path / "dies", ("policy",))


def test_the_command_line_speaks_once_and_a_mistake_ends_it(policy_folder, tmp_path):
    settings = [part for key, value in child.SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    given = ["-m", "repirl", "train", "rloo", "--policy", policy_folder, "--out", tmp_path / "run", *settings, "--json"]
    ended = torchrun(*given)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["budget"]["policy_updates"] == child.SMALL["loop.steps"]
    mistaken = torchrun(*given[:-1], "--set", "loop.stepz=4")
    assert mistaken.returncode == 1
    assert "loop.stepz" in mistaken.stderr
