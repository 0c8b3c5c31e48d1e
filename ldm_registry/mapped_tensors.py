"""Tensors of safetensors files: mapped into memory, never copied unless their type changes, never NaN."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from ldm_registry.errors import CheckpointError
from ldm_registry.safetensors_header import TensorEntry

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


MOST_KNOWN = 10_000
_known_finite: set[tuple[object, ...]] = set()
"""Stretches of files that were found finite: to load a part again costs no pass over its weights."""


def read_tensors(sources: Mapping[str, TensorEntry], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Map tensors into memory. They can be written to; the files stay as they are.

    Args:
        sources: What to read, by the name that it gets. The headers were checked.
        dtype: Floating-point tensors are converted to it one by one; None keeps the types of the files.

    Raises:
        CheckpointError: A file cannot be read, or values are NaN or infinite, maybe only in the dtype asked for.
    """
    files = {file: _MappedFile(file) for file in {entry.file for entry in sources.values()}}
    tensors = {name: files[entry.file].tensor(entry) for name, entry in sources.items()}
    changing = {
        name
        for name, tensor in tensors.items()
        if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
    }
    broken = []
    for run in _runs({name: entry for name, entry in sources.items() if name not in changing}):
        first = sources[run[0]]
        count = sum(tensors[name].numel() for name in run)
        if not files[first.file].is_finite(first, count):
            broken += [f"{name}: {_count(tensors[name])}" for name in run if not _is_finite(tensors[name])]
    for name in changing:
        stored, entry = tensors[name], sources[name]
        tensors[name] = stored.to(dtype)
        if not _is_finite(tensors[name]):
            only = f" in {dtype}" if _is_finite(stored) else ""
            broken.append(f"{name}: {_count(tensors[name])}{only}")
        files[entry.file].forget(entry)
    if broken:
        where = " and ".join(sorted(map(str, files)))
        raise CheckpointError(
            f"{where} holds values that are not finite",
            sorted(broken),
            hint="the training diverged, or the values leave the range of the type",
        )
    return tensors


def _runs(sources: Mapping[str, TensorEntry]) -> list[list[str]]:
    """Names of tensors of one type that lie in a file without gaps: one pass over memory serves them all."""
    runs: list[list[str]] = []
    end: tuple[Path, str, int] | None = None
    for name, entry in sorted(sources.items(), key=lambda item: (item[1].file, item[1].offset)):
        if end == (entry.file, entry.dtype, entry.offset):
            runs[-1].append(name)
        else:
            runs.append([name])
        end = entry.file, entry.dtype, entry.offset + entry.size_bytes
    return runs


@final
class _MappedFile:
    """A file, mapped privately: what is written to its tensors stays in this process."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                self._version = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read", [str(error)]) from error

    def tensor(self, entry: TensorEntry) -> Tensor:
        return self.stretch(entry, math.prod(entry.shape)).view(entry.shape)

    def stretch(self, entry: TensorEntry, count: int) -> Tensor:
        """`count` values, flat, from where a tensor begins."""
        dtype = DTYPES[entry.dtype]
        if not count:
            return torch.empty(0, dtype=dtype, device="cpu")
        if entry.offset % dtype.itemsize:
            end = entry.offset + count * dtype.itemsize
            return torch.frombuffer(bytearray(self._map[entry.offset : end]), dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.offset)

    def is_finite(self, entry: TensorEntry, count: int) -> bool:
        """Whether `count` values from where a tensor begins are finite; looked at once for each version of the file."""
        key = (*self._version, entry.dtype, entry.offset, count)
        if key not in _known_finite:
            if not _is_finite(self.stretch(entry, count)):
                return False
            if len(_known_finite) >= MOST_KNOWN:
                _known_finite.clear()
            _known_finite.add(key)
        return True

    def forget(self, entry: TensorEntry) -> None:
        """Let go of the memory of a tensor that is needed no more."""
        if hasattr(mmap, "MADV_DONTNEED"):
            page = mmap.PAGESIZE
            # Its neighbours may begin and end within a page.
            begin, end = -(-entry.offset // page) * page, (entry.offset + entry.size_bytes) // page * page
            if begin < end:
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; both survive a sum, which is the cheapest pass over memory."""
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    total = wide.sum(dtype=torch.float64 if wide.dtype is torch.float64 else torch.float32)
    # The sum of finite values may overflow by itself.
    return math.isfinite(float(total)) or bool(wide.isfinite().all())


def _count(tensor: Tensor) -> str:
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    return f"{int((~wide.isfinite()).sum())} of {tensor.numel()} values are NaN or infinite"
