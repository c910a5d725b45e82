"""Several processes that train together (`torchrun`), each on a part of the work, and come to what one would.

All of them run the same program on the same batch. What takes time is shared out, and its results are made whole again before
anybody goes on: items that are sampled or graded (`shared`), micro-batches (learn/gradient.py), passes without gradient
(rollouts/batching.py). So whatever is computed of a whole batch (advantages, importance weights, ranks, denominators) is
computed by each process from the whole batch, by the same code as in a single one. Weights that are trained are cut among the
processes (FSDP2), with their gradients and the optimiser's state.

A single process is a group of one: nothing here then does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from repirl.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")
R = TypeVar("R")

_TIMEOUT = timedelta(hours=2)
"""Of one wait for the others: one of them may be sampling for all."""
_WHOLE = "_repirl_whole"
"""Attribute of a model that is cut: the module within whose forward pass its weights can be used."""


@dataclass(slots=True)
class _Place:
    """This process among the others; `channel` carries what lies in main memory."""

    rank: int = 0
    size: int = 1
    channel: Any = None
    mesh: Any = None


_place = _Place()


def size() -> int:
    """Number of processes."""
    return _place.size


def rank() -> int:
    """Number of this one, from 0."""
    return _place.rank


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return _place.rank == 0


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Among the processes that torchrun started, for the while; yields this one's device (of several GPUs its own).

    Nothing but the device as given where torchrun did not start it.
    """
    # Schedulers set WORLD_SIZE as well, for what is no such program.
    world = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if world == 1:
        yield device
        return
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    kind = torch.device(device).type
    if kind == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            todo = "start no more processes than there are GPUs: torchrun --nproc-per-node"
            raise UserError("no GPU of its own for process", local, todo)
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_TIMEOUT)
    _place.rank, _place.size = distributed.get_rank(), world
    _place.channel = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    _place.mesh = init_device_mesh(kind, (world,))
    try:
        yield device
        barrier()
    finally:
        _place.rank, _place.size, _place.channel, _place.mesh = 0, 1, None, None
        distributed.destroy_process_group()


def barrier() -> None:
    """Go on when all have come here."""
    if _place.size > 1:
        from torch import distributed

        distributed.barrier(_place.channel)


def gathered(value: T) -> list[T]:
    """Every process's value, in their order; anything that can be pickled."""
    if _place.size == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * _place.size
    distributed.all_gather_object(found, value, group=_place.channel)
    return found


def from_first(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, which alone does it."""
    return gathered(work() if is_first() else None)[0]  # pyright: ignore[reportReturnType]


def shared(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
    """`work(items)`, one result an item; of n processes each does every n-th item."""
    found: list[Any] = [None] * len(items)
    for other, part in enumerate(gathered(work(items[_place.rank :: _place.size]))):
        found[other :: _place.size] = part
    return found


def total(values: T) -> T:
    """The sum over all processes of a tensor, or of a list of numbers (of any depth)."""
    if _place.size == 1:
        return values
    import torch
    from torch import distributed

    given: Any = values
    is_tensor = isinstance(given, torch.Tensor)
    summed: Any = given.detach().cpu().clone() if is_tensor else torch.tensor(given, dtype=torch.float64)
    distributed.all_reduce(summed, group=_place.channel)
    return summed.to(given.device) if is_tensor else summed.tolist()


def own(chunks: Sequence[T]) -> list[T | None]:
    """This process's share of the micro-batches: as many for each, None where there is none left for it."""
    rounds = -(-len(chunks) // _place.size)
    places = range(_place.rank, rounds * _place.size, _place.size)
    return [chunks[i] if i < len(chunks) else None for i in places]


# Weights that are cut


def is_cut(model: nn.Module) -> bool:
    """Whether the model's weights are cut among the processes."""
    return _WHOLE in vars(model)


def cut(model: nn.Module) -> None:
    """Cut the weights of a transformers model among the processes, in place: of each layer, and of the rest together.

    From then on it can be used within `run` alone, by all of them at once. Its parameters are other objects than before.
    """
    if _place.size == 1 or is_cut(model):
        return
    from torch.distributed.fsdp import fully_shard

    names = set(getattr(model, "_no_split_modules", None) or ())
    for module in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(module, mesh=_place.mesh)
    whole = _whole_module(model)
    fully_shard(whole, mesh=_place.mesh)
    vars(model)[_WHOLE] = whole  # not as a submodule: the names of the model's weights stay what they are


def _whole_module(model: nn.Module) -> nn.Module:
    from torch import nn

    class Whole(nn.Module):
        """Its forward pass is any work on the model, so that FSDP has the weights there for it and for its gradient."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, work: Callable[..., Any], *given: Any) -> Any:
            return work(*given)

    return Whole()


def run(model: nn.Module, work: Callable[..., R], *given: Any) -> R:
    """`work(*given)`, which makes passes through the model."""
    return vars(model)[_WHOLE](work, *given) if is_cut(model) else work(*given)


def idle_loss(model: Any) -> Tensor:
    """0 with a gradient of 0 for every weight: for a process without a micro-batch, while others have one."""
    import torch

    def nothing() -> Tensor:
        ids = torch.zeros((1, 2), dtype=torch.long, device=next(model.parameters()).device)
        value = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum()
        for parameter in model.parameters():
            if parameter.requires_grad and not hasattr(parameter, "full_tensor"):
                value = value + parameter.sum()
        return 0.0 * value

    return run(model, nothing)


def whole(value: Tensor) -> Tensor:
    """A tensor that is cut, gathered (all processes must ask for it), or any other as it is; detached."""
    gather = getattr(value, "full_tensor", None)
    return (value if gather is None else gather()).detach()


def local(value: Tensor) -> Tensor:
    """The part of a tensor that lies in this process."""
    part = getattr(value, "to_local", None)
    return value if part is None else part()


def placed_like(value: Tensor, live: Tensor) -> Tensor:
    """A whole tensor cut as `live` is; any other, and where `live` is whole, as it is."""
    if not hasattr(live, "full_tensor") or hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    like: Any = live
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def whole_state(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """A state with whole tensors. With several processes they are in main memory, and in the first process alone."""
    if _place.size == 1:
        return dict(state)
    found = {}
    for name, value in state:
        gathered_value = whole(value)
        if is_first():
            found[name] = gathered_value.cpu()
    return found


def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a state, whole or cut as the model is, into it."""
    live = model.state_dict() if is_cut(model) else {}
    model.load_state_dict({name: placed_like(value, live[name]) if live else value for name, value in state.items()})


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor to be filled: with several processes cut along its first dimension, as FSDP cuts weights."""
    import torch

    if _place.size == 1:
        return torch.empty(*shape, dtype=dtype)
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_tensor

    return empty_tensor(*shape, dtype=dtype, device_mesh=_place.mesh, placements=[Shard(0)])
