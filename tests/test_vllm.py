"""vLLM against the policy itself: log-probabilities, seeds, stops, weights in training, PRMs, a killed run.

One engine for all tests of a session. They need vLLM, here or in the Python that `REPIRL_VLLM_PYTHON` names; prompts are longer
than vLLM's blocks of 128 tokens, below which it caches nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_weights import moved

from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.sampling import truncate
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.vllm_settings import VllmSettings, vllm_is_here
from repirl.engines.weights import ModelWeights
from repirl.errors import EngineFault, NumericalFault, UserError
from repirl.rollouts.batching import map_rows, token_logprobs
from repirl.rollouts.following import FollowingEngine
from repirl.rollouts.packing import TokenRow, padding_id

PYTHON = os.environ.get("REPIRL_VLLM_PYTHON")
LOCAL = vllm_is_here()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(not (LOCAL or PYTHON), reason="no vLLM here, and REPIRL_VLLM_PYTHON names no Python that has it"),
]
TOLERANCE = 2e-4
"""Largest difference of a token's log-probability in float32; 3e-5 were seen."""
PARAMS = SamplingParams(48, seed=3)


def settings(python: str | None = None if LOCAL else PYTHON) -> VllmSettings:
    return VllmSettings(python=python, max_model_len=1024, sync_chunk_mib=1)  # the tiny policy is of 3 MiB: several pieces


@pytest.fixture(scope="session")
def policy():
    torch.set_num_threads(1)
    return load_policy("tiny")


@pytest.fixture(scope="session")
def weights(policy):
    return ModelWeights(policy.model)


@pytest.fixture(scope="session")
def engine(policy):
    from repirl.engines.vllm_engine import VllmEngine

    made = VllmEngine(policy, settings())
    yield made
    made.close()


@pytest.fixture
def synced(engine, weights):
    if engine.version != weights.version:
        engine.sync(weights)
    return engine


def ask(policy, *texts: str, samples: int = 4) -> list[Request]:
    return [Request(text[:40], tuple(policy.tokenizer.encode(text)), samples) for text in texts]


LONG = f"Compute {' + '.join(['12'] * 60)}\n"
TEXTS = ("Compute (3 + 4) * 5\n", LONG, LONG[:-2] + "3 * 2\n")


def gaps(policy, groups) -> np.ndarray:
    """Differences of all tokens' log-probabilities from the model's own."""
    rollouts = [rollout for group in groups for rollout in group]
    rows = [TokenRow(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts]
    score = lambda batch: token_logprobs(policy.model, batch, rollouts[0].temperature or 1.0).logprobs_N
    own = map_rows(policy.model, rows, score, pad_id=padding_id(policy.tokenizer))
    return np.concatenate([np.abs(a.numpy() - b.logprobs) for a, b in zip(own, rollouts, strict=True)])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_log_probabilities_are_those_of_what_is_sampled_from(policy, synced, temperature):
    groups = synced.generate(ask(policy, *TEXTS), replace(PARAMS, temperature=temperature))
    assert gaps(policy, groups).max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("cut", [{"top_k": 2}, {"top_p": 0.9}])
def test_truncated_distributions_have_their_own_log_probabilities(policy, synced, cut):
    (rollout,) = synced.generate(ask(policy, TEXTS[0], samples=1), replace(PARAMS, temperature=1.5, **cut))[0]
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids]])
    logits = policy.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / 1.5
    own = truncate(logits, cut.get("top_k", 0), cut.get("top_p", 1.0)).log_softmax(-1)
    own = own.gather(1, torch.from_numpy(rollout.token_ids)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(rollout.logprobs, own, atol=TOLERANCE)
    assert (
        np.abs(own - logits.log_softmax(-1).gather(1, torch.from_numpy(rollout.token_ids)[:, None])[:, 0].numpy()).max() > 0.01
    )


def test_tokens_come_as_often_as_they_should(policy, synced):
    """The first token of many samples at a high temperature, by their chi-square; tokens that are rare are taken together."""
    text, count = "Compute (3 + 4) * 5\n", 2000
    params = SamplingParams(1, temperature=2.0, seed=5)
    (group,) = synced.generate(ask(policy, text, samples=count), params)
    with torch.no_grad():
        logits = policy.model(torch.tensor([policy.tokenizer.encode(text)])).logits[0, -1]
    expected = count * (logits.double() / 2.0).softmax(-1).numpy()
    found = np.bincount([int(rollout.token_ids[0]) for rollout in group], minlength=len(expected))
    often = expected >= 5
    assert often.sum() > 10
    together = lambda values: np.append(values[often], values[~often].sum())
    assert chisquare(together(found), together(expected)).pvalue > 1e-3


def test_a_sample_depends_on_its_seed_stream_and_number_alone(policy, synced):
    many = synced.generate(ask(policy, *TEXTS, *(f"Compute {i} + 7\n" for i in range(20)), samples=8), PARAMS)
    (alone,) = synced.generate([replace(ask(policy, TEXTS[1])[0], first_sample=2, num_samples=3)], PARAMS)
    assert [rollout.sample_index for rollout in alone] == [2, 3, 4]
    for a, b in zip(alone, many[1][2:5], strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
    tokens = lambda group: [tuple(rollout.token_ids) for rollout in group]
    assert len(set(tokens(many[0]))) > 1
    (other_seed,) = synced.generate(ask(policy, TEXTS[0], samples=8), replace(PARAMS, seed=4))
    (other_stream,) = synced.generate([replace(ask(policy, TEXTS[0], samples=8)[0], stream="else")], PARAMS)
    assert tokens(many[0]) != tokens(other_seed) != tokens(other_stream) != tokens(many[0])


def test_greedy_completions_and_their_ends_are_those_of_the_torch_engine(policy, synced):
    stops = replace(PARAMS, temperature=0.0, max_new_tokens=64, stop=("= 4", "))", "\n4"))
    reasons, seen = [], []
    for params in (replace(stops, stop=()), stops):
        given = [*ask(policy, *TEXTS, *(f"Compute ({i} + 4) * 5\n" for i in range(12)), samples=1)]
        given[1] = replace(given[1], max_new_tokens=5)
        ours = TorchEngine(policy.model, policy.tokenizer).generate(given, params)
        theirs = synced.generate(given, params, lambda done, total: seen.append((done, total)))
        assert seen[-1] == (15, 15)
        for (a,), (b,) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
            reasons.append((a.finish_reason, a.token_ids[-1] == policy.tokenizer.eos_token_id))
    # Cut, ended by its own token (which is kept), ended by a stop string.
    assert set(reasons) == {("length", False), ("stop", True), ("stop", False)}


def test_what_it_cannot_sample_is_refused(policy, synced):
    with pytest.raises(UserError, match="temperature"):
        synced.generate(ask(policy, LONG), replace(PARAMS, temperature=3.0))
    for prompt_ids, said in (((), "no tokens"), ((9999,), "vocabulary"), ((5,) * 1024, "max_model_len")):
        with pytest.raises(UserError, match=said):
            synced.generate([Request("p", prompt_ids)], PARAMS)
    (rollout,) = synced.generate([Request("p", (5,) * 1022)], PARAMS)[0]
    assert len(rollout.token_ids) <= 2


def test_a_sync_brings_the_weights_of_now(policy, weights, synced):
    synced.generate(ask(policy, *TEXTS), PARAMS)  # fills the prefix cache
    moved(policy.model, 0.01)
    stale = synced.generate(ask(policy, *TEXTS), PARAMS)
    assert gaps(policy, stale).max() > 0.1
    report = synced.sync(weights)
    fresh = synced.generate(ask(policy, *TEXTS), PARAMS)
    assert gaps(policy, fresh).max() <= TOLERANCE
    assert {rollout.policy_version for group in fresh for rollout in group} == {weights.version} == {report.version}
    assert report.bytes >= sum(value.nbytes for value in policy.model.parameters())


class Without:
    """A backend that leaves out one thing."""

    def __init__(self, backend, omitted: str) -> None:
        self.backend, self.omitted = backend, omitted

    def call(self, method: str, *arguments: str) -> list:
        return [None] if method == self.omitted else self.backend.call(method, *arguments)

    def reset_prefix_cache(self) -> None:
        if self.omitted != "reset_prefix_cache":
            self.backend.reset_prefix_cache()

    def __getattr__(self, name: str):
        return getattr(self.backend, name)


@pytest.mark.parametrize("omitted", ["nothing", "reset_prefix_cache", "repirl_refresh_tied_head"])
def test_a_sync_that_leaves_something_stale_is_found_out(policy, weights, synced, monkeypatch, omitted):
    if omitted == "repirl_refresh_tied_head" and torch.cuda.is_available():
        pytest.skip("only on a CPU a tied head has a copy of its own")
    assert policy.model.config.tie_word_embeddings
    follower = FollowingEngine(synced, weights, policy.model, policy.tokenizer, synced.settings.allowed_gap())
    follower.generate(ask(policy, *TEXTS), PARAMS)
    moved(policy.model, 0.01)
    monkeypatch.setitem(synced.__dict__, "backend", Without(synced.backend, omitted))
    if omitted == "nothing":
        follower.generate(ask(policy, *TEXTS), PARAMS)
        assert follower.last_gap is not None
        assert follower.last_gap < 1e-5
        return
    with pytest.raises(NumericalFault, match="after a sync"):
        follower.generate(ask(policy, *TEXTS), PARAMS)
    monkeypatch.undo()
    synced.sync(weights)


def test_weights_that_lack_one_are_refused(policy, weights, synced):
    class Lacking:
        version = -1

        def tensors(self):
            return ((name, value) for name, value in weights.tensors() if name != "model.norm.weight")

    with pytest.raises(EngineFault, match=r"no new weights for model\.norm\.weight"):
        synced.sync(Lacking())
    assert synced.version is None
    synced.sync(weights)
    assert gaps(policy, synced.generate(ask(policy, *TEXTS), PARAMS)).max() <= TOLERANCE


def test_a_policy_with_adapters_is_synced_with_them_merged(policy, weights, synced):
    pytest.importorskip("peft", reason="peft is not installed (pip install 'repirl[peft]')")
    from repirl.engines.lora import LoRAConfig, add_adapters

    adapted = load_policy("tiny")
    add_adapters(adapted.model, LoRAConfig(rank=4), seed=0)
    trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for i, parameter in enumerate(trained):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.05)
    try:
        synced.sync(ModelWeights(adapted.model))
        groups = synced.generate(ask(policy, *TEXTS), PARAMS)
        assert gaps(adapted, groups).max() <= TOLERANCE
        assert gaps(policy, groups).max() > 0.1
    finally:
        synced.sync(weights)


def test_servers_of_another_python_do_the_same(policy, weights, synced):
    """Two of them, which share out the work."""
    from repirl.engines.vllm_engine import VllmEngine

    server = VllmEngine(policy, settings(PYTHON or sys.executable).model_copy(update={"servers": 2}))
    try:
        server.sync(weights)
        here, there = (one.generate(ask(policy, *TEXTS), PARAMS) for one in (synced, server))
        assert gaps(policy, there).max() <= TOLERANCE
        for a, b in zip(chain(*here), chain(*there), strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
        moved(policy.model, 0.01)
        server.sync(weights)
        assert gaps(policy, server.generate(ask(policy, *TEXTS), PARAMS)).max() <= TOLERANCE
    finally:
        server.close()


def test_vllm_in_a_worker_of_ray_follows_the_weights_and_is_replaced_when_it_is_lost(policy):
    """Its vLLM ends with it; the next one is given the weights of the others, and its samples are the same."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'repirl[ray]')")
    from repirl.engines.ray_workers import RaySettings
    from repirl.methods.runtime import Runtime, opened_engine

    runtime = Runtime(engine="vllm", vllm=settings(), ray=RaySettings(samplers=1, sampler_cpus=0.5, losses=1))
    own = load_policy("tiny")
    try:
        with opened_engine(own, runtime) as engine:
            assert isinstance(engine, FollowingEngine)
            moved(own.model, 0.03)
            before = engine.generate(ask(own, *TEXTS), PARAMS)
            assert gaps(own, before).max() <= TOLERANCE
            assert gaps(policy, before).max() > 0.1
            workers = engine.engine.workers
            worker = ray.get(workers.actors[0].pid.remote())
            below = _children(worker)
            assert below
            os.kill(worker, signal.SIGKILL)
            after = engine.generate(ask(own, *TEXTS), PARAMS)
            assert workers.lost == 1
            assert not [pid for pid in below if _alive(pid)]
            for a, b in zip(chain(*before), chain(*after), strict=True):
                np.testing.assert_array_equal(a.token_ids, b.token_ids)
        assert not _children(worker)
    finally:
        ray.shutdown()


def test_a_prm_behind_vllm_scores_as_the_model_itself(policy, make_rollout):
    from repirl.rewards.energy import EnergyReward, energy_from_policy
    from repirl.rewards.vllm_energy import VllmEnergyReward
    from repirl.rollouts.steps import StepSegmentation
    from repirl.types import Problem, RolloutGroup, Verdict

    model = energy_from_policy(policy.model)
    with torch.no_grad():
        torch.nn.init.normal_(model.score.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        model.score.bias.fill_(0.7)
    rollouts = tuple(make_rollout(LONG, text, index=i) for i, text in enumerate(("12 + 12 = 24\n", "24\n" * 40)))
    groups = [RolloutGroup(Problem("p", "f", LONG, "integer"), rollouts, (Verdict("wrong"),) * 2)]
    made = (policy.tokenizer, StepSegmentation("\n"))
    ours, theirs = EnergyReward(model, *made), VllmEnergyReward(model, *made, settings=settings())
    gap = lambda: max(np.abs(a - b).max() for a, b in zip(ours.token_scores(groups), theirs.token_scores(groups), strict=True))
    try:
        assert gap() <= TOLERANCE
        moved(model, 0.01)
        stale = theirs.engine.score([[*rollouts[0].prompt_ids, *rollouts[0].token_ids]])[0][-len(rollouts[0].token_ids) :]
        assert np.abs(stale - ours.token_scores(groups)[0]).max() > 0.05
        assert gap() <= TOLERANCE
        assert ours.score(groups)[0][0].step_rewards.shape == theirs.score(groups)[0][0].step_rewards.shape
    finally:
        theirs.close()


def _train(folder: Path, python: str | None) -> subprocess.Popen[str]:
    small = {
        "loop.steps": 3,
        "loop.sampling.prompts_per_step": 8,
        "loop.sampling.group_size": 4,
        "loop.validation.num_problems": 4,
        "loop.validation.samples": 1,
    }
    arguments = ["rloo", "--out", str(folder), "--json", "--engine", "vllm", "--vllm", "max_model_len=512"]
    arguments += [] if python is None else ["--vllm", f"python={python}"]
    arguments += [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    start = "from repirl.cli.main import main\nif __name__ == '__main__': main()"
    script = folder.with_suffix(".py")
    script.write_text(start)
    return subprocess.Popen([sys.executable, str(script), "train", *arguments], stdout=subprocess.PIPE, text=True)


def _children(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *_children(int(path.parent.name))]
        except OSError:
            pass  # it ended meanwhile
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_runs_leave_no_process_and_go_on_with_vllm_elsewhere(tmp_path):
    """Sampled by a server until it is killed, by vLLM in the run's own environment until it is killed, then by a server."""
    folder = tmp_path / "run"
    metrics = folder / "metrics.jsonl"
    server = PYTHON or sys.executable
    kills = [(1, server), (2, None)] if LOCAL else [(1, server)]
    for step, python in kills:
        run = _train(folder, python)
        while not (metrics.is_file() and f'"step": {step}' in metrics.read_text()):
            assert run.poll() is None, "it ended by itself"
            time.sleep(0.05)
        below = _children(run.pid)
        assert len(below) >= 2
        run.send_signal(signal.SIGKILL)
        run.communicate()
        until = time.monotonic() + 60
        while any(map(_alive, below)) and time.monotonic() < until:
            time.sleep(0.2)
        assert not [pid for pid in below if _alive(pid)]
    again = _train(folder, server)
    said = json.loads(again.communicate()[0])
    assert again.returncode == 0
    assert said["budget"]["policy_updates"] == 3
    steps = [row for row in map(json.loads, metrics.read_text().splitlines()) if row["step"]]
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert np.isfinite(row["policy_loss"])
        assert row["engine_logprob_gap_max"] <= TOLERANCE
