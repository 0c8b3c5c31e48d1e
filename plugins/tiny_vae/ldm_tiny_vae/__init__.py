"""The tiny autoencoder that was distilled from the large ones, as an encoder and a decoder."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_tiny_vae.config import TinyVAEConfig
from ldm_tiny_vae.decoder import TinyDecoder
from ldm_tiny_vae.encoder import TinyEncoder

__all__ = ["TinyDecoder", "TinyEncoder", "TinyVAEConfig", "register_components"]


@hookimpl
def register_components() -> list[type[Component]]:
    """The two halves of the codec."""
    return [TinyEncoder, TinyDecoder]
