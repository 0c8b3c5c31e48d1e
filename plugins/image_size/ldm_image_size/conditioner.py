"""The conditioner `image-size`: which size and crop of an image a denoiser is told to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import ComponentConfig, Conditioner, Conditioning

WIDTHS = {"size_and_crop": 6, "resolution": 2, "aspect_ratio": 1}
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Corner = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class ImageSizeConfig(ComponentConfig):
    """What the denoiser is told.

    Raises:
        SpecError: Unknown or repeated outputs.
    """

    outputs: tuple[str, ...] = Field(
        default=("size_and_crop",),
        min_length=1,
        description="what it gives: size_and_crop (SDXL); resolution and aspect_ratio (PixArt)",
        json_schema_extra={"items": {"enum": list(WIDTHS)}},
    )
    original_size: Size | None = Field(
        default=None,
        description="(height, width) before the image was scaled for training, pixels; null is the image's own",
    )
    crop: Corner = Field(default=(0, 0), description="(top, left) corner of the crop in training, pixels")
    target_size: Size | None = Field(
        default=None, description="(height, width) of the finished image, pixels; null is the image's own"
    )

    @model_validator(mode="after")
    def _refuse_what_is_not_built(self) -> ImageSizeConfig:
        problems = [
            f"outputs has {name!r}; {did_you_mean(name, list(WIDTHS))}"
            for name in self.outputs
            if name not in WIDTHS
        ]
        problems += [f"outputs has {name!r} twice" for name in WIDTHS if self.outputs.count(name) > 1]
        if problems:
            raise SpecError("the config of conditioner 'image-size' is not valid", problems)
        return self


@final
class ImageSize(Conditioner):
    """Numbers that depend on the image's size alone; the same for every image of a batch, and with every prompt.

    Args:
        config: Which numbers.
        tokenizer: None; there is no text.

    Raises:
        SpecError: A tokenizer was named.
    """

    name = "image-size"
    Config = ImageSizeConfig
    inputs = ()
    config: ImageSizeConfig

    def __init__(self, config: ImageSizeConfig, tokenizer: Path | None = None) -> None:
        super().__init__()
        if tokenizer is not None:
            raise SpecError(
                f"conditioner {self.name!r} reads no text, so it takes no tokenizer",
                [f"got {tokenizer}"],
                hint="leave out `tokenizer:`",
            )
        self.config = config
        self.outputs = {name: Conditioning((WIDTHS[name],), torch.float32) for name in config.outputs}

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        """The numbers for images of one size.

        Args:
            texts: Of no account.
            size: (height, width) of the image, pixels.

        Returns:
            As far as the config asks for them, float32 on the CPU: `size_and_crop` [1, 6], original height and width,
            top and left of the crop, target height and width; `resolution` [1, 2], height and width, and
            `aspect_ratio` [1, 1], their quotient, of the target size.
        """
        height, width = target = self.config.target_size or size
        numbers: dict[str, tuple[float, ...]] = {
            "size_and_crop": (*(self.config.original_size or size), *self.config.crop, *target),
            "resolution": target,
            "aspect_ratio": (height / width,),
        }
        return {
            name: torch.tensor([numbers[name]], dtype=torch.float32, device="cpu") for name in self.outputs
        }
