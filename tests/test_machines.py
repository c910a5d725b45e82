"""Several machines: network namespaces, each with its own address and host name, on one disk. They need root.

`make test-machines` runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import parallel_child as child
import pytest
from safetensors.torch import load_file
from test_parallel import every_prompt_in_its_row as every_prompt_in_its_row
from test_parallel import same

from repirl.paths import CHECKOUT_DIR

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("machines"),
    pytest.mark.skipif(not os.environ.get("REPIRL_TEST_MACHINES"), reason="they need root and are slow: make test-machines"),
]
NAMES = ("repirl-a", "repirl-b", "repirl-c")
ADDRESS = {name: f"10.77.{i}.1" for i, name in enumerate(NAMES)}
"""Of each machine; the first reaches the others by a cable to each."""
PORT = 6399
RAY_FOLDER = Path(f"/tmp/ray-{os.getpid()}")
"""Where Ray has its sockets, whose paths must be short, and notes which cluster is the last."""
STEPS = 12
DETECTION = {"initial_delay_ms": 1000, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}
"""Ray's checks of a machine, which is lost after a minute by default."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[None]:
    """The first has a cable to each of the others."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'repirl[ray]')")
    del ray
    first, *others = NAMES
    folders = [Path("/etc/netns") / name for name in NAMES]
    try:
        for name, folder in zip(NAMES, folders, strict=True):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            folder.mkdir(parents=True)
            hosts = ["127.0.0.1 localhost", *(f"{address} {other}" for other, address in ADDRESS.items())]
            (folder / "hosts").write_text("\n".join(hosts) + "\n")
        ip("-n", first, "addr", "add", f"{ADDRESS[first]}/32", "dev", "lo")
        for i, name in enumerate(others):
            ip("link", "add", f"to{i}", "netns", first, "type", "veth", "peer", "name", "net0", "netns", name)
            ip("-n", name, "addr", "add", f"{ADDRESS[name]}/32", "dev", "net0")
            for where, cable in ((first, f"to{i}"), (name, "net0")):
                ip("-n", where, "link", "set", cable, "up")
            ip("-n", first, "route", "add", f"{ADDRESS[name]}/32", "dev", f"to{i}", "src", ADDRESS[first])
            ip("-n", name, "route", "add", "default", "dev", "net0", "src", ADDRESS[name])
        yield
    finally:
        for name, folder in zip(NAMES, folders, strict=True):
            there = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True)
            for pid in there.stdout.split():
                with suppress(ProcessLookupError):  # it ended with another
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(RAY_FOLDER, ignore_errors=True)


def on(name: str, *command: str | Path) -> list[str]:
    """A command as on that machine."""
    there = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
    return [*there, *map(str, command)]


def environment() -> dict[str, str]:
    checks = {f"RAY_health_check_{name}": str(value) for name, value in DETECTION.items()}
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT_DIR), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}
    return {**os.environ, **more, **checks}


def settings(**more: object) -> list[str]:
    return [part for key, value in (child.SMALL | more).items() for part in ("--set", f"{key}={json.dumps(value)}")]


def test_processes_on_two_machines_train_as_one(machines, policy_folder, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-endpoint", f"{ADDRESS[NAMES[0]]}:29517", "--rdzv-id", "repirl", "-m", "repirl", "train", "rloo"]
    command = [sys.executable, *launcher, "--policy", policy_folder, "--out", tmp_path / "two", *settings(), "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(on(name, *command), env=environment(), **pipes) for name in NAMES[:2]]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [len(out.splitlines()) for out, _ in said] == [1, 0]
    child.fit(policy_folder, tmp_path / "one")
    same(tmp_path / "one", tmp_path / "two", ("policy",))


def test_a_machine_that_is_unplugged_is_replaced_by_another_and_nothing_shows_it(machines, policy_folder, tmp_path):
    """The first learns, the second samples and grades until its cable is pulled, the third goes on."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    first, second, third = NAMES
    here = environment() | {"RAY_TMPDIR": str(RAY_FOLDER)}

    def start(name: str, *more: str) -> None:
        given = ["start", "--node-ip-address", ADDRESS[name], "--disable-usage-stats", *more]
        subprocess.run(on(name, *ray, *given), env=here, check=True, capture_output=True, timeout=120)

    long = settings(**{"loop.steps": STEPS})
    train = [sys.executable, "-m", "repirl", "train", "rloo", "--policy", policy_folder, *long, "--json", "--out"]
    workers = [f"address={ADDRESS[first]}:{PORT}", "samplers=1", "graders=1", "sampler_cpus=0.5"]
    given = [part for one in workers for part in ("--ray", one)]
    metrics = tmp_path / "spread" / "metrics.jsonl"
    start(first, "--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false")
    start(second, "--address", f"{ADDRESS[first]}:{PORT}", "--num-cpus", "2")
    with (tmp_path / "errors").open("w") as errors:
        run = subprocess.Popen(on(first, *train, tmp_path / "spread", *given), env=here, stderr=errors)
    until = time.monotonic() + 120
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 4:
        assert run.poll() is None, (tmp_path / "errors").read_text()[-3000:]
        assert time.monotonic() < until, "it does not begin"
        time.sleep(0.05)
    ip("-n", first, "link", "set", "to0", "down")
    start(third, "--address", f"{ADDRESS[first]}:{PORT}", "--num-cpus", "2")
    assert len(metrics.read_text().splitlines()) < STEPS  # it waits for what the second was asked
    assert run.wait(timeout=300) == 0, (tmp_path / "errors").read_text()[-3000:]
    assert len(metrics.read_text().splitlines()) == STEPS + 1
    plain = subprocess.run([*map(str, train), str(tmp_path / "plain")], env=here, check=False, capture_output=True, text=True)
    assert plain.returncode == 0, plain.stderr[-3000:]
    ours, theirs = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("plain", "spread"))
    assert all((theirs[name] == weight).all() for name, weight in ours.items())
