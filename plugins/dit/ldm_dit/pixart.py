"""The denoiser `pixart`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_dit.block import modulated_norm
from ldm_dit.embedding import TimeFeatures
from ldm_dit.patches import PatchEmbed, unpatch
from ldm_dit.pixart_block import PixArtBlock
from ldm_dit.pixart_config import PixArtConfig
from ldm_dit.pixart_embedding import AdaptiveNormSingle, CaptionProjection
from ldm_dit.pixart_start import initialise
from ldm_dit.transformer_config import INERT_KEYS, without_inert_keys
from ldm_registry.errors import ContractError
from ldm_registry.interfaces import (
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
)

MASKED = -10_000.0
"""Added to the logits of masked text. Finite, as in diffusers: a text that is masked altogether is read as it is."""


@final
class PixArt(Denoiser):
    """The transformer of PixArt-alpha and PixArt-sigma (Chen et al. 2023, 2024): a DiT that reads text.

    Modules and state-dict keys are those of diffusers' `PixArtTransformer2DModel`. Grids of another size or shape
    than the one trained on stretch the position embedding, as diffusers does.

    Args:
        config: Sizes.
        trained: What the output means and which noise the network saw.
    """

    name = "pixart"
    Config = PixArtConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "num_attention_heads": 2,
        "attention_head_dim": 6,
        "num_layers": 2,
        "sample_size": 8,
        "cross_attention_dim": 12,
        "caption_channels": 7,
    }
    config: PixArtConfig
    diffusers_class = "PixArtTransformer2DModel"

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """As for every component: drops the keys of `Transformer2DModel` that have no say over patches."""
        return without_inert_keys(cls.name, values, INERT_KEYS)

    def __init__(self, config: PixArtConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        # Past nn.Module's registration: the schedule's float64 tables must not be cast or saved with the weights.
        object.__setattr__(self, "training_schedule", trained.schedule)
        self.conditioning = _conditioning(config)
        self.latent_space = LatentSpace(config.in_channels, stride=1)
        self.size_multiple = config.patch_size
        self.features = TimeFeatures(shift=0.0)

        width = config.width
        self.pos_embed = PatchEmbed(
            config.in_channels, width, config.patch_size, config.sample_size, config.zoom
        )
        self.transformer_blocks = nn.ModuleList([PixArtBlock(config) for _ in range(config.num_layers)])
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, config.patch_size**2 * config.predicted_channels)
        self.adaln_single = AdaptiveNormSingle(width, sees_size=config.sees_size)
        self.caption_projection = (
            None if config.caption_channels is None else CaptionProjection(config.caption_channels, width)
        )
        initialise(self)

    def forward(self, z: Float[Tensor, "b c h w"], level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Predict from a noisy latent.

        Args:
            z: `z_t / sqrt(alpha**2 + sigma**2)`, [B, C, H, W]; H and W multiples of the patch size.
            level: Normalised to `alpha**2 + sigma**2 = 1`, shape [] or [B].
            condition: `text_embedding` [B, T, C]; `text_mask`, bool [B, T], without which all tokens count; and,
                where the network sees sizes, `resolution` [B, 2] (height, width) and `aspect_ratio` [B, 1]
                (height / width) of the image, pixels. Each may have one row for the whole batch.

        Raises:
            ContractError: The latent or a condition has the wrong shape, or a condition is missing.
        """
        self._check(z, condition)
        patch, like = self.config.patch_size, self.proj_out.weight
        time = self.features(self.trained.network_time(level), z.device, like.dtype)
        modulation, embedding = self.adaln_single(time, self._sizes(condition, like))
        text, bias = self._text(condition, len(z), like)
        x: Tensor = self.pos_embed(z)
        for block in self.transformer_blocks:
            x = block(x, modulation, text, bias)
        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulated_norm(x, shift, scale))
        return unpatch(x, z.shape[-2] // patch, z.shape[-1] // patch, patch, self.config.in_channels)

    def _sizes(self, condition: Condition, like: Tensor) -> Tensor | None:
        if not self.config.sees_size:
            return None
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        sizes = torch.cat(
            [condition[name].to(like.device, dtype) for name in ("resolution", "aspect_ratio")], dim=1
        )
        return self.features(sizes.flatten(), like.device, like.dtype).reshape(*sizes.shape, -1)

    def _text(self, condition: Condition, batch: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.config.text_channels is None:
            return None, None
        text = condition["text_embedding"].to(like)
        if self.caption_projection is not None:
            text = self.caption_projection(text)
        text = text.expand(batch, -1, -1)
        mask = condition.get("text_mask")
        if mask is None:
            return text, None
        masked = mask.to(like.device).logical_not().to(like.dtype).expand(batch, -1)
        return text, MASKED * masked[:, None, None]

    def _check(self, z: Tensor, condition: Condition) -> None:
        channels, height, width = z.shape[1:]
        patch = self.config.patch_size
        if channels != self.config.in_channels or height % patch or width % patch:
            raise ContractError(
                f"denoiser 'pixart' got a latent of {channels} x {height} x {width}; expected "
                f"{self.config.in_channels} channels and sides that are multiples of the patch size {patch}"
            )
        problems = []
        for name, given in self.conditioning.items():
            value, expected = condition.get(name), _written(len(z), given)
            if value is None:
                if not given.optional:
                    problems.append(f"{name} is missing; expected shape {expected}")
            elif len(value) not in (1, len(z)) or not _fits(value, given):
                problems.append(f"{name} has shape {list(value.shape)}; expected {expected}")
        if problems:
            raise ContractError("denoiser 'pixart' cannot run on these conditions", problems)


def _fits(value: Tensor, given: Conditioning) -> bool:
    return value.ndim == 1 + len(given.shape) and all(
        extent in (None, size) for extent, size in zip(given.shape, value.shape[1:], strict=True)
    )


def _written(batch: int, given: Conditioning) -> str:
    extents = ("any" if extent is None else str(extent) for extent in given.shape)
    return f"[{', '.join([str(batch), *extents])}]"


def _conditioning(config: PixArtConfig) -> dict[str, Conditioning]:
    conditioning = {}
    if config.text_channels is not None:
        conditioning["text_embedding"] = Conditioning((None, config.text_channels), torch.float32)
        conditioning["text_mask"] = Conditioning((None,), torch.bool, optional=True)
    if config.sees_size:
        conditioning["resolution"] = Conditioning((2,), torch.float32)
        conditioning["aspect_ratio"] = Conditioning((1,), torch.float32)
    return conditioning
