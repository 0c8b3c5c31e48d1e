"""Weights, gradients and optimiser state in parts, one for each process: fully sharded data parallel training.

Zhao et al. 2023, "PyTorch FSDP: Experiences on scaling fully sharded data parallel", in torch's second version of it,
`fully_shard`. That is called by itself: accelerate's way to it takes network and optimiser apart and makes them anew,
while here the training has made both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from ldm_registry.errors import SpecError
from ldm_registry.training.processes import Processes
from ldm_registry.training.settings import LoopSettings

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Network = TypeVar("Network", bound=nn.Module)
LAUNCHERS = "ACCELERATE_USE_FSDP"
"""Set by `accelerate launch --use_fsdp`."""


def is_sharded(settings: LoopSettings, group: Processes) -> bool:
    """Whether a training is sharded: where there is more than one process, and the spec or the launcher says so.

    Args:
        settings: Of the training.
        group: Its processes.

    Raises:
        SpecError: With something that cannot be had sharded.
    """
    if group.count == 1 or not (settings.sharded or launcher_shards()):
        return False
    problems = []
    if settings.optimizer == "muon":
        problems.append("optimizer: muon needs each matrix whole; adamw does not")
    if settings.precision == "float16":
        problems.append(
            "precision: float16 scales the loss by what a process sees of it; bfloat16 does without"
        )
    if settings.compile:
        problems.append("compile: true is for whole networks")
    if problems:
        raise SpecError(
            "this training cannot be sharded", problems, hint="change these, or leave `sharded` out"
        )
    return True


def launcher_shards() -> bool:
    """Whether `accelerate launch` was told to shard."""
    return os.environ.get(LAUNCHERS, "").lower() in ("1", "true")


def sharded(network: Network) -> Network:
    """The network, changed in place: each process keeps a part of every weight.

    All are gathered for the forward and backward pass, and given back after it. To gather block by block would need to
    know that nobody reaches into a block but through its `forward`, which is not so for every network.

    Args:
        network: On the device; the same in every process.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    fully_shard(network)
    return network


def is_in_parts(tensor: Tensor) -> bool:
    """Whether each process keeps a part of a tensor; asked without importing what such tensors come from."""
    return hasattr(tensor, "device_mesh")


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from the parts of all processes, which all have to ask; others as they are."""
    return _parted(tensor).full_tensor() if is_in_parts(tensor) else tensor


def forget_whole(network: nn.Module) -> None:
    """Let a sharded network gather its weights anew, after their parts were changed; others are left alone.

    Args:
        network: Sharded, or not.
    """
    reshard: Callable[[], None] | None = getattr(network, "reshard", None)
    if reshard is not None:
        reshard()


def own_part(tensor: Tensor) -> Tensor:
    """What this process keeps of a tensor, sharing its memory."""
    return _parted(tensor).to_local() if is_in_parts(tensor) else tensor


def parted_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same in every process, in parts as another one is.

    Args:
        value: Of the shape of `other`.
        other: In parts, or not.
    """
    if not is_in_parts(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    parts = _parted(other)
    return distribute_tensor(value.to(other.device), parts.device_mesh, parts.placements)


def _parted(tensor: Tensor) -> DTensor:
    return cast("DTensor", tensor)


@torch.no_grad()
def take_whole(source: nn.Module, target: nn.Module) -> None:
    """Copy the tensors of a sharded network into one of the same class that is not; every process has to.

    Args:
        source: In parts.
        target: Changed in place.
    """
    values = source.state_dict()
    for name, tensor in target.state_dict().items():
        tensor.copy_(whole(values[name]))
