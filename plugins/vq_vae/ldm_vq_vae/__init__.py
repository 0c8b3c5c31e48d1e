"""The vector-quantised convolutional autoencoder of latent diffusion, as an encoder and a decoder."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_vq_vae.codebook import Codebook, Quantised
from ldm_vq_vae.config import VQVAEConfig
from ldm_vq_vae.decoder import VQDecoder
from ldm_vq_vae.encoder import VQEncoder
from ldm_vq_vae.usage import CodebookUsage, codebook_usage

__all__ = [
    "Codebook",
    "CodebookUsage",
    "Quantised",
    "VQDecoder",
    "VQEncoder",
    "VQVAEConfig",
    "codebook_usage",
    "register_components",
]


@hookimpl
def register_components() -> list[type[Component]]:
    """The two halves of the codec."""
    return [VQEncoder, VQDecoder]
