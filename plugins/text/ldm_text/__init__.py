"""Text encoders over the transformers library: CLIP (Radford et al. 2021) and T5 (Raffel et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component
from ldm_text.clip import CLIPText
from ldm_text.clip_config import CLIPTextConfig
from ldm_text.t5 import T5Text
from ldm_text.t5_config import T5TextConfig

__all__ = ["CLIPText", "CLIPTextConfig", "T5Text", "T5TextConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The conditioners `clip-text` and `t5-text`."""
    return [CLIPText, T5Text]
