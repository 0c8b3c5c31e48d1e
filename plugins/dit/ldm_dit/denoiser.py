"""The denoiser `dit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_dit.block import Block, modulated_norm
from ldm_dit.config import DiTConfig
from ldm_dit.embedding import LabelEmbedder, TimeFeatures, TimestepEmbedder
from ldm_dit.modulation import Modulation
from ldm_dit.patches import PatchEmbed, unpatch
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

_INERT_KEYS: Mapping[str, tuple[object, ...]] = {
    **INERT_KEYS,
    "cross_attention_dim": (None,),
    "caption_channels": (None,),
    "attention_type": ("default", None),
    "interpolation_scale": (None, 1),
    "use_additional_conditions": (None, False),
}


@final
class DiT(Denoiser):
    """Scalable diffusion model with a transformer (Peebles and Xie 2023), conditioned by adaLN-zero.

    Modules and state-dict keys are those of diffusers' `DiTTransformer2DModel`, where every block carries its
    own embedder of time and label. Grids of another size or shape than the one trained on stretch the position
    embedding, as diffusers does for squares.

    Args:
        config: Sizes.
        trained: What the output means and which noise the network saw.
    """

    name = "dit"
    Config = DiTConfig
    conformance_config: ClassVar[Mapping[str, Any]] = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": 8,
        "num_embeds_ada_norm": 3,
    }
    config: DiTConfig
    diffusers_class = "DiTTransformer2DModel"

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """As for every component: drops the keys of `Transformer2DModel` that have no say over a DiT."""
        return without_inert_keys(cls.name, values, _INERT_KEYS)

    def __init__(self, config: DiTConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        # Past nn.Module's registration: the schedule's float64 tables must not be cast or saved with the weights.
        object.__setattr__(self, "training_schedule", trained.schedule)
        classes = config.num_embeds_ada_norm
        self.conditioning = {"class_label": Conditioning(shape=(), classes=classes, null=classes)}
        self.latent_space = LatentSpace(config.in_channels, stride=1)
        self.size_multiple = config.patch_size
        self.time_features = TimeFeatures(config.time_freq_shift)

        self.pos_embed = PatchEmbed(config.in_channels, config.width, config.patch_size, config.sample_size)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.proj_out_1 = Modulation(config.width, 2 * config.width)
        self.proj_out_2 = nn.Linear(config.width, config.patch_size**2 * config.predicted_channels)
        initialise(self)

    def forward(self, z: Float[Tensor, "b c h w"], level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Predict from a noisy latent.

        Args:
            z: `z_t / sqrt(alpha**2 + sigma**2)`, [B, C, H, W]; H and W multiples of the patch size.
            level: Normalised to `alpha**2 + sigma**2 = 1`, shape [] or [B].
            condition: `class_label`, int64 [B]; without it every sample is unconditional.

        Raises:
            ContractError: The latent is not made of whole patches of the right number of channels.
        """
        self._check(z)
        dtype = self.proj_out_2.weight.dtype
        features = self.time_features(self.trained.network_time(level), z.device, dtype)
        label = self._label(z, condition)
        x: Tensor = self.pos_embed(z)
        for block in self.transformer_blocks:
            x = block(x, features, label)
        patch = self.config.patch_size
        rows, columns = z.shape[-2] // patch, z.shape[-1] // patch
        return unpatch(self._project(x, features, label), rows, columns, patch, self.config.in_channels)

    def _check(self, z: Tensor) -> None:
        channels, height, width = z.shape[1:]
        patch = self.config.patch_size
        if channels != self.config.in_channels or height % patch or width % patch:
            raise ContractError(
                f"denoiser 'dit' got a latent of {channels} x {height} x {width}; expected "
                f"{self.config.in_channels} channels and sides that are multiples of the patch size {patch}"
            )

    def _label(self, z: Tensor, condition: Condition) -> Tensor:
        label = condition.get("class_label")
        if label is None:
            return torch.full((1,), self.config.num_embeds_ada_norm, dtype=torch.int64, device=z.device)
        return label.to(z.device)

    def _project(self, x: Tensor, features: Tensor, label: Tensor) -> Tensor:
        first = self.transformer_blocks[0]
        assert isinstance(first, Block)
        embedding = first.norm1.emb(features, label)
        shift, scale = self.proj_out_1(F.silu(embedding))[:, None].chunk(2, dim=2)
        tokens: Tensor = self.proj_out_2(modulated_norm(x, shift, scale))
        return tokens


def initialise(network: DiT) -> None:
    """Fresh weights as the paper's: every block starts as the identity, and the network puts out zero.

    Draws from the global generator, as every constructor of torch does.
    """
    for module in network.modules():
        match module:
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.Conv2d():
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
    for module in network.modules():
        match module:
            case TimestepEmbedder():
                nn.init.normal_(module.linear_1.weight, std=0.02)
                nn.init.normal_(module.linear_2.weight, std=0.02)
            case LabelEmbedder():
                nn.init.normal_(module.embedding_table.weight, std=0.02)
    zero = [block.norm1.linear for block in network.transformer_blocks if isinstance(block, Block)]
    for layer in [*zero, network.proj_out_1, network.proj_out_2]:
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
