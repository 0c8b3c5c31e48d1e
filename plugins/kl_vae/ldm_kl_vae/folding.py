"""The normalisation of latents as part of the 1x1 convolutions beside it, for readers that know none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm_kl_vae.config import KLVAEConfig
from ldm_kl_vae.normalisation import Normalisation


def folded_config(config: KLVAEConfig) -> KLVAEConfig:
    """The config of a codec whose convolutions normalise: nothing is left to scale."""
    values = config.model_dump() | {
        "scaling_factor": 1.0,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "latent_std": 1.0,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    return KLVAEConfig.model_validate(values)


def folded_quant_conv(conv: nn.Conv2d | None, config: KLVAEConfig, dtype: torch.dtype) -> nn.Conv2d:
    """Moments [mean, log-variance] of the raw latents to those of the normalised ones.

    Args:
        conv: What stood there; None for nothing.
        config: With the normalisation that is folded in.
        dtype: Of the network; what is folded keeps at least single precision.
    """
    mean, scale = _per_channel(config.normalisation, config.latent_channels)
    ones = torch.ones_like(scale)
    factor = torch.cat([scale, ones])
    shift = torch.cat([-mean * scale, 2.0 * scale.log()])
    weight, bias = _affine(conv, 2 * config.latent_channels)
    return _conv(factor[:, None] * weight, factor * bias + shift, dtype)


def folded_post_quant_conv(conv: nn.Conv2d | None, config: KLVAEConfig, dtype: torch.dtype) -> nn.Conv2d:
    """Normalised latents to what the first layer of the decoder takes.

    Args:
        conv: What stood there; None for nothing.
        config: With the normalisation that is folded in.
        dtype: Of the network; what is folded keeps at least single precision.
    """
    mean, scale = _per_channel(config.normalisation, config.latent_channels)
    weight, bias = _affine(conv, config.latent_channels)
    return _conv(weight / scale, bias + weight @ mean, dtype)


def _per_channel(normalisation: Normalisation, channels: int) -> tuple[Tensor, Tensor]:
    def spread(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device="cpu").expand(channels)

    return spread(normalisation.mean), spread(normalisation.scale)


def _affine(conv: nn.Conv2d | None, channels: int) -> tuple[Tensor, Tensor]:
    """Matrix and offset of a 1x1 convolution, float64."""
    if conv is None:
        return torch.eye(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    assert conv.bias is not None
    return conv.weight.detach().cpu().double()[:, :, 0, 0], conv.bias.detach().cpu().double()


def _conv(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    dtype = torch.promote_types(dtype, torch.float32)
    values = {"weight": weight[:, :, None, None].contiguous(), "bias": bias}
    conv.load_state_dict({name: value.to(dtype) for name, value in values.items()}, assign=True)
    return conv
