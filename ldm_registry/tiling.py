"""Convolutional networks on images that do not fit: tile by tile, and exact.

A map that a network makes on its way is described, not computed: `Map.read` computes any region of it from the regions
of the map before. What a convolution needs beyond its region (the halo) is read with it and cut off again, so tiles
leave no seams. Three things are not local, and `Walk` has a method for each:

- group normalisation needs mean and variance of the whole map: one pass over all tiles gathers them (`norm`);
- attention needs all positions: keys and values are gathered once, queries go tile by tile (`gathered`);
- whatever is read many times should be computed once: a map that is small enough is held (`hold`); a larger one is
  computed again whenever it is read, which is the price of its memory.

A network says how it is walked with a function `(Map, Walk) -> Map`. `in_tiles` runs it, `working_bytes` walks it
without computing anything and says beforehand how much memory that will take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from mmap import mmap
from typing import final

import torch
from torch import Tensor, nn

from ldm_registry.errors import SpecError

HELD_BYTES = 4_500_000_000
"""The largest map that is held: 256 channels of 2048 x 2048 positions in float32 are 4.3e9."""

LIVE = 2
"""Tensors that layers have beside the one that they read: normalised and activated, or activated and convolved."""

BANDS = 4
"""Bands that a row of tiles is held in, so that rows which were read for the last time are let go soon."""

Local = Callable[[Tensor], Tensor]
"""Layers that look no further than a halo, [1, C, h, w] to [1, K, h', w']; they pad with zeros as if that were all."""


@final
@dataclass(frozen=True, slots=True)
class Region:
    """Rows `top` to `bottom` and columns `left` to `right`, the last ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Number of positions."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True, eq=False)
class Map(ABC):
    """A map [1, channels, height, width] of which regions can be read.

    Attributes:
        channels: Channels.
        height: Rows.
        width: Columns.
        stride: Pixels of the image along one side of a position.
        dtype: Of the values.
        device: Where they are.
    """

    channels: int
    height: int
    width: int
    stride: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def read(self, region: Region) -> Tensor:
        """The values of a region, [1, channels, rows, columns]; not to be written to."""

    @abstractmethod
    def release(self, row: int) -> None:
        """Rows above this one will not be read any more."""

    @abstractmethod
    def reading_bytes(self, region: Region) -> int:
        """Memory in use, beyond what is held, while a region is read."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Memory of the held map that this one is computed from."""

    def bytes_of(self, positions: int) -> int:
        """Memory of so many positions."""
        return positions * self.channels * self.dtype.itemsize

    def through(self, layers: Local, channels: int, *, halo: int, up: int = 1, down: int = 1) -> Map:
        """The map that layers make of this one; nothing is computed.

        Args:
            layers: They see regions of this map.
            channels: Channels that come out.
            halo: How far beyond a region the layers look, in positions of this map; a multiple of `down`.
            up: Factor by which the layers raise the resolution.
            down: Factor by which they lower it; it divides height and width.
        """
        return Computed(
            channels,
            self.height * up // down,
            self.width * up // down,
            self.stride * down // up,
            self.dtype,
            self.device,
            self,
            layers,
            halo,
            up,
            down,
        )


@final
@dataclass(frozen=True, eq=False)
class Held(Map):
    """A map in memory.

    Attributes:
        bands: Row at which each band starts, and its values [1, channels, rows, width].
        lasting: Whether the memory belongs to somebody else and outlives the map.
    """

    bands: dict[int, Tensor]
    lasting: bool = False

    @staticmethod
    def of(values: Tensor, stride: int) -> Held:
        """A map [1, C, H, W] that is there already, with `stride` pixels along a side of a position."""
        channels, height, width = values.shape[1:]
        return Held(channels, height, width, stride, values.dtype, values.device, {0: values}, lasting=True)

    def read(self, region: Region) -> Tensor:
        """The values, copied only where they lie in several bands."""
        parts = [
            values[:, :, max(0, region.top - start) : region.bottom - start, region.left : region.right]
            for start, values in self.bands.items()
            if start < region.bottom and start + values.shape[2] > region.top
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def release(self, row: int) -> None:
        """Let the memory of bands above the row go."""
        for start in [start for start, values in self.bands.items() if start + values.shape[2] <= row]:
            del self.bands[start]

    def reading_bytes(self, region: Region) -> int:
        """A copy of the region."""
        return self.bytes_of(region.area)

    def held_bytes(self) -> int:
        """Its own memory; none where that is somebody else's."""
        return 0 if self.lasting else self.bytes_of(self.height * self.width)


@final
@dataclass(frozen=True, eq=False)
class Computed(Map):
    """What layers make of another map, computed whenever it is read. Fields as in `Map.through`."""

    source: Map
    layers: Local
    halo: int
    up: int
    down: int

    def read(self, region: Region) -> Tensor:
        """Run the layers on the region of the source that they need, and cut off the halo."""
        needed = self._needed(region)
        made = self.layers(self.source.read(needed))
        top, left = needed.top * self.up // self.down, needed.left * self.up // self.down
        return made[:, :, region.top - top : region.bottom - top, region.left - left : region.right - left]

    def release(self, row: int) -> None:
        """Release the rows of the source that only rows above this one need."""
        self.source.release(self._first(row))

    def reading_bytes(self, region: Region) -> int:
        """What reading the source takes, or what the layers take: whichever is more."""
        needed = self._needed(region)
        read, made = self.source.bytes_of(needed.area), self.bytes_of(region.area)
        return max(self.source.reading_bytes(needed), read + LIVE * max(read, made))

    def held_bytes(self) -> int:
        """Of the source."""
        return self.source.held_bytes()

    def _needed(self, region: Region) -> Region:
        return Region(
            self._first(region.top),
            self._last(region.bottom, self.source.height),
            self._first(region.left),
            self._last(region.right, self.source.width),
        )

    def _first(self, start: int) -> int:
        return max(0, start * self.down // self.up - self.halo)

    def _last(self, stop: int, size: int) -> int:
        return min(size, -(-stop * self.down // self.up) + self.halo)


class Walk(ABC):
    """What a network needs beside local layers on its way through an image.

    Args:
        tile_pixels: Side of a tile in pixels of the image; None for the whole image at once.
    """

    def __init__(self, tile_pixels: int | None) -> None:
        self.tile_pixels = tile_pixels

    def tile_rows(self, of: Map) -> Iterator[list[Region]]:
        """The tiles of a map, row by row."""
        side = max(of.height, of.width) if self.tile_pixels is None else max(1, self.tile_pixels // of.stride)
        for top in range(0, of.height, side):
            bottom = min(top + side, of.height)
            yield [Region(top, bottom, left, min(left + side, of.width)) for left in range(0, of.width, side)]

    @abstractmethod
    def norm(self, norm: nn.Module, of: Map) -> Local:
        """A group normalisation with the mean and variance that the groups have in the whole of a map.

        Raises:
            SpecError: It is no `nn.GroupNorm`.
        """

    @abstractmethod
    def hold(self, made: Map) -> Map:
        """The same map, in memory where it takes at most `HELD_BYTES`. The maps before it are not read any more."""

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

    def norm(self, norm: nn.Module, of: Map) -> Local:
        """Gather the statistics in one pass over all tiles, then scale and shift with them."""
        group_norm = _group_norm(norm)
        mean, variance = self._moments(of, group_norm.num_groups)
        rstd = (variance + group_norm.eps).rsqrt()
        each = of.channels // group_norm.num_groups
        scale, shift = rstd.repeat_interleave(each), (-mean * rstd).repeat_interleave(each)
        if group_norm.weight is not None:
            weight, bias = group_norm.weight.detach().cpu().double(), group_norm.bias.detach().cpu().double()
            scale, shift = scale * weight, shift * weight + bias
        factor, offset = (values.to(of.device, of.dtype).view(1, -1, 1, 1) for values in (scale, shift))
        return lambda part: torch.addcmul(offset, part, factor)

    def hold(self, made: Map) -> Map:
        """Compute it, or leave it to be computed where it is too large."""
        return self._held(made) if made.bytes_of(made.height * made.width) <= HELD_BYTES else made

    def gathered(
        self, of: Map, gather: Callable[[Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Map:
        """Gather from all tiles, then compute tile by tile."""
        everything = torch.empty(0)
        at = 0
        for row in self.tile_rows(of):
            for region in row:
                part = gather(of.read(region))
                if not at:
                    everything = part.new_empty((len(part), of.height * of.width, part.shape[2]))
                everything[:, at : at + region.area] = part
                at += region.area
        return self._held(of.through(lambda part: mix(part, everything), of.channels, halo=0))

    def write(self, made: Map, out: Tensor) -> None:
        """Write all of a map to a tensor [1, C, H, W]; it is not read any more."""
        for row in self.tile_rows(made):
            for region in row:
                out[:, :, region.top : region.bottom, region.left : region.right] = made.read(region)
            made.release(row[0].bottom)

    def _held(self, made: Map) -> Held:
        held: dict[int, Tensor] = {}
        for row in self.tile_rows(made):
            top, bottom = row[0].top, row[0].bottom
            rows = -(-(bottom - top) // BANDS)
            bands = {start: _pages(made, min(rows, bottom - start)) for start in range(top, bottom, rows)}
            for region in row:
                part = made.read(region)
                for start, band in bands.items():
                    inside = slice(start - top, start - top + band.shape[2])
                    band[:, :, :, region.left : region.right] = part[:, :, inside]
            held |= bands
            made.release(bottom)
        return Held(made.channels, made.height, made.width, made.stride, made.dtype, made.device, held)

    def _moments(self, of: Map, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of each group over the whole map, float64 on the CPU.

        Tiles are merged as in Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample
        variances", so that a large mean costs no digits.
        """
        count, mean, squares = 0, torch.zeros(groups, dtype=torch.float64), torch.zeros(groups).double()
        for row in self.tile_rows(of):
            for region in row:
                part = of.read(region).permute(0, 2, 3, 1).reshape(-1, of.channels)
                part = part.to(torch.promote_types(part.dtype, torch.float32))
                centre = part.mean(dim=0)
                spread = (part - centre).square_().mean(dim=0).cpu().double().view(groups, -1)
                centre = centre.cpu().double().view(groups, -1)
                number = len(part) * centre.shape[1]
                tile_mean = centre.mean(dim=1)
                tile_squares = number * (spread + (centre - tile_mean[:, None]).square()).mean(dim=1)
                step = tile_mean - mean
                squares += tile_squares + step.square() * (count * number / (count + number))
                mean += step * (number / (count + number))
                count += number
        return mean, squares / count


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
        fits = self.tile_pixels is None or made.bytes_of(made.height * made.width) <= HELD_BYTES
        return self._held(made) if fits else made

    def gathered(
        self, of: Map, gather: Callable[[Tensor], Tensor], mix: Callable[[Tensor, Tensor], Tensor]
    ) -> Map:
        """Count keys and values, twice the channels, beside the map."""
        return self._held(of.through(_unchanged, of.channels, halo=0), 2 * of.bytes_of(of.height * of.width))

    def write(self, made: Map) -> None:
        """Count one pass over all tiles of the last map."""
        self._reach(self._held_bytes(made) + self._reading_bytes(made))

    def _held(self, made: Map, beside: int = 0) -> Held:
        size, before = made.bytes_of(made.height * made.width), made.held_bytes()
        rows = next(iter(self.tile_rows(made)))[0].bottom
        # What is computed takes the place of what it was computed from, one row of tiles and one band behind.
        behind = made.bytes_of(min(made.height, rows + -(-rows // BANDS)) * made.width)
        both = 0 if self.tile_pixels is None else max(before, size) + min(behind, before)
        self._reach(both + beside + self._reading_bytes(made))
        return Held(made.channels, made.height, made.width, made.stride, made.dtype, made.device, {})

    def _held_bytes(self, made: Map) -> int:
        # Without tiles the map is the very part that is read.
        return 0 if self.tile_pixels is None else made.held_bytes()

    def _reading_bytes(self, made: Map) -> int:
        # The largest halo is around the second tile of the second row, or the first where there is no third.
        rows = islice(self.tile_rows(made), 2)
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
            out = _empty(last, len(x), last.height)
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
    start = Held(channels, height, width, stride, dtype, torch.device("cpu"), {}, lasting=True)
    last = steps(start, tally)
    tally.write(last)
    outer = batch * (start.bytes_of(height * width) + last.bytes_of(last.height * last.width))
    return outer + tally.peak_bytes * (batch if tile_pixels is None else 1)


def _empty(like: Map, batch: int, rows: int) -> Tensor:
    shape = (batch, like.channels, rows, like.width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _pages(like: Map, rows: int) -> Tensor:
    """Rows of a map [1, C, rows, W] that go back to the system when they are let go.

    The heap would keep them: smaller tensors that were made in between lie behind them.
    """
    if like.device.type != "cpu":
        return _empty(like, 1, rows)
    memory = mmap(-1, like.bytes_of(rows * like.width))
    values = torch.frombuffer(memory, dtype=like.dtype).view(1, rows, like.width, like.channels)
    return values.permute(0, 3, 1, 2)


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
