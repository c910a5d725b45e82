"""What surrounds vLLM, without it: settings, the server's process and protocol, one engine for a run. The server is a fake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods import small_config
from test_processes import gone, wait_until

from repirl.bench.apart import _runtime
from repirl.cli.main import run
from repirl.config import parse_config
from repirl.engines import vllm_backend, vllm_settings
from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.vllm_backend import OWNER
from repirl.engines.vllm_engine import SHARED_MEMORY, VllmEngine, VllmPrmEngine
from repirl.engines.vllm_settings import VllmSettings
from repirl.engines.weights import ModelWeights, pieces
from repirl.errors import EngineFault, NumericalFault, UserError
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime
from repirl.rewards.vllm_energy import VllmEnergyReward
from repirl.rng import seed_for
from repirl.rollouts.following import FollowingEngine
from repirl.rollouts.steps import StepSegmentation

FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`fake(mode)`: settings with a Python that plays vLLM, and `fake.notes()`: what it noted."""
    python = tmp_path / "fake-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    python.chmod(0o755)
    notes = tmp_path / "notes.jsonl"
    monkeypatch.setenv("FAKE_VLLM_NOTES", str(notes))

    def make(mode: str = "", **more) -> VllmSettings:
        monkeypatch.setenv("FAKE_VLLM_MODE", mode)
        return VllmSettings(python=python, **more)

    make.notes = lambda: [json.loads(line) for line in notes.read_text().splitlines()]
    make.processes = lambda: [row["process"] for row in make.notes() if "process" in row]
    return make


@pytest.fixture
def policy(policy_folder):
    return load_policy(policy_folder)


def option(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


PARAMS = SamplingParams(12, seed=5, temperature=0.5, stop=("x",))


def test_each_sample_is_asked_for_with_its_own_seed_and_comes_back_in_its_place(policy, fake):
    engine = VllmEngine(policy, fake(max_model_len=64))
    requests = [Request("a", (4, 5), 3, first_sample=2), Request("b", (6,), 2, stream="s", max_new_tokens=3)]
    seen = []
    try:
        groups = engine.generate(requests, PARAMS, lambda done, total: seen.append((done, total)))
    finally:
        engine.close()
    assert seen[-1] == (5, 5)
    (started, *asked) = fake.notes()
    assert [len(group) for group in groups] == [3, 2]
    asked = {row["request"]["seed"]: row["request"] for row in asked}
    eos = policy.tokenizer.eos_token_id
    for request, group in zip(requests, groups, strict=True):
        for i, rollout in enumerate(group):
            body = asked[seed_for(5, "sample", request.stream_name, request.first_sample + i)]
            assert (body["prompt"], body["temperature"], body["stop"]) == (list(request.prompt_ids), 0.5, ["x"])
            assert (body["logprobs"], body["stop_token_ids"], body["ignore_eos"]) == (0, [eos], True)
            assert rollout.sample_index == request.first_sample + i
            assert rollout.token_ids[0] == 3 + body["seed"] % 90
            ended = body["max_tokens"] == 12 and body["seed"] % 2 == 0
            assert len(rollout.token_ids) == (5 if ended else body["max_tokens"])
            assert (rollout.finish_reason, rollout.token_ids[-1] == eos) == (("stop", True) if ended else ("length", False))
            assert "eos" not in rollout.text
            np.testing.assert_allclose(rollout.logprobs, -0.5)
    assert {len(rollout.token_ids) for rollout in groups[1]} == {3}
    assert started["module"] == "vllm.entrypoints.openai.api_server"
    options = started["options"]
    assert option(options, "--logprobs-mode") == "processed_logprobs"
    assert option(options, "--max-model-len") == "64"
    assert option(options, "--worker-extension-cls") == "vllm_extension.RepirlWorker"
    assert "--no-enable-chunked-prefill" in options  # with seeds it ends vLLM on a CPU
    assert "repirl" not in started["path"].rpartition("/")[2]


def test_a_sync_hands_over_every_weight_once_in_pieces_then_forgets_prefixes(policy, fake):
    engine, weights = VllmEngine(policy, fake(sync_chunk_mib=1)), ModelWeights(policy.model)
    before = set(SHARED_MEMORY.glob("repirl-*")) if SHARED_MEMORY.is_dir() else set()
    try:
        report = engine.sync(weights)
        assert engine.version == report.version == weights.version
        calls = [row for row in fake.notes() if "method" in row]
    finally:
        engine.close()
    steps = [call["method"].removeprefix("repirl_") for call in calls]
    assert steps == ["begin_weights", "load_weights", "end_weights", "refresh_tied_head", "reset_prefix_cache"]
    (sent,) = calls[1]["weights"]
    own = dict(weights.tensors())
    assert sorted(sent) == sorted(own)
    for name, value in own.items():
        np.testing.assert_array_equal(np.array(sent[name], dtype=np.float32), value.numpy())
    assert report.bytes >= sum(value.nbytes for value in own.values())
    assert engine.version is None  # what was closed holds no weights
    assert not SHARED_MEMORY.is_dir() or set(SHARED_MEMORY.glob("repirl-*")) <= before


def test_pieces_are_bounded_whole_and_of_the_engines_precision():
    tensors = [(f"w{i}", torch.full((size,), i + 0.3)) for i, size in enumerate((100, 300, 50, 50, 900, 1))]
    found = list(pieces(iter([*tensors, ("count", torch.tensor([7]))]), 800, torch.bfloat16))
    assert [list(piece) for piece in found] == [["w0", "w1"], ["w2", "w3"], ["w4"], ["w5", "count"]]
    flat = {name: value for piece in found for name, value in piece.items()}
    assert flat.pop("count").dtype == torch.int64
    assert all(torch.equal(flat[name], value.bfloat16()) for name, value in tensors)


def test_a_server_that_does_not_come_up_is_told_with_its_last_words(policy, fake, capsys):
    engine = VllmEngine(policy, fake("dies"))
    with pytest.raises(UserError, match=r"ended with code 3 .*ValueError: no such architecture"):
        engine.generate([Request("a", (4,))], PARAMS)
    assert "more words" in capsys.readouterr().err
    slow = VllmEngine(policy, fake("silent", start_timeout_s=5))
    with pytest.raises(UserError, match=r"not up after 5 s"):
        slow.generate([Request("a", (4,))], PARAMS)
    assert len(fake.processes()) == 2
    wait_until(lambda: all(map(gone, fake.processes())))


@pytest.mark.parametrize(
    ("mode", "said"), [("breaks", "ended with code 7|does not answer"), ("refuses", "400.*no room for it")]
)
def test_a_server_that_fails_later_is_a_fault(policy, fake, mode, said):
    engine = VllmEngine(policy, fake(mode))
    try:
        with pytest.raises(EngineFault, match=said):
            engine.generate([Request("a", (4,), 4)], PARAMS)
    finally:
        engine.close()


def test_it_ends_with_its_owner_whose_alone_it_is(policy, fake):
    engine = VllmEngine(policy, fake())
    engine.generate([Request("a", (4,))], PARAMS)
    socket = Path(option(fake.notes()[0]["options"], "--uds"))
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    (process,) = fake.processes()
    assert not gone(process)
    engine.close()
    engine.close()
    assert gone(process)
    assert not socket.parent.exists()


def test_it_ends_when_its_owner_is_killed(policy_folder, fake, tmp_path):
    python = fake().python
    program = (
        "import sys, time; from pathlib import Path; from repirl.engines.loading import load_policy\n"
        "from repirl.engines.base import Request, SamplingParams; from repirl.engines.vllm_engine import VllmEngine\n"
        "from repirl.engines.vllm_settings import VllmSettings\n"
        "engine = VllmEngine(load_policy(Path(sys.argv[1])), VllmSettings(python=Path(sys.argv[2])))\n"
        "engine.generate([Request('a', (4,))], SamplingParams(2)); print('up', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(policy_folder), str(python)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: gone(fake.processes()[0]))
    shutil.rmtree(Path(option(fake.notes()[0]["options"], "--uds")).parent)


def test_several_servers_share_out_what_is_asked_and_all_get_the_weights(policy, fake):
    """Each on its own GPUs; neighbours, which have a prompt in common, go to the same one."""
    requests = [Request(f"p{i}", (4 + i, 5), 8) for i in range(6)]
    alone = VllmEngine(policy, fake())
    many = VllmEngine(policy, fake(servers=3, gpus="0,1,2,3,4,5", tensor_parallel_size=2))
    seen = []
    try:
        expected = alone.generate(requests, PARAMS)
        groups = many.generate(requests, PARAMS, lambda done, total: seen.append((done, total)))
        many.sync(ModelWeights(policy.model))
    finally:
        alone.close()
        many.close()
    assert seen == [(i, 48) for i in range(1, 49)]
    for ours, theirs in zip(expected, groups, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            assert (a.problem_id, a.sample_index) == (b.problem_id, b.sample_index)
    others = fake.processes()[1:]
    assert sorted(row["gpus"] for row in fake.notes() if row.get("process") in others) == ["0,1", "2,3", "4,5"]
    asked = [(row["by"], tuple(row["request"]["prompt"])) for row in fake.notes() if "request" in row]
    assert [len({prompt for by, prompt in asked if by == pid}) for pid in others] == [2, 2, 2]
    steps = ["begin_weights", "load_weights", "end_weights", "refresh_tied_head", "reset_prefix_cache"]
    names = sorted(dict(ModelWeights(policy.model).tensors()))
    for pid in others:
        calls = [row for row in fake.notes() if "method" in row and row["by"] == pid]
        assert [call["method"].removeprefix("repirl_") for call in calls] == steps
        assert sorted(name for sent in calls[1]["weights"] for name in sent) == names
    assert all(map(gone, fake.processes()))


def test_a_server_that_is_done_early_takes_of_the_others_work(policy, fake):
    """The first answers slowly; one request at a time of each."""
    engine = VllmEngine(policy, fake("first-slow", servers=2, max_num_seqs=1))
    try:
        engine.generate([Request(f"p{i}", (4 + i, 5), 4) for i in range(4)], PARAMS)
    finally:
        engine.close()
    slow, fast = ([row["by"] for row in fake.notes() if "request" in row].count(pid) for pid in fake.processes())
    assert slow + fast == 16
    assert 1 <= slow <= 4


def test_one_of_several_servers_that_ends_is_a_fault(policy, fake):
    engine = VllmEngine(policy, fake("second-breaks", servers=2))
    with pytest.raises(EngineFault, match=r"ended with code 7|does not answer"):
        engine.generate([Request(f"p{i}", (4 + i, 5), 4) for i in range(4)], PARAMS)
    engine.close()
    assert all(map(gone, fake.processes()))


def test_one_of_several_servers_that_misses_a_weight_is_a_fault(policy, fake):
    engine = VllmEngine(policy, fake("second-misses", servers=2))
    with pytest.raises(EngineFault, match=r"no new weights for model\.norm\.weight"):
        engine.sync(ModelWeights(policy.model))
    assert engine.version is None
    engine.close()
    assert all(map(gone, fake.processes()))


def test_of_several_servers_none_is_left_when_one_does_not_come_up(policy, fake):
    engine = VllmEngine(policy, fake("second-dies", servers=2))
    with pytest.raises(UserError, match=r"ended with code 3 .*no such architecture"):
        engine.generate([Request("a", (4,))], PARAMS)
    assert len(fake.processes()) == 2
    wait_until(lambda: all(map(gone, fake.processes())))


def test_training_is_stopped_where_the_engine_has_other_weights_and_leaves_no_server(policy, fake, tmp_path):
    """The fake says -0.5 of every token: that is seen after the first sync."""
    runtime = Runtime(engine="vllm", vllm=fake())
    with pytest.raises(NumericalFault, match="after a sync"):
        load_method("rloo").fit(FitContext(policy, tmp_path / "run", 0, None, runtime), small_config("rloo"))
    (process,) = fake.processes()
    assert gone(process)


def test_a_policy_in_training_has_one_engine_and_others_are_sampled_by_torch(policy, policy_folder, fake, tmp_path):
    context = FitContext(policy, tmp_path, 0, None, Runtime(engine="vllm", vllm=fake()))
    with context.resources:
        engine = context.engine()
        assert isinstance(engine, FollowingEngine)
        with context.resources:  # a phase
            assert context.part("phase").engine(policy) is engine
        assert context.engine() is engine
        other = context.engine(load_policy(policy_folder))
        assert isinstance(other, TorchEngine)
        engine.engine.generate([Request("a", (4,))], PARAMS)
    wait_until(lambda: gone(fake.processes()[0]))
    assert context.engine() is not engine


def test_a_runtime_without_vllm_reads_as_before_there_was_one():
    before = {
        "device": "cpu",
        "dtype": "float32",
        "engine": "torch",
        "max_batch_rows": 512,
        "max_cache_tokens": None,
        "gradient_checkpointing": False,
        "lora": None,
    }
    assert Runtime().model_dump(mode="json") == before
    assert Runtime().settings == {"dtype": "float32", "lora": None}
    assert Runtime().sampler == {}
    served = Runtime(engine="vllm", vllm=VllmSettings(python=Path("p"), dtype="bfloat16", max_num_seqs=7))
    assert served.settings == {"dtype": "float32", "lora": None, "engine": "vllm", "vllm_dtype": "bfloat16"}
    assert parse_config(Runtime, served.model_dump(mode="json")) == served
    said = _runtime(served)
    assert said[said.index("--engine") :] == [
        "--engine",
        "vllm",
        "--vllm",
        "python=p",
        "--vllm",
        "dtype=bfloat16",
        "--vllm",
        "max_num_seqs=7",
    ]


def test_settings_that_make_no_sense_are_refused(policy, make_energy_model, tokenizer, monkeypatch, fake):
    for wrong, said in (
        ({"vllm": {}}, "need engine vllm"),
        ({"engine": "vllm", "vllm": {"gpus": "0"}}, "name a python"),
        ({"engine": "vllm", "vllm": {"gpus": "0,1", "python": "python"}}, "tensor_parallel_size"),
        ({"engine": "vllm", "vllm": {"gpus": "0,1", "servers": 2, "tensor_parallel_size": 2, "python": "p"}}, "many for each"),
        ({"engine": "vllm", "vllm": {"servers": 2}}, "several servers need a python"),
    ):
        with pytest.raises(UserError, match=said):
            parse_config(Runtime, wrong)
    monkeypatch.setattr(vllm_settings, "vllm_is_here", lambda: False)
    with pytest.raises(UserError, match="no vLLM"):
        VllmEngine(policy, VllmSettings())
    with pytest.raises(UserError, match="several vLLM servers on the same GPUs"):
        VllmEngine(policy, fake(servers=2), "cuda")
    with pytest.raises(UserError, match="no such Python"):
        VllmEngine(policy, VllmSettings(python=Path("/nowhere/python")))
    with pytest.raises(UserError, match="base measure"):
        VllmEnergyReward(make_energy_model(base_measure=1.0), tokenizer, StepSegmentation("\n"), settings=fake())
    with pytest.raises(UserError, match="too long"):
        VllmPrmEngine(make_energy_model(), tokenizer, fake(max_model_len=8)).score([[5] * 9])


def test_the_extension_needs_no_repirl_and_ends_with_its_owner():
    """Also while nobody has asked for the owner's exit code."""
    source = Path(vllm_settings.__file__).with_name("vllm_extension.py")
    assert "repirl." not in source.read_text()
    find = "import importlib.util as u; s = u.spec_from_file_location('e', sys.argv[1])"
    program = f"import sys, time; {find}; s.loader.exec_module(u.module_from_spec(s)); print('up', flush=True); time.sleep(60)"
    owner = subprocess.Popen(["sleep", "60"])
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {OWNER: str(owner.pid)}
    command = [sys.executable, "-E", "-S", "-c", program, str(source)]
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
        assert worker.poll() is None
        owner.kill()
        wait_until(lambda: worker.poll() == -signal.SIGKILL)
    owner.wait()


def test_an_evaluation_says_what_sampled_and_ends_it(policy_folder, fake, capsys, tmp_path):
    """The fake is found out by the check after the first sync, so that this ends as a fault; then a tolerance lets it pass."""
    given = ["eval", "--benchmark", "arith", "--policy", str(policy_folder), "--samples", "1", "--no-greedy", "--limit", "2"]
    given += ["--engine", "vllm", "--engine-set", f"python={fake().python}", "--json", "--out", str(tmp_path / "out")]
    assert run(given) == 1
    assert "after a sync" in capsys.readouterr().err
    assert run([*given, "--engine-set", "tolerance=100"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["engine"]["name"], said["engine"]["dtype"]) == ("vllm", "float32")
    assert [gone(process) for process in fake.processes()] == [True, True]
    # Samples of torch do not go into the same folder.
    assert run([*given[: given.index("--engine")], "--out", str(tmp_path / "out")]) == 2


def test_a_model_without_weights_is_enough(policy_folder, fake):
    """As a worker on another machine has it."""
    policy = load_policy(policy_folder)
    policy.model.to("meta")
    engine = VllmEngine(policy, fake(), "cpu")
    (made,) = engine.generate([Request("p", (1, 2, 3), 1)], PARAMS)
    assert made[0].token_ids.size
    with pytest.raises(UserError, match="token"):
        engine.generate([Request("p", (10**6,), 1)], PARAMS)
    engine.close()


def test_nothing_of_torchrun_reaches_it(policy, fake, monkeypatch):
    """With these variables vLLM would wait for a store that nobody starts."""
    of_torchrun = (
        "RANK",
        "MASTER_PORT",
        "TORCHELASTIC_USE_AGENT_STORE",
        "TORCHELASTIC_RUN_ID",
        "GROUP_WORLD_SIZE",
        "ROLE_NAME",
    )
    for name in of_torchrun:
        monkeypatch.setenv(name, "1")
    engine = VllmEngine(policy, fake())
    engine.generate([Request("p", (1, 2, 3), 1)], PARAMS)
    environment = Path(f"/proc/{fake.processes()[0]}/environ").read_bytes().split(b"\0")
    assert not {name.encode() for name in of_torchrun} & {line.split(b"=")[0] for line in environment}
    engine.close()
    with vllm_backend._alone():
        assert not [name for name in of_torchrun if name in os.environ]
    assert all(os.environ[name] == "1" for name in of_torchrun)
