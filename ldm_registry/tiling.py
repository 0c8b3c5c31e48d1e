"""Convolutional networks on images that do not fit: tile by tile, and exact.

A map that a network makes on its way is described, not computed (`maps`). Three things are not local, and `Walk` has a
method for each:

- group normalisation needs mean and variance of the whole map: one pass over all tiles gathers them (`norm`);
- attention needs all positions: keys and values are gathered once, queries go tile by tile (`gathered`);
- whatever is read many times should be computed once: a map that is small enough is held (`hold`); one of up to twice
  that size is held as integers of 16 bits, each channel of each tile with a scale of its own, which is the one place
  where tiles are not exact (80 dB); a larger one is computed again whenever it is read, the price of its memory.

A network says how it is walked with a function `(Map, Walk) -> Map`. `in_tiles` runs it, `working_bytes` walks it
without computing anything and says beforehand how much memory that will take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from typing import final

import torch
from torch import Tensor, nn

from ldm_registry.errors import SpecError
from ldm_registry.maps import Held, Local, Map, Region, empty
from ldm_registry.moments import group_moments, rows, scale_and_shift
from ldm_registry.runtime.heap import return_freed

HELD_BYTES = 4_500_000_000
"""The largest map that is held: 256 channels of 2048 x 2048 positions in float32 are 4.3e9."""

ATTENDING = 48
"""Side of the smallest square of positions that attend at a time: with fewer, SDPA's matrix products are slow."""

BANDS = 4
"""Bands that a row of tiles is held in, so that rows which were read for the last time are let go soon."""


class Walk(ABC):
    """What a network needs beside local layers on its way through an image.

    Args:
        tile_pixels: Side of a tile in pixels of the image; None for the whole image at once.
    """

    def __init__(self, tile_pixels: int | None) -> None:
        self.tile_pixels = tile_pixels

    def tile_rows(self, of: Map, least: int = 1) -> Iterator[list[Region]]:
        """The tiles of a map, row by row; a side has at least so many positions."""
        whole = max(of.height, of.width)
        side = whole if self.tile_pixels is None else max(least, self.tile_pixels // of.stride)
        for top in range(0, of.height, side):
            bottom = min(top + side, of.height)
            yield [Region(top, bottom, left, min(left + side, of.width)) for left in range(0, of.width, side)]

    def stored_as(self, made: Map) -> torch.dtype | None:
        """What a map is held as; None where it is too large for any."""
        size = made.bytes_of(made.height * made.width)
        if self.tile_pixels is None or size <= HELD_BYTES:
            return made.dtype
        return torch.int16 if made.dtype == torch.float32 and size <= 2 * HELD_BYTES else None

    @abstractmethod
    def norm(self, norm: nn.Module, of: Map) -> Local:
        """A group normalisation with the mean and variance that the groups have in the whole of a map.

        Raises:
            SpecError: It is no `nn.GroupNorm`.
        """

    @abstractmethod
    def hold(self, made: Map) -> Map:
        """The same map, in memory where it is not too large; the maps before it are then not read any more."""

    @abstractmethod
    def gathered(
        self, of: Map, gather: Callable[[Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Map:
        """A map of which every position depends on all positions, in memory.

        Args:
            of: The map before; it is not read any more.
            gather: A part [1, C, h, w] to what all others need of it, [N, h * w, K]; in no particular order.
            mix: A part and what was gathered from all parts [N, H * W, K] to the same part of the new map.
        """


@final
class Tiles(Walk):
    """Computes."""

    def tile_rows(self, of: Map, least: int = 1) -> Iterator[list[Region]]:
        """As in `Walk`; first, the pieces of the tiles of the map before go back to the system.

        The C library keeps them, too small for the tiles of this map or too large.
        """
        if self.tile_pixels is not None and of.device.type == "cpu":
            return_freed()
        return super().tile_rows(of, least)

    def norm(self, norm: nn.Module, of: Map) -> Local:
        """Gather the statistics in one pass over all tiles, then scale and shift with them."""
        group_norm = _group_norm(norm)
        parts = (of.read(region) for row in self.tile_rows(of) for region in row)
        moments = group_moments(map(rows, parts), group_norm.num_groups)
        scale, shift = scale_and_shift(group_norm, *moments, like=of)
        return lambda part: torch.addcmul(shift, part, scale)

    def hold(self, made: Map) -> Map:
        """Compute it, or leave it to be computed where it is too large."""
        stored = self.stored_as(made)
        return made if stored is None else self._held(made, stored)

    def gathered(
        self, of: Map, gather: Callable[[Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Map:
        """Gather from all tiles, then compute tile by tile."""
        everything = torch.empty(0)
        at = 0
        for row in self.tile_rows(of, ATTENDING):
            for region in row:
                part = gather(of.read(region))
                if not at:
                    everything = part.new_empty((len(part), of.height * of.width, part.shape[2]))
                everything[:, at : at + region.area] = part
                at += region.area
        mixed = of.through(lambda part: mix(part, everything), of.channels, halo=0)
        return self._held(mixed, of.dtype, ATTENDING)

    def write(self, made: Map, out: Tensor) -> None:
        """Write all of a map to a tensor [1, C, H, W]; it is not read any more."""
        for row in self.tile_rows(made):
            for region in row:
                out[:, :, region.top : region.bottom, region.left : region.right] = made.read(region)
            made.release(row[0].bottom)

    def _held(self, made: Map, stored: torch.dtype, least: int = 1) -> Held:
        held = Held.like(made, stored)
        for row in self.tile_rows(made, least):
            held.add_bands(row[0].top, row[0].bottom, BANDS)
            for region in row:
                held.write(region, made.read(region))
            made.release(row[0].bottom)
        return held


@final
class Tally(Walk):
    """Computes nothing and counts the memory that `Tiles` would take.

    Attributes:
        peak_bytes: The most at a time so far, without the input.
    """

    def __init__(self, tile_pixels: int | None) -> None:
        super().__init__(tile_pixels)
        self.peak_bytes = 0

    def norm(self, norm: nn.Module, of: Map) -> Local:
        """Count one pass over all tiles."""
        _group_norm(norm)
        self._reach(self._held_bytes(of) + self._reading_bytes(of))
        return _unchanged

    def hold(self, made: Map) -> Map:
        """Count what computing the map and holding it takes."""
        stored = self.stored_as(made)
        return made if stored is None else self._held(made, stored)

    def gathered(
        self, of: Map, gather: Callable[[Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Map:
        """Count keys and values, twice the channels, beside the map."""
        keys_and_values = 2 * of.bytes_of(of.height * of.width)
        mixed = of.through(_unchanged, of.channels, halo=0)
        return self._held(mixed, of.dtype, ATTENDING, beside=keys_and_values)

    def write(self, made: Map) -> None:
        """Count one pass over all tiles of the last map."""
        self._reach(self._held_bytes(made) + self._reading_bytes(made))

    def _held(self, made: Map, stored: torch.dtype, least: int = 1, *, beside: int = 0) -> Held:
        held = Held.like(made, stored)
        size, before = held.held_bytes(), made.held_bytes()
        rows = next(self.tile_rows(made, least))[0].bottom
        # What is computed takes the place of what it was computed from, one row of tiles and one band behind.
        behind = size * min(made.height, rows + -(-rows // BANDS)) // made.height
        both = 0 if self.tile_pixels is None else max(before, size) + min(behind, before)
        self._reach(both + beside + self._reading_bytes(made, least))
        return held

    def _held_bytes(self, made: Map) -> int:
        # Without tiles the map is the very part that is read.
        return 0 if self.tile_pixels is None else made.held_bytes()

    def _reading_bytes(self, made: Map, least: int = 1) -> int:
        # The largest halo is around the second tile of the second row, or the first where there is no third.
        rows = islice(self.tile_rows(made, least), 2)
        return max(made.reading_bytes(region) for row in rows for region in row[:2])

    def _reach(self, used: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used)


Steps = Callable[[Map, Walk], Map]
"""How a network walks through an image."""


def tiles_apply(part: nn.Module, x: Tensor, pixels: tuple[int, int], tile_pixels: int | None) -> bool:
    """Whether a call is computed in tiles: the image is larger than one, and no gradient is wanted.

    A gradient needs every map on the way at once, so that nothing would be saved.

    Args:
        part: The component; in training mode it wants gradients wherever they are on.
        x: What goes in.
        pixels: Height and width of the image.
        tile_pixels: Side of a tile in pixels; None for no tiles.
    """
    differentiated = torch.is_grad_enabled() and (x.requires_grad or part.training)
    return tile_pixels is not None and max(pixels) > tile_pixels and not differentiated


@torch.no_grad()
def in_tiles(part: nn.Module, steps: Steps, x: Tensor, *, stride: int, tile_pixels: int | None) -> Tensor:
    """Run a network tile by tile, one image after the other.

    Args:
        part: The component that the network belongs to.
        steps: How it walks.
        x: What goes in, [B, C, H, W].
        stride: Pixels of the image along one side of a position of `x`.
        tile_pixels: Side of a tile in pixels of the image.

    Returns:
        What comes out, [B, K, H', W'].

    Raises:
        SpecError: A module inside has hooks, which would see tiles, or nothing at all.
    """
    _refuse_hooks(part)
    tiles = Tiles(tile_pixels)
    out = torch.empty(0)
    for index, one in enumerate(torch.split(x, 1)):
        last = steps(Held.of(one, stride), tiles)
        if not index:
            out = empty(last, len(x), last.height)
        tiles.write(last, out[index : index + 1])
    return out


def working_bytes(
    steps: Steps,
    shape: tuple[int, int, int, int],
    *,
    stride: int,
    tile_pixels: int | None,
    dtype: torch.dtype,
) -> int:
    """The memory that `in_tiles` takes at its peak: what goes in and what comes out counted, weights not.

    Args:
        steps: How the network walks.
        shape: Of what goes in, [B, C, H, W].
        stride: As for `in_tiles`.
        tile_pixels: As for `in_tiles`; None for the whole network at once, on all B together.
        dtype: Of the values.
    """
    batch, channels, height, width = shape
    tally = Tally(tile_pixels)
    device = torch.device("cpu")
    start = Held(channels, height, width, stride, dtype, device, {}, {}, dtype, lasting=True)
    last = steps(start, tally)
    tally.write(last)
    outer = batch * (start.bytes_of(height * width) + last.bytes_of(last.height * last.width))
    return outer + tally.peak_bytes * (batch if tile_pixels is None else 1)


def _unchanged(part: Tensor) -> Tensor:
    return part


def _group_norm(norm: nn.Module) -> nn.GroupNorm:
    if not isinstance(norm, nn.GroupNorm):
        raise SpecError(
            f"cannot compute {type(norm).__name__} in tiles",
            [f"got a normalisation of type {type(norm).__name__}, expected GroupNorm"],
            "leave `tile` out",
        )
    return norm


def _refuse_hooks(part: nn.Module) -> None:
    hooked = [
        name
        for name, module in part.named_modules()
        if name and (module._forward_hooks or module._forward_pre_hooks)
    ]
    if hooked:
        raise SpecError(
            f"cannot compute {type(part).__name__} in tiles while modules inside it have hooks",
            [f"{name} has hooks, which would not see whole maps" for name in hooked],
            "leave `tile` out while activations are recorded or changed",
        )
