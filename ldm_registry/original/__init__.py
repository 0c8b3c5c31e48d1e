"""Checkpoints in the layouts of their original code, as component folders with the names of diffusers.

Single files of Stable Diffusion 1.x, 2.x and XL, of their VAEs alone, of VQ models and of DiT; and the YAML of
latent-diffusion. Nothing is executed and no network is built: this is knowledge of names and shapes.
"""

from __future__ import annotations

from ldm_registry.original.conversion import Converted, convert
from ldm_registry.original.layout import Layout, detect
from ldm_registry.original.ldm_yaml import LdmYaml, read_ldm_yaml

__all__ = ["Converted", "Layout", "LdmYaml", "convert", "detect", "read_ldm_yaml"]
