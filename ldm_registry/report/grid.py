"""Many small pictures as one, with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 4
MIN_CELL = 96
"""Pixels; smaller images are enlarged by a whole factor, without smoothing, so that every pixel stays visible."""
BACKGROUND = (255, 255, 255)
INK = (60, 60, 60)


def to_picture(pixels: Tensor) -> Image.Image:
    """One image, uint8 [H, W, C] with C of 1 or 3, as a picture."""
    array = pixels.numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(
    images: Tensor,
    *,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Lay images out in rows, read like text.

    Args:
        images: uint8 [N, H, W, C].
        columns: In each row; None makes it nearly square.
        row_labels: Written to the left of each row.
        column_labels: Written above each column.

    Returns:
        An RGB picture; images below 96 pixels are enlarged by a whole factor.
    """
    count, height, width = images.shape[:3]
    columns = columns or _columns(count)
    factor = max(1, math.ceil(MIN_CELL / max(height, width)))
    cell_width, cell_height = width * factor + GAP, height * factor + GAP
    font = ImageFont.load_default(size=14)
    left = GAP + max((math.ceil(font.getlength(label)) + 2 * GAP for label in row_labels), default=0)
    top = GAP + (24 if column_labels else 0)
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (left + columns * cell_width, top + rows * cell_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((left + (column + 0.5) * cell_width - GAP / 2, top - GAP), label, INK, font, anchor="mb")
    for row, label in enumerate(row_labels):
        draw.text((GAP, top + (row + 0.5) * cell_height - GAP / 2), label, INK, font, anchor="lm")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        picture = (
            to_picture(image)
            .convert("RGB")
            .resize((width * factor, height * factor), Image.Resampling.NEAREST)
        )
        sheet.paste(picture, (left + column * cell_width, top + row * cell_height))
    return sheet


def _columns(count: int) -> int:
    """The nearest to a square that leaves no hole; a square with holes where that would be a strip."""
    side = math.ceil(math.sqrt(count))
    return next((width for width in range(side, 2 * side) if count % width == 0), side)
