"""Networks that are measured: their configs, what they are given, and how diffusers calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import networks
import torch
from pair import Pair
from tiny_pipelines import diffusers, seeded
from torch import Tensor

from ldm_registry.interfaces import Condition, Denoiser, NoiseLevel

TRAINED = {"prediction": "epsilon", "schedule": {"name": "scaled_linear"}}
STEP = 500
"""A training step in the middle, which every network knows."""


@dataclass(frozen=True)
class Case:
    """A network of diffusers and what it is given.

    Attributes:
        label: A phrase.
        kind: Class of diffusers.
        config: Of the class.
        small: What of the config is smaller in smoke mode.
        shape: Of the latent, [C, H, W].
        condition: Inputs beside the latent for a batch, by our names.
        call: Diffusers' forward pass: network, latent, condition.
        goal: Of the ratio.
    """

    label: str
    kind: str
    config: dict[str, Any]
    small: dict[str, Any]
    shape: tuple[int, int, int]
    condition: Callable[[int], Condition]
    call: Callable[[Any, Tensor, Condition], Tensor]
    goal: float


def _label(batch: int) -> Condition:
    return {"class_label": torch.arange(batch)}


def _text(batch: int, width: int) -> Condition:
    return {"text_embedding": networks.noise(batch, 77, width, seed=1)}


DIT = Case(
    "DiT-S/2, 32x32 latent",
    "DiTTransformer2DModel",
    {
        "num_attention_heads": 6,
        "attention_head_dim": 64,
        "num_layers": 12,
        "in_channels": 4,
        "out_channels": 8,
        "sample_size": 32,
        "patch_size": 2,
    },
    {"num_attention_heads": 2, "num_layers": 2},
    (4, 32, 32),
    _label,
    lambda net, z, given: net(
        z, timestep=torch.full((len(z),), STEP), class_labels=given["class_label"]
    ).sample.chunk(2, 1)[0],
    0.85,
)
PIXART = Case(
    "PixArt of the size of DiT-S/2, 77 tokens",
    "PixArtTransformer2DModel",
    {
        **DIT.config,
        "cross_attention_dim": 384,
        "caption_channels": 768,
        "use_additional_conditions": False,
    },
    {"num_layers": 2},
    (4, 32, 32),
    lambda batch: _text(batch, 768),
    lambda net, z, given: net(
        z,
        encoder_hidden_states=given["text_embedding"],
        timestep=torch.full((len(z),), STEP),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample.chunk(2, 1)[0],
    0.85,
)
UNET = Case(
    "UNet2DModel of DDPM for CIFAR-10, 32 px",
    "UNet2DModel",
    {
        "sample_size": 32,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    (3, 32, 32),
    lambda batch: {},
    lambda net, z, given: net(z, STEP).sample,
    0.90,
)
UNET_CONDITION = Case(
    "UNet2DConditionModel of Stable Diffusion 1, 32x32 latent",
    "UNet2DConditionModel",
    {
        "sample_size": 32,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    (4, 32, 32),
    lambda batch: _text(batch, 768),
    lambda net, z, given: net(z, STEP, given["text_embedding"]).sample,
    0.90,
)


@dataclass(frozen=True)
class Contestants:
    """One network on both sides and the same inputs for both.

    Attributes:
        case: What it is.
        network: Of diffusers.
        denoiser: Ours.
        z: [B, C, H, W].
        level: Of the noise in it.
        condition: The other inputs.
    """

    case: Case
    network: Any
    denoiser: Denoiser
    z: Tensor
    level: NoiseLevel
    condition: Condition

    def pair(self, tolerance: float = 1e-4) -> Pair:
        """One forward pass of each."""
        return Pair(
            lambda: self.denoiser(self.z, self.level, self.condition).prediction,
            lambda: self.case.call(self.network, self.z, self.condition),
            tolerance,
        )


def contestants(
    case: Case,
    batch: int,
    folder: Path,
    *,
    smoke: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Contestants:
    """Build a case with random weights.

    Args:
        case: What to build.
        batch: B.
        folder: The checkpoint goes here, from which ours is loaded.
        smoke: Whether it has to be small.
        device: Of everything.
        dtype: Of everything.
    """
    config = {**case.config, **(case.small if smoke else {})}
    network = seeded(getattr(diffusers(), case.kind), **config).to(dtype)
    denoiser = cast(Denoiser, networks.ours("denoiser", network, folder, TRAINED)).to(device, dtype)
    assert denoiser.training_schedule is not None
    level = denoiser.training_schedule.level(torch.tensor(STEP)).normalised()
    z = networks.noise(batch, *case.shape).to(device, dtype)
    condition = {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in case.condition(batch).items()
    }
    return Contestants(case, network.to(device), denoiser, z, level, condition)
