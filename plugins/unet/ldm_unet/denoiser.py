"""The denoiser `unet`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import (
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
    broadcast,
)
from ldm_unet.block import ACTIVATION, Attention, ResnetBlock
from ldm_unet.config import UNetConfig
from ldm_unet.convolution import Convolution, laid_like
from ldm_unet.embedding import FourierFeatures, LearnedTimes, Sinusoids, TimeProjection, TimestepEmbedding
from ldm_unet.image_stage import ImageDownStage, ImageUpStage
from ldm_unet.in_place import activated
from ldm_unet.older_names import OLDER_TENSORS, modernised
from ldm_unet.stage import DownStage, MidStage, UpStage
from ldm_unet.stage_kind import DOWN_BLOCKS, UP_BLOCKS, default_groups


@final
class UNet(Denoiser):
    """The UNet of DDPM (Ho et al. 2020) with the options that its descendants added.

    Modules and state-dict keys are those of diffusers' `UNet2DModel`.

    Args:
        config: Sizes and flavours.
        trained: What the output means and which noise the network saw.
    """

    name = "unet"
    Config = UNetConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "num_class_embeds": 4,
        "null_class": 3,
    }
    config: UNetConfig
    diffusers_class = "UNet2DModel"
    renamed_tensors = OLDER_TENSORS

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """As for every component: knows the keys and words of the first versions of diffusers."""
        return modernised(values)

    def __init__(self, config: UNetConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        # Past nn.Module's registration: the schedule's float64 tables must not be cast or saved with the weights.
        object.__setattr__(self, "training_schedule", trained.schedule)
        self.conditioning = _conditioning(config)
        self.latent_space = LatentSpace(config.in_channels, stride=1)
        self.size_multiple = 2 ** (len(config.block_out_channels) - 1)

        widths = config.block_out_channels
        self.conv_in = Convolution(config.in_channels, widths[0], 3, padding=1)
        self.time_proj = _time_projection(config)
        self.time_embedding = TimestepEmbedding(self.time_proj.features, config.time_width)
        self.class_embedding = _class_embedding(config, self.time_proj.features)
        self.down_blocks = _down_stages(config)
        self.mid_block = MidStage(config) if config.mid_block_type is not None else None
        self.up_blocks = _up_stages(config)
        groups = config.norm_num_groups or default_groups(widths[0])
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], config.norm_eps)
        self.conv_out = Convolution(widths[0], config.out_channels, 3, padding=1)
        initialise(self)

    def forward(self, z: Float[Tensor, "b c h w"], level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Predict from a noisy latent.

        Args:
            z: `z_t / sqrt(alpha**2 + sigma**2)`, [B, C, H, W]; H and W multiples of `size_multiple`.
            level: Normalised to `alpha**2 + sigma**2 = 1`, shape [] or [B].
            condition: `class_label` ([B], int64; any number with `class_embed_type: timestep`) or, with
                `identity`, `class_embedding` [B, time_embedding_dim].

        Raises:
            ContractError: A latent of the wrong shape, or a missing condition that has no null.
        """
        self._check(z)
        network_time = self.trained.network_time(level)
        embedding = self._embed(network_time.reshape(-1), z, condition)
        # Every residual block starts by activating the time embedding: once is enough.
        embedding = ACTIVATION[self.config.act_fn](embedding)
        if self.config.center_input_sample:
            z = 2 * z - 1
        skips = [self.conv_in(z)]
        x, image = self._up(self._down(z, embedding, skips), embedding, skips)
        x = self.conv_out(activated(F.silu, self.conv_norm_out(x), self.conv_norm_out))
        x = laid_like(x, z)
        if image is not None:
            x = x + image
        if self.config.time_embedding_type == "fourier":
            # Score networks of Song et al. 2021 are divided by their noise scale.
            x = x / broadcast(network_time, x)
        if not self.config.learns_variance:
            return DenoiserOutput(x)
        prediction, variance = x.chunk(2, dim=1)
        return DenoiserOutput(prediction, variance)

    def _down(self, z: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        x, image = skips[0], z
        for stage in self.down_blocks:
            if isinstance(stage, ImageDownStage):
                x, image = stage(x, embedding, skips, image)
            else:
                x = stage(x, embedding, skips)
        return x if self.mid_block is None else self.mid_block(x, embedding)

    def _up(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        image: Tensor | None = None
        for stage in self.up_blocks:
            if isinstance(stage, ImageUpStage):
                x, image = stage(x, embedding, skips, image)
            else:
                x = stage(x, embedding, skips)
        return x, image

    def _check(self, z: Tensor) -> None:
        channels, height, width = z.shape[1:]
        multiple = self.size_multiple
        if channels != self.config.in_channels or height % multiple or width % multiple:
            raise ContractError(
                f"denoiser 'unet' got a latent of {channels} x {height} x {width}; expected "
                f"{self.config.in_channels} channels and sides that are multiples of {multiple}"
            )

    def _embed(self, time: Tensor, z: Tensor, condition: Condition) -> Tensor:
        like = z.new_empty(0, dtype=self.conv_in.weight.dtype)
        embedding: Tensor = self.time_embedding(self.time_proj(time, like))
        if self.class_embedding is None:
            return embedding
        (name,) = self.conditioning
        value = condition.get(name)
        if value is None:
            value = self._null(name, z)
        value = value.to(z.device)
        if self.config.class_embed_type == "timestep":
            value = self.time_proj(value if value.is_floating_point() else value.float(), like)
        label: Tensor = self.class_embedding(value)
        return embedding + label.to(embedding.dtype)

    def _null(self, name: str, z: Tensor) -> Tensor:
        if self.config.null_class is None:
            raise ContractError(
                f"denoiser 'unet' needs the condition {name!r}: its checkpoint knows no label for 'no class'",
                hint="give one, or set _null_class in the denoiser's config if a null label was trained",
            )
        return torch.full((1,), self.config.null_class, dtype=torch.int64, device=z.device)


def _conditioning(config: UNetConfig) -> dict[str, Conditioning]:
    if config.class_embed_type == "identity":
        return {"class_embedding": Conditioning(shape=(config.time_width,), dtype=torch.float32)}
    if config.class_embed_type == "timestep":
        return {"class_label": Conditioning(shape=(), dtype=torch.float32)}
    if config.num_class_embeds is None:
        return {}
    null_is_last = config.null_class == config.num_class_embeds - 1
    classes = config.num_class_embeds - 1 if null_is_last else config.num_class_embeds
    return {"class_label": Conditioning(shape=(), classes=classes, null=config.null_class)}


def _time_projection(config: UNetConfig) -> TimeProjection:
    channels = config.block_out_channels[0]
    match config.time_embedding_type:
        case "fourier":
            return FourierFeatures(channels)
        case "learned":
            assert config.num_train_timesteps is not None
            return LearnedTimes(config.num_train_timesteps, channels)
        case _:
            return Sinusoids(channels, config.freq_shift, config.flip_sin_to_cos)


def _class_embedding(config: UNetConfig, features: int) -> nn.Module | None:
    match config.class_embed_type:
        case "timestep":
            return TimestepEmbedding(features, config.time_width)
        case "identity":
            return nn.Identity()
        case _ if config.num_class_embeds is not None:
            return nn.Embedding(config.num_class_embeds, config.time_width)
        case _:
            return None


def _down_stages(config: UNetConfig) -> nn.ModuleList:
    widths = (config.block_out_channels[0], *config.block_out_channels)
    last = len(config.block_out_channels) - 1
    stages = nn.ModuleList()
    for index, (word, (narrow, wide)) in enumerate(
        zip(config.down_block_types, pairwise(widths), strict=True)
    ):
        kind = DOWN_BLOCKS[word]
        stage = ImageDownStage if kind.carries_image else DownStage
        stages.append(stage(config, kind, narrow, wide, last=index == last))
    return stages


def _up_stages(config: UNetConfig) -> nn.ModuleList:
    widths = config.block_out_channels[::-1]
    last = len(widths) - 1
    stages = nn.ModuleList()
    for index, word in enumerate(config.up_block_types):
        kind = UP_BLOCKS[word]
        stage = ImageUpStage if kind.carries_image else UpStage
        stages.append(
            stage(
                config,
                kind,
                in_channels=widths[max(index - 1, 0)],
                skip_channels=widths[min(index + 1, last)],
                out_channels=widths[index],
                last=index == last,
            )
        )
    return stages


def initialise(network: UNet) -> None:
    """Fresh weights: torch's own, but the last layer of every residual branch and of the network is zero.

    So each block starts as its shortcut and the network puts out zero (appendix B of Ho et al. 2020 and its
    code). Draws from the global generator, as every constructor of torch does.
    """
    ends: list[nn.Module] = [network.conv_out]
    for module in network.modules():
        match module:
            case ResnetBlock():
                ends.append(module.conv2)
            case Attention():
                ends.append(module.to_out[0])
            case ImageUpStage() if module.skip_conv is not None:
                ends.append(module.skip_conv)
    for layer in ends:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
