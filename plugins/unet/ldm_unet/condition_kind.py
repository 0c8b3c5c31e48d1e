"""What the block types of a conditional UNet stand for, and the words that its config knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockKind:
    """What a block type of diffusers stands for.

    Attributes:
        attention: What follows every residual block: `cross`, a transformer that reads text; `joint`, attention to
            text and positions at once; `self`, attention to positions alone; or None.
        resample: How the stage changes resolution: `conv` or `resnet`. Stages of the second sort also obey
            `resnet_skip_time_act` and `resnet_out_scale_factor`.
    """

    attention: str | None
    resample: str = "conv"

    @property
    def reads_text(self) -> bool:
        """Whether its attention sees the text."""
        return self.attention in ("cross", "joint")


DOWN_BLOCKS = {
    "DownBlock2D": BlockKind(None),
    "CrossAttnDownBlock2D": BlockKind("cross"),
    "AttnDownBlock2D": BlockKind("self"),
    "ResnetDownsampleBlock2D": BlockKind(None, "resnet"),
    "SimpleCrossAttnDownBlock2D": BlockKind("joint", "resnet"),
}
UP_BLOCKS = {
    "UpBlock2D": BlockKind(None),
    "CrossAttnUpBlock2D": BlockKind("cross"),
    "AttnUpBlock2D": BlockKind("self"),
    "ResnetUpsampleBlock2D": BlockKind(None, "resnet"),
    "SimpleCrossAttnUpBlock2D": BlockKind("joint", "resnet"),
}
MID_BLOCKS = {
    "UNetMidBlock2DCrossAttn": BlockKind("cross"),
    "UNetMidBlock2D": BlockKind(None),
    "UNetMidBlock2DSimpleCrossAttn": BlockKind("joint", "resnet"),
}
TIME_EMBEDDINGS = ("positional", "fourier")
TIME_SHIFTS = ("default", "scale_shift")
ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
CLASS_EMBEDDINGS = ("timestep", "identity", "projection", "simple_projection")
ADDED_EMBEDDINGS = ("text", "text_time")
TEXT_PROJECTIONS = ("text_proj",)
ATTENTIONS = ("default",)
CROSS_NORMS = ("layer_norm", "group_norm")
CROSS_NORM_GROUPS = 32
"""diffusers has no key for it."""


def modern(word: str) -> str:
    """A block type without the prefix that the first versions of diffusers wrote."""
    return word.removeprefix("UNetRes")
