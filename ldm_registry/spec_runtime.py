"""What a spec says about how a stage is run: compiled, recorded, offloaded, in tiles. Imports no torch."""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Field

from ldm_registry.spec_values import MAX_SIDE, FrozenModel

RUNTIME = "How it is run, which changes its speed and memory"

Compile = Annotated[
    bool,
    Field(
        description="Compile it with torch.compile for the sizes that it meets; what was compiled is kept on this "
        "machine for the next process"
    ),
]
CudaGraphs = Annotated[
    bool,
    Field(
        description="Record its kernels once for each size and replay them (CUDA graphs); needs a CUDA device"
    ),
]
Offload = Annotated[
    bool,
    Field(
        description="Keep its weights in the memory of the CPU while it is not running, and bring them back "
        "ahead of its turn; for a stage on an accelerator"
    ),
]


@final
class RuntimeSpec(FrozenModel):
    """How a denoiser is run. Changes speed and memory, and the numbers by no more than rounding."""

    compile: Compile = False
    cuda_graphs: CudaGraphs = False
    offload: Offload = False


@final
class CodecRuntimeSpec(FrozenModel):
    """How an encoder or a decoder is run. Changes speed and memory, and the numbers by no more than rounding."""

    compile: Compile = False
    cuda_graphs: CudaGraphs = False
    offload: Offload = False
    tile: int | None = Field(
        default=None,
        ge=8,
        le=MAX_SIDE,
        description="Work through the image in tiles of this side in pixels, so that memory does not grow with the "
        "image; where there is none, the whole image at once. For components that can",
    )


@final
class ConditionerRuntimeSpec(FrozenModel):
    """How a conditioner is run: it runs once for a batch of images, so that there is little to gain but memory."""

    offload: Offload = False
