"""The KL-regularised convolutional autoencoder of latent diffusion, as an encoder and a decoder."""

from __future__ import annotations

from ldm_kl_vae.config import KLVAEConfig
from ldm_kl_vae.decoder import KLDecoder
from ldm_kl_vae.encoder import KLEncoder
from ldm_kl_vae.posterior import DiagonalGaussian
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = ["DiagonalGaussian", "KLDecoder", "KLEncoder", "KLVAEConfig", "register_components"]


@hookimpl
def register_components() -> list[type[Component]]:
    """The two halves of the codec."""
    return [KLEncoder, KLDecoder]
