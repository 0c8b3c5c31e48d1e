"""What the `runtime:` of a stage asks for: whether this machine and the component can do it, and doing it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ldm_registry.interfaces import Component, Decoder, Encoder
from ldm_registry.runtime.compiled import CompiledCall, keep_compiled_code, require_compiler
from ldm_registry.runtime.entry import own_call, put_in, stand_in
from ldm_registry.runtime.offload import CudaCarrier, OffloadedCall
from ldm_registry.spec import CodecRuntimeSpec, ConditionerRuntimeSpec, RuntimeSpec

AnyRuntime = RuntimeSpec | CodecRuntimeSpec | ConditionerRuntimeSpec


def impossible(part: Component, runtime: AnyRuntime, device: torch.device) -> Iterator[str]:
    """What a stage asks for and cannot have, one line each.

    Args:
        part: The component, with or without memory.
        runtime: What its stage says.
        device: Where it is to run.

    Raises:
        MissingDependencyError: It is to be compiled, and there is no compiler.
    """
    name = f"{part.kind} {part.name!r}"
    if not is_there(device):
        yield f"{name} is to run on {device}, which PyTorch {torch.__version__} does not find here: say `device: cpu`"
    tile = getattr(runtime, "tile", None)
    if tile is not None and not getattr(part, "tileable", False):
        yield f"{name} cannot work in tiles: leave out `tile: {tile}`"
    if getattr(runtime, "cuda_graphs", False) and device.type != "cuda":
        yield f"{name} runs on {device}, which has no CUDA graphs: say `device: cuda`, or leave out `cuda_graphs`"
    if runtime.offload and device.type not in ("cpu", "cuda"):
        yield f"{name} runs on {device}, to which nothing can be streamed: leave out `offload`"
    if getattr(runtime, "compile", False):
        require_compiler(device)


def is_there(device: torch.device) -> bool:
    """Whether this machine has a device, as far as PyTorch can tell without using it."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type != "mps" or torch.backends.mps.is_available()


def without_effect(part: Component, runtime: AnyRuntime, device: torch.device) -> Iterator[str]:
    """What a stage asks for in vain, one line each; arguments as of `impossible`."""
    if runtime.offload and device.type == "cpu":
        yield f"{part.kind} {part.name!r} runs on the CPU, where its weights wait anyway: `offload` changes nothing"


def waits_on_cpu(runtime: AnyRuntime, device: torch.device) -> bool:
    """Whether the weights belong on the CPU although the part runs elsewhere."""
    return runtime.offload and device.type != "cpu"


def arrange(part: Component, runtime: AnyRuntime, device: torch.device, compiled: Path) -> None:
    """Let a part run as its stage says.

    Args:
        part: With its weights: on the CPU where `waits_on_cpu`, else where it runs. Changed in place.
        runtime: What its stage says.
        device: Where it runs.
        compiled: Folder for compiled code.
    """
    tile: int | None = getattr(runtime, "tile", None)
    for module in part.modules() if tile is not None else ():
        # Around the codec there may be modifiers, each a part by itself.
        if isinstance(module, Encoder | Decoder) and module.tileable:
            module.tile_pixels = tile
    if getattr(runtime, "compile", False):
        keep_compiled_code(compiled)
        put_in(part, CompiledCall(part, cuda_graphs=getattr(runtime, "cuda_graphs", False)))
    if waits_on_cpu(runtime, device):
        put_in(part, OffloadedCall(part, stand_in(part) or own_call(part), CudaCarrier(device)))
