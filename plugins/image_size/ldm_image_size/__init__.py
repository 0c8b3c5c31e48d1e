"""Image sizes as a condition (Podell et al. 2023, section 2.2; Chen et al. 2023, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

from ldm_image_size.conditioner import ImageSize, ImageSizeConfig
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component

__all__ = ["ImageSize", "ImageSizeConfig", "register_components"]


@hookimpl
def register_components() -> Sequence[type[Component]]:
    """The one component of this plugin: the conditioner `image-size`."""
    return [ImageSize]
