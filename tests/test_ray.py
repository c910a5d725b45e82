"""Workers placed by Ray: samples, verdicts and runs are those of one process, also when a worker is killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from parallel_child import SMALL
from safetensors.torch import load_file

from repirl.config import with_overrides
from repirl.engines.base import Request, SamplingParams
from repirl.engines.copied import Architecture, CopiedEngine
from repirl.engines.loading import load_policy
from repirl.engines.ray_workers import RaySettings, Workers, connect
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.weights import ModelWeights
from repirl.errors import EngineFault, UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime, start_policy
from repirl.paths import CHECKOUT_DIR
from repirl.precision import training_dtype, training_in
from repirl.rollouts.following import FollowingEngine
from repirl.types import Problem

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'repirl[ray]')")
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SETTINGS = RaySettings(samplers=2, sampler_cpus=0.5, losses=2)
PARAMS = SamplingParams(24, seed=3)


@pytest.fixture(scope="module", autouse=True)
def _shut_down():
    yield
    ray.shutdown()


@pytest.fixture
def policy():
    return load_policy("tiny")


@pytest.fixture
def engine(policy):
    from repirl.engines.ray_engine import RayEngine

    made = RayEngine(partial(CopiedEngine, Architecture.of(policy.model), policy.tokenizer, "cpu"), SETTINGS)
    yield made
    made.close()


def requests(policy):
    return [Request(f"p{i}", tuple(policy.tokenizer.encode(f"{i}+2*{i}=")), 3) for i in range(9)]


def moved(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def assert_same(ours, theirs, version: int) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(mine.token_ids, other.token_ids)
            assert (mine.problem_id, mine.sample_index, other.policy_version) == (other.problem_id, other.sample_index, version)


def test_workers_sample_what_one_process_does_and_follow_the_weights(policy, engine):
    follower = FollowingEngine(engine, ModelWeights(policy.model), policy.model, policy.tokenizer, 1e-4)
    for version in range(2):
        assert_same(
            TorchEngine(policy.model, policy.tokenizer).generate(requests(policy), PARAMS),
            follower.generate(requests(policy), PARAMS),
            version,
        )
        assert follower.last_sync.bytes == sum(p.nbytes for p in policy.model.parameters())
        moved(policy.model)


def test_a_worker_that_is_killed_is_replaced_synced_and_its_requests_repeated(policy, engine):
    moved(policy.model)
    engine.sync(ModelWeights(policy.model))
    victim = ray.get(engine.workers.actors[0].pid.remote())
    killed = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    theirs = engine.generate(requests(policy), PARAMS, kill)
    if engine.workers.lost == 0:  # it had nothing in hand when it died: it is found out at the next pass
        theirs = engine.generate(requests(policy), PARAMS)
    assert killed
    assert engine.workers.lost == 1
    assert_same(TorchEngine(policy.model, policy.tokenizer).generate(requests(policy), PARAMS), theirs, 0)


def fragile():
    """Something that ends its process on demand; its class travels with it."""

    class Fragile:
        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def mistake(self) -> None:
            raise UserError("the prompt is too long", 99, "shorten it")

    return Fragile


def test_too_many_losses_end_the_work():
    workers = Workers(fragile(), 1, SETTINGS, {"num_cpus": 0.1})
    with pytest.raises(EngineFault, match="3 workers were lost"):
        workers.map("die", [()])


def test_a_worker_that_is_lost_again_while_it_is_made_ready_is_another_loss(tmp_path):
    """The second life is ended by its preparation, the third does the work."""
    lives = tmp_path / "lives"

    class Mortal:
        def do_or_die(self, deadly: int) -> int:
            lives.write_text((lives.read_text() if lives.exists() else "") + ".")
            if len(lives.read_text()) <= deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()

    prepare = lambda actor: actor.do.remote("do_or_die", 2) if lives.exists() else None
    workers = Workers(Mortal, 1, SETTINGS, {"num_cpus": 0.1}, prepare)
    assert workers.map("do_or_die", [(1,)]) == [ray.get(workers.actors[0].pid.remote())]
    assert workers.lost == 2
    workers.close()


def test_a_worker_that_gives_no_answer_is_lost():
    class Hanging:
        def wait(self, seconds: float) -> None:
            time.sleep(seconds)

    settings = SETTINGS.model_copy(update={"request_timeout_s": 1.0, "losses": 1})
    workers = Workers(Hanging, 1, settings, {"num_cpus": 0.1})
    workers.map("wait", [(0.01,)])
    with pytest.raises(EngineFault, match="2 workers were lost, the last: no answer in 1 s"):
        workers.map("wait", [(60.0,)])


def test_workers_compute_in_the_learners_precision():
    class Asked:
        def precision(self) -> str:
            return training_dtype()

    with training_in("bfloat16"):
        workers = Workers(Asked, 1, SETTINGS, {"num_cpus": 0.1})
    assert workers.map("precision", [()]) == ["bfloat16"]
    workers.close()


def test_an_error_of_the_work_itself_is_raised_as_it_is():
    workers = Workers(fragile(), 1, SETTINGS, {"num_cpus": 0.1})
    with pytest.raises(UserError, match="the prompt is too long: 99; shorten it"):
        workers.map("mistake", [()])
    assert workers.lost == 0
    workers.close()


def test_a_worker_that_cannot_be_made_is_said_so_at_once():
    def make():
        raise RuntimeError("no GPU here")

    with pytest.raises(EngineFault, match="could not be made: RuntimeError: no GPU here"):
        Workers(make, 1, SETTINGS, {"num_cpus": 0.1})


def test_workers_that_nobody_has_room_for_are_said_so():
    with pytest.raises(EngineFault, match="1 of 1 workers did not start"):
        Workers(fragile(), 1, SETTINGS.model_copy(update={"start_timeout_s": 3.0}), {"num_cpus": 1000})


def test_a_cluster_of_ones_own_is_not_one_that_ray_start_left(monkeypatch):
    """Ray by itself joins the one that it last noted, which may be gone."""
    ray.shutdown()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the path of a socket must be short
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    try:
        connect(SETTINGS)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


def test_a_token_that_is_missing_is_said_in_a_line(tmp_path):
    """In a process of its own: Ray reads these variables when it is first imported."""
    program = "from repirl.engines.ray_workers import RaySettings, connect; connect(RaySettings(address='127.0.0.1:1'))"
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    here = kept | {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT_DIR)}
    ended = subprocess.run([sys.executable, "-c", program], env=here, capture_output=True, text=True, check=False, timeout=120)
    assert "UserError: no Ray cluster answers" in ended.stderr
    assert "RAY_AUTH_TOKEN" in ended.stderr.splitlines()[-1]


def test_verdicts_are_those_of_one_process():
    from repirl.rollouts.ray_grading import RayGrader

    problems = [Problem(f"p{i}", "f", "", "math", answer=str(i % 3)) for i in range(70)]
    texts = [rf"\boxed{{{i % 2}}}" for i in range(70)]
    reasons = ["length" if i % 10 == 0 else "stop" for i in range(70)]
    grader = RayGrader(RaySettings(graders=2))
    assert grader(problems, texts, reasons) == grade_rollouts(problems, texts, reasons)
    grader.workers.close()


def fitted(method: str, policy_folder, folder, settings: dict, runtime: Runtime):
    config = with_overrides(
        load_method(method).recipe("tiny"), [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    )
    return load_method(method).fit(FitContext(start_policy(policy_folder, runtime, 0), folder, 0, None, runtime), config)


def same_weights(ours, theirs) -> None:
    a, b = (load_file(one.policy_folder / "model.safetensors") for one in (ours, theirs))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=1e-5, rtol=0)


def test_a_run_that_samples_and_grades_by_workers_is_the_run_of_one_process(policy_folder, tmp_path):
    runtime = Runtime(ray=RaySettings(samplers=2, sampler_cpus=0.5, graders=1))
    assert runtime.settings == Runtime().settings
    runs = [fitted("rloo", policy_folder, tmp_path / str(i), SMALL, one) for i, one in enumerate((Runtime(), runtime))]
    same_weights(*runs)
    assert runs[1].diagnostics["engine_logprob_gap_max"] < 1e-4
    assert runs[0].budget.grader_calls == runs[1].budget.grader_calls


def test_a_frozen_reward_that_scores_in_workers_pays_the_same(policy_folder, tmp_path):
    small = {"offline.updates": 2, "offline.problems": 8, "offline.samples": 4, "offline.levels": [1], "irl.balance": False}
    reward = fitted("repirl", policy_folder, tmp_path / "reward", SMALL | small, Runtime()).reward_folder
    settings = SMALL | {"signal": "prm", "reward": str(reward)}
    runtimes = (Runtime(), Runtime(ray=RaySettings(samplers=0, scorers=2)))
    runs = [fitted("test_time", policy_folder, tmp_path / str(i), settings, one) for i, one in enumerate(runtimes)]
    same_weights(*runs)
    assert runs[0].budget.scored_tokens == runs[1].budget.scored_tokens
