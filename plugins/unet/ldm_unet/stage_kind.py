"""What the block types of diffusers stand for, and the groups of their norms."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION_GROUPS = 32
"""Groups of the norm before an attention in a stage that filters; in no config."""
_MOST_GROUPS = 32
_LEAST_GROUP = 4


@dataclass(frozen=True, slots=True)
class StageKind:
    """What a block type of diffusers stands for.

    Attributes:
        attention: Whether an attention follows every residual block.
        resample: How the stage changes resolution: `conv`, `resnet`, or None where the config decides. `fir` has
            residual blocks that blur, and beside them an image that takes part at every resolution (NCSN++, Song
            et al. 2021).
    """

    attention: bool
    resample: str | None

    @property
    def carries_image(self) -> bool:
        """Whether the stage reads an image on the way down, and paints one on the way up."""
        return self.resample == "fir"


DOWN_BLOCKS = {
    "DownBlock2D": StageKind(attention=False, resample="conv"),
    "AttnDownBlock2D": StageKind(attention=True, resample=None),
    "ResnetDownsampleBlock2D": StageKind(attention=False, resample="resnet"),
    "SkipDownBlock2D": StageKind(attention=False, resample="fir"),
    "AttnSkipDownBlock2D": StageKind(attention=True, resample="fir"),
}
UP_BLOCKS = {
    "UpBlock2D": StageKind(attention=False, resample="conv"),
    "AttnUpBlock2D": StageKind(attention=True, resample=None),
    "ResnetUpsampleBlock2D": StageKind(attention=False, resample="resnet"),
    "SkipUpBlock2D": StageKind(attention=False, resample="fir"),
    "AttnSkipUpBlock2D": StageKind(attention=True, resample="fir"),
}


def default_groups(channels: int) -> int:
    """Groups of a norm where no config says so: four channels each, but at most 32 groups."""
    return min(channels // _LEAST_GROUP, _MOST_GROUPS)


def joined_groups(kind: StageKind, channels: int, skip: int) -> int:
    """Groups of the first norm of a residual block on the way up, in a stage that filters.

    Args:
        kind: Of the stage.
        channels: That come up.
        skip: That come over from the way down.
    """
    if kind.attention:
        # diffusers divides the second term only: not what was meant, but what checkpoints were trained with.
        return min(channels + skip // _LEAST_GROUP, _MOST_GROUPS)
    return default_groups(channels + skip)
