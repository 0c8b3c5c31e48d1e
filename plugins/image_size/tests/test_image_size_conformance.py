"""The conformance suite on `image-size`."""

from __future__ import annotations

from ldm_image_size import ImageSize, ImageSizeConfig

from ldm_registry.testing import ComponentSuite


class TestImageSize(ComponentSuite):
    component = ImageSize
    config = ImageSizeConfig(outputs=("size_and_crop", "resolution", "aspect_ratio"), crop=(4, 8))
