"""Policies by name: the embedded one, a local folder, or a hub id with a revision.

torch and transformers are imported when a policy is loaded, not before: what only names policies stays quick.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl import parallel
from repirl.errors import UserError
from repirl.files import is_file, is_folder
from repirl.paths import ASSETS_DIR

if TYPE_CHECKING:
    import torch

EMBEDDED = ("tiny", "mini")
"""Policies that come with the package, by the name of their folder in `assets/`."""

DTYPES = ("float32", "bfloat16", "auto")

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
_HUB_SNAPSHOTS = "snapshots"
"""In the hub's cache, the folder that has a model's files by commit."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class PolicyAddress:
    """What `load_policy` finds a policy by, from whatever folder: an embedded name, an absolute folder, or a hub id with its
    commit."""

    name: str
    revision: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPolicy:
    """A causal LM with its tokenizer.

    `name` is what it was asked for by, `path` the folder it was read from, `digest` the SHA-256 of its config
    and weights files, `dtype` that of the loaded weights.
    """

    model: Any
    tokenizer: Any
    name: str
    path: Path
    digest: str
    dtype: str = "float32"

    @property
    def address(self) -> PolicyAddress:
        """Where it is found again; `name` may be a mere label (a phase of a method names what it starts from)."""
        if self.name in EMBEDDED:
            return PolicyAddress(self.name)
        if self.path.parent.name == _HUB_SNAPSHOTS and _HUB_ID.fullmatch(self.name):
            return PolicyAddress(self.name, self.path.name)
        return PolicyAddress(str(self.path.resolve()))


def load_policy(
    name_or_path: str | Path,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    revision: str | None = None,
) -> LoadedPolicy:
    """Loads `tiny`, a local folder, or a model of the hub at `revision`, in evaluation mode.

    Raises UserError when the folder or its config is missing, when it is no causal LM, or when weights and config do
    not fit together (transformers would fill the gaps with random numbers).
    """
    if dtype not in DTYPES:
        raise UserError("unknown dtype", dtype, f"use one of {', '.join(DTYPES)}")
    if device is not None:
        check_device(device)
    path = policy_dir(name_or_path, revision)
    model = _load_model(path, dtype)
    tokenizer = load_tokenizer(path)
    model.eval()
    if device is not None:
        model.to(device)
    return LoadedPolicy(model, tokenizer, str(name_or_path), path, folder_digest(path), str(model.dtype).removeprefix("torch."))


def load_config(path: Path) -> Any:
    """The config of the model in a policy's folder; UserError if there is none that can be read."""
    from transformers import AutoConfig

    if not is_file(path / "config.json"):
        raise UserError("no config.json in the policy's folder", str(path), "give a folder written by save_pretrained")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError("cannot load a causal language model", str(path), _first_line(error)) from error


def num_parameters(config: Any) -> int:
    """Of a causal language model with this config; nothing of its size is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return parameters_of(model)


def parameters_of(model: Any) -> int:
    """How many numbers a model has, 0 without one."""
    return 0 if model is None else sum(parameter.numel() for parameter in model.parameters())


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a policy's folder; UserError if there is none that can be read."""
    from transformers import AutoTokenizer

    if not any(any(path.glob(pattern)) for pattern in _TOKENIZER_FILES):
        # transformers would make up a tokenizer of the model's usual kind
        raise UserError("no tokenizer in the policy's folder", str(path), "save the tokenizer beside the model")
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("the policy has no readable tokenizer", str(path), _first_line(error)) from error


def check_device(device: str | torch.device) -> None:
    """UserError for a device that torch does not know or that is not there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch raises differs by kind of device
        raise UserError("no such device here", str(device), "use cpu, or cuda with a GPU and a CUDA build of torch") from error


def default_device() -> str:
    """`cuda` if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def policy_dir(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a policy; downloads a model of the hub if needed."""
    name = str(name_or_path)
    path = Path(name).expanduser()
    if name in EMBEDDED:
        path = ASSETS_DIR / name
    if is_folder(path):
        if revision is not None:
            raise UserError("a revision is for models of the hub, and this is a folder", str(path), "leave it out")
        return path
    in_existing_folder = "/" in name and is_folder(path.parent)
    if name in EMBEDDED or isinstance(name_or_path, Path) or in_existing_folder or not _HUB_ID.fullmatch(name):
        raise UserError("policy folder not found", str(path), f"give {' or '.join(EMBEDDED)}, a folder, or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
        if not any(path.glob("*.safetensors")):  # an older model: the same commit with its weights in torch's own format
            snapshot_download(name, revision=revision, allow_patterns=["*.bin"])
        return path
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = "policy is neither a folder nor a model that the hub gives"
        raise UserError(what, name, _first_line(error)) from error


def folder_digest(path: Path) -> str:
    """SHA-256 over name and content of `config.json` and all weights files, in order of their names."""
    digest = hashlib.sha256()
    files = sorted([path / "config.json", *path.glob("*.safetensors"), *path.glob("*.bin")])
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _load_model(path: Path, dtype: str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    config = load_config(path)
    try:
        with quiet_transformers():
            model, info = load(
                path,
                config=config,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, in our own words
            )
    except (OSError, ValueError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError("cannot load a causal language model", str(path), _first_line(error)) from error
    problems = {kind: _names(info.get(f"{kind}_keys", ())) for kind in ("missing", "unexpected", "mismatched")}
    said = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in problems.items() if names]
    if said:
        what = f"the weights are not those of a {type(model).__name__} with this config: {'; '.join(said)}"
        raise UserError(what, str(path), "use the checkpoint's own config.json")
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No load report and no progress bar of transformers for the while."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.set_verbosity(logging.get_verbosity() + 10)  # above error: the load report is told by us
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """While weights are saved: what safetensors says of a write that failed becomes an OSError that names the folder."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, _first_line(error), str(folder)) from error


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """An ordinary transformers folder; adapters are merged into the weights. OSError if it cannot be written.

    Of several processes the first writes, and all have to call it.
    """
    from repirl.engines.lora import has_adapters, owned_weights

    changed = has_adapters(model) or parallel.is_cut(model)
    state = parallel.whole_state(owned_weights(model)) if changed else None
    if parallel.is_first():
        with quiet_transformers(), written_to(folder):
            model.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)
    parallel.barrier()


def _names(keys: Any) -> list[str]:
    """Parameter names; transformers gives mismatched ones with both shapes."""
    return sorted(key if isinstance(key, str) else str(key[0]) for key in keys)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
