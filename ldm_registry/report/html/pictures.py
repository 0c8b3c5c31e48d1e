"""Images as PNG inside the page."""

from __future__ import annotations

import base64
import io

from torch import Tensor

from ldm_registry.data import to_uint8
from ldm_registry.diagnostics.evidence import Picture
from ldm_registry.report.grid import to_picture
from ldm_registry.report.html.markup import Markup, joined, tag

MAX_SIDE = 1024
"""Pixels; larger pictures are reduced, so that one page of them stays small."""
ENLARGED_TO = 256
"""Pixels; smaller pictures are shown enlarged, so that single pixels can be seen."""


def figure(picture: Picture) -> Markup:
    """A picture with its title and what there is to see."""
    encoded, width, height = data_uri(picture.image)
    factor = max(1, ENLARGED_TO // max(width, height))
    image = tag(
        "img",
        src=encoded,
        alt=picture.alt or picture.title,
        width=width * factor,
        height=height * factor,
        decoding="async",
    )
    said = picture.alt.removeprefix(picture.title).removeprefix(":").strip()
    caption = tag("figcaption", tag("strong", picture.title), " ", tag("span", said, class_="quiet"))
    return tag("figure", joined(image, caption), class_="picture")


def data_uri(image: Tensor) -> tuple[str, int, int]:
    """A PNG with its width and height in pixels.

    Args:
        image: [3, H, W] or [1, H, W] in [-1, 1]; NaN becomes black, infinities the ends of the range.
    """
    finite = image.detach().float().cpu().nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0).clamp(-1, 1)
    drawn = to_picture(to_uint8(finite).permute(1, 2, 0).contiguous())
    drawn.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/png;base64,{encoded}", drawn.width, drawn.height
