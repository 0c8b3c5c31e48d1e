"""The denoiser `unet-condition`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Condition, Denoiser, DenoiserOutput, LatentSpace, NoiseLevel, Trained
from ldm_unet.block import ACTIVATION
from ldm_unet.condition_attention import JointAttention, PositionAttention
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.condition_embedding import EmbeddingLayers, added_embedding, class_embedding, time_projection
from ldm_unet.condition_inputs import conditioning, take
from ldm_unet.condition_plan import down_plans, least_side, mid_plan, text_width, up_plans
from ldm_unet.condition_stage import ConditionDownStage, ConditionMidStage, ConditionUpStage
from ldm_unet.context import Context, score_bias
from ldm_unet.convolution import Convolution, laid_like
from ldm_unet.embedding import Sinusoids
from ldm_unet.in_place import activated
from ldm_unet.residual import ResidualBlock
from ldm_unet.transformer import SpatialTransformer


@final
class UNetCondition(Denoiser):
    """The UNet of latent diffusion models that reads text (Rombach et al. 2022): Stable Diffusion 1, 2 and XL.

    Modules and state-dict keys are those of diffusers' `UNet2DConditionModel`.

    Args:
        config: Sizes and flavours.
        trained: What the output means and which noise the network saw.

    Attributes:
        least_side: The smallest side of a latent, cells, that it takes.
    """

    name = "unet-condition"
    Config = UNetConditionConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
    }
    config: UNetConditionConfig
    diffusers_class = "UNet2DConditionModel"
    renamed_tensors = (
        (r"\.query\.(weight|bias)$", r".to_q.\1"),
        (r"\.key\.(weight|bias)$", r".to_k.\1"),
        (r"\.value\.(weight|bias)$", r".to_v.\1"),
        (r"\.proj_attn\.(weight|bias)$", r".to_out.0.\1"),
    )

    def __init__(self, config: UNetConditionConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        # Past nn.Module's registration: the schedule's float64 tables must not be cast or saved with the weights.
        object.__setattr__(self, "training_schedule", trained.schedule)
        self.conditioning = conditioning(config)
        self.latent_space = LatentSpace(config.in_channels, stride=1)
        self.size_multiple = 1
        self.least_side = least_side(config)

        width, text = config.block_out_channels[0], text_width(config)
        self.conv_in = _convolution(config.in_channels, width, config.conv_in_kernel)
        self.time_proj = time_projection(config)
        self.time_embedding = EmbeddingLayers(
            self.time_proj.features,
            config.time_dim,
            config.act_fn,
            config.timestep_post_act,
            config.time_cond_proj_dim,
        )
        self.encoder_hid_proj: nn.Linear | None = None
        if config.encoder_hid_dim is not None:
            assert isinstance(config.cross_attention_dim, int)
            self.encoder_hid_proj = nn.Linear(config.encoder_hid_dim, config.cross_attention_dim)
        self.class_embedding = class_embedding(config, self.time_proj.features)
        self.add_time_proj: Sinusoids | None = None
        if config.addition_embed_type == "text_time":
            sinusoids = config.addition_time_embed_dim or 0
            self.add_time_proj = Sinusoids(sinusoids, float(config.freq_shift), config.flip_sin_to_cos)
        self.add_embedding = added_embedding(config, text)
        self.down_blocks = _down_stages(config)
        mid = mid_plan(config)
        self.mid_block = ConditionMidStage(config, mid) if mid is not None else None
        self.up_blocks = _up_stages(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, width, config.norm_eps)
        self.conv_out = _convolution(width, config.out_channels, config.conv_out_kernel)
        initialise(self)

    def forward(self, z: Float[Tensor, "b c h w"], level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Predict from a noisy latent.

        Args:
            z: `z_t / sqrt(alpha**2 + sigma**2)`, [B, C, H, W], of any size.
            level: Normalised to `alpha**2 + sigma**2 = 1`, shape [] or [B].
            condition: What `conditioning` lists, each [B, ...] or [1, ...] for all samples: `text_embedding`
                [B, T, C] and perhaps `text_mask` [B, T]; with `addition_embed_type: text_time`,
                `pooled_text_embedding` [B, D] and `size_and_crop` [B, 6] (original height and width, top and left
                of the crop, target height and width, pixels); `class_label` or `class_embedding`;
                `guidance_embedding` [B, time_cond_proj_dim].

        Raises:
            ContractError: A latent of the wrong shape; a condition that is missing and has no null, or is of the
                wrong shape.
        """
        self._check(z)
        context = self._context(z, level, condition)
        x: Tensor = self.conv_in(2 * z - 1 if self.config.center_input_sample else z)
        skips = [x]
        for down in self.down_blocks:
            x = down(x, context, skips)
        if self.mid_block is not None:
            x = self.mid_block(x, context)
        for up in self.up_blocks:
            x = up(x, context, skips)
        activation = ACTIVATION[self.config.act_fn]
        x = self.conv_out(activated(activation, self.conv_norm_out(x), self.conv_norm_out))
        x = laid_like(x, z)
        if not self.config.learns_variance:
            return DenoiserOutput(x)
        prediction, variance = x.chunk(2, dim=1)
        return DenoiserOutput(prediction, variance)

    def _check(self, z: Tensor) -> None:
        channels, height, width = z.shape[1:]
        if channels != self.config.in_channels or min(height, width) < self.least_side:
            raise ContractError(
                f"denoiser 'unet-condition' got a latent of {channels} x {height} x {width}; expected "
                f"{self.config.in_channels} channels and sides of at least {self.least_side}"
            )

    def _context(self, z: Tensor, level: NoiseLevel, condition: Condition) -> Context:
        like = z.new_empty(0, dtype=self.conv_in.weight.dtype)
        given = {
            name: take(condition, name, accepted, z, like.dtype)
            for name, accepted in self.conditioning.items()
        }
        features = self.time_proj(self.trained.network_time(level).reshape(-1), like)
        embedding: Tensor = self.time_embedding(features, given.get("guidance_embedding"))
        if self.class_embedding is not None:
            class_vector = self._embed_class(given, z, like)
            if self.config.class_embeddings_concat:
                embedding = _beside(embedding, class_vector)
            else:
                embedding = embedding + class_vector
        if self.add_embedding is not None:
            embedding = embedding + self._embed_added(given, like)
        if self.config.time_embedding_act_fn is not None:
            embedding = ACTIVATION[self.config.time_embedding_act_fn](embedding)
        text, mask = given.get("text_embedding"), given.get("text_mask")
        if text is not None and self.encoder_hid_proj is not None:
            text = self.encoder_hid_proj(text)
        # Every residual block starts by activating the embedding: once is enough.
        active = ACTIVATION[self.config.act_fn](embedding)
        return Context(active, embedding, text, None if mask is None else score_bias(mask, like))

    def _embed_class(self, given: Mapping[str, Tensor | None], z: Tensor, like: Tensor) -> Tensor:
        assert self.class_embedding is not None
        value = given.get("class_label", given.get("class_embedding"))
        if value is None:
            assert self.config.null_class is not None
            value = torch.full((1,), self.config.null_class, dtype=torch.int64, device=z.device)
        if self.config.class_embed_type == "timestep":
            value = self.time_proj(value if value.is_floating_point() else value.float(), like)
        vector: Tensor = self.class_embedding(value)
        return vector

    def _embed_added(self, given: Mapping[str, Tensor | None], like: Tensor) -> Tensor:
        assert self.add_embedding is not None
        if self.add_time_proj is None:
            vector: Tensor = self.add_embedding(given["text_embedding"])
            return vector
        pooled, sizes = given["pooled_text_embedding"], given["size_and_crop"]
        assert pooled is not None
        assert sizes is not None
        expanded = self.add_time_proj(sizes.flatten(), like).unflatten(0, sizes.shape).flatten(1)
        vector = self.add_embedding(_beside(pooled, expanded))
        return vector


def _beside(first: Tensor, second: Tensor) -> Tensor:
    """[B, C] and [B, D] as [B, C + D]; either may be [1, ...] for all samples."""
    batch = max(len(first), len(second))
    return torch.cat([first.expand(batch, -1), second.expand(batch, -1)], dim=1)


def _convolution(in_channels: int, out_channels: int, side: int) -> Convolution:
    return Convolution(in_channels, out_channels, side, padding=(side - 1) // 2)


def _down_stages(config: UNetConditionConfig) -> nn.ModuleList:
    plans = down_plans(config)
    widths = (config.block_out_channels[0], *config.block_out_channels)
    return nn.ModuleList(
        [
            ConditionDownStage(config, plan, width, last=plan is plans[-1])
            for plan, width in zip(plans, widths, strict=False)
        ]
    )


def _up_stages(config: UNetConditionConfig) -> nn.ModuleList:
    plans = up_plans(config)
    last = len(plans) - 1
    return nn.ModuleList(
        [
            ConditionUpStage(
                config,
                plan,
                in_channels=plans[max(index - 1, 0)].width,
                skip_channels=plans[min(index + 1, last)].width,
                last=index == last,
            )
            for index, plan in enumerate(plans)
        ]
    )


def initialise(network: UNetCondition) -> None:
    """Fresh weights: torch's own, but the last layer of every residual branch and of the network is zero.

    So each block starts as its shortcut and the network puts out zero, as in the code of Ho et al. 2020 and of
    Rombach et al. 2022. Draws from the global generator, as every constructor of torch does.
    """
    ends: list[nn.Module] = [network.conv_out]
    for module in network.modules():
        match module:
            case ResidualBlock():
                ends.append(module.conv2)
            case SpatialTransformer():
                ends.append(module.proj_out)
            case PositionAttention() | JointAttention():
                ends.append(module.to_out[0])
    for layer in ends:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
