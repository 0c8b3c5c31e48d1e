"""Maps of a convolutional network that are described, not computed, and of which any region can be read.

What a convolution needs beyond a region (the halo) is read with it and cut off again, so that regions leave no seams.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import final

import torch
from torch import Tensor

LIVE = 2
"""Tensors that layers have beside the one that they read: normalised and activated, or activated and convolved."""

FULL_SCALE = 32767
"""The largest integer of 16 bits."""

TINY = 1e-30
"""Stands in for a scale of zero, where a channel is."""

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
        bands: Row at which each band starts, and its values [1, channels, rows, width]; as 16-bit integers where
            there are scales.
        scales: Row at which each band starts, and what its integers are to be multiplied by, [1, channels, 1, width].
        stored: What the bands are kept as.
        lasting: Whether the memory belongs to somebody else and outlives the map.
    """

    bands: dict[int, Tensor]
    scales: dict[int, Tensor]
    stored: torch.dtype
    lasting: bool = False

    @staticmethod
    def of(values: Tensor, stride: int) -> Held:
        """A map [1, C, H, W] that is there already, with `stride` pixels along a side of a position."""
        channels, height, width = values.shape[1:]
        dtype, device = values.dtype, values.device
        return Held(channels, height, width, stride, dtype, device, {0: values}, {}, dtype, lasting=True)

    @staticmethod
    def like(made: Map, stored: torch.dtype) -> Held:
        """Nothing yet of a map; `write` fills it."""
        size = (made.channels, made.height, made.width, made.stride)
        return Held(*size, made.dtype, made.device, {}, {}, stored)

    def add_bands(self, top: int, bottom: int, number: int) -> None:
        """Take memory for the rows from `top` to `bottom`, in so many bands."""
        rows = -(-(bottom - top) // number)
        for start in range(top, bottom, rows):
            self.bands[start] = pages(self, min(rows, bottom - start), self.stored)
            if self.stored != self.dtype:
                self.scales[start] = torch.empty(1, self.channels, 1, self.width, device=self.device)

    def write(self, region: Region, part: Tensor) -> None:
        """Put the values of a region [1, C, h, w] into bands that begin and end within its rows."""
        columns = slice(region.left, region.right)
        if self.stored != self.dtype:
            scale = part.abs().amax(dim=(0, 2, 3), keepdim=True).div_(FULL_SCALE).clamp_(min=TINY)
            part = (part / scale).round_()
        for start, values in self.bands.items():
            if region.top <= start < region.bottom:
                values[:, :, :, columns] = part[:, :, start - region.top :][:, :, : values.shape[2]]
                if self.stored != self.dtype:
                    self.scales[start][:, :, :, columns] = scale

    def read(self, region: Region) -> Tensor:
        """The values, copied only where they lie in several bands or are stored as integers."""
        columns = slice(region.left, region.right)
        parts = []
        for start, values in self.bands.items():
            if start < region.bottom and start + values.shape[2] > region.top:
                part = values[:, :, max(0, region.top - start) : region.bottom - start, columns]
                parts.append(part * self.scales[start][:, :, :, columns] if self.scales else part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def release(self, row: int) -> None:
        """Let the memory of bands above the row go."""
        for start in [start for start, values in self.bands.items() if start + values.shape[2] <= row]:
            del self.bands[start]
            self.scales.pop(start, None)

    def reading_bytes(self, region: Region) -> int:
        """A copy of the region."""
        return self.bytes_of(region.area)

    def held_bytes(self) -> int:
        """Its own memory; none where that is somebody else's."""
        return 0 if self.lasting else self.height * self.width * self.channels * self.stored.itemsize


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


def empty(like: Map, batch: int, rows: int) -> Tensor:
    """Memory for rows of a map, [batch, C, rows, W], in channels_last."""
    shape = (batch, like.channels, rows, like.width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def pages(like: Map, rows: int, dtype: torch.dtype) -> Tensor:
    """Memory for rows of a map, [1, C, rows, W] in channels_last, that goes back to the system when it is let go.

    The heap would keep it: smaller tensors that were made in between lie behind it.
    """
    shape = (1, rows, like.width, like.channels)
    if like.device.type == "cpu":
        memory = mmap(-1, rows * like.width * like.channels * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype).view(shape).permute(0, 3, 1, 2)
    return torch.empty(shape, dtype=dtype, device=like.device).permute(0, 3, 1, 2)
