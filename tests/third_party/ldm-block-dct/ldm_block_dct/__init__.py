"""The lowest frequencies of blocks of pixels as a codec for ldm-registry."""

from __future__ import annotations

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

from ldm_block_dct.codec import BlockDctDecoder, BlockDctEncoder


@hookimpl
def register_components() -> list[type[Component]]:
    """What the entry points in `pyproject.toml` declare, no more and no less."""
    return [BlockDctEncoder, BlockDctDecoder]
