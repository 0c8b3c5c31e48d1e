"""What a spec says about how a stage is run: compiled, recorded, offloaded, in tiles. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Self, final

from pydantic import Field, model_validator

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
        description="With `compile`: record its kernels once for each size and replay them (CUDA graphs); needs a CUDA "
        "device"
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

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        _check_graphs(self)
        return self


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
        "image; where there is none, the whole image at once. For components that can, and without `compile`",
    )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        _check_graphs(self)
        if self.compile and self.tile is not None:
            raise ValueError(
                "`compile` and `tile` exclude one another: a graph that is unrolled over all tiles of an image takes "
                "longer to compile than to run; leave out one of the two"
            )
        return self


@final
class ConditionerRuntimeSpec(FrozenModel):
    """How a conditioner is run: it runs once for a batch of images, so that there is little to gain but memory."""

    offload: Offload = False


def _check_graphs(runtime: RuntimeSpec | CodecRuntimeSpec) -> None:
    if runtime.cuda_graphs and not runtime.compile:
        raise ValueError("`cuda_graphs` records what `compile` has made; add `compile: true`")
    if runtime.cuda_graphs and runtime.offload:
        raise ValueError(
            "`cuda_graphs` and `offload` exclude one another: a graph remembers where the weights were; leave out one "
            "of the two"
        )
