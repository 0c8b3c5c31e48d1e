"""Tensors of safetensors files: mapped into memory, never copied unless their type changes, never NaN."""

from __future__ import annotations

import math
import mmap
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


def read_tensors(sources: Mapping[str, TensorEntry], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Map tensors into memory. They can be written to; the files stay as they are.

    Args:
        sources: What to read, by the name that it gets. The headers were checked.
        dtype: Floating-point tensors are converted to it one by one; None keeps the types of the files.

    Raises:
        CheckpointError: A file cannot be read, or values are NaN or infinite, maybe only in the dtype asked for.
    """
    tensors, broken = {}, []
    files: dict[Path, _MappedFile] = {}
    for name, entry in sources.items():
        if entry.file not in files:
            files[entry.file] = _MappedFile(entry.file)
        tensor = files[entry.file].tensor(entry)
        if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
            stored, tensor = tensor, tensor.to(dtype)
            if not _is_finite(tensor):
                kept = f" in {dtype}" if _is_finite(stored) else ""
                broken.append(f"{name}: {_count(tensor)}{kept}")
            del stored
            files[entry.file].forget(entry)
        elif not _is_finite(tensor):
            broken.append(f"{name}: {_count(tensor)}")
        tensors[name] = tensor
    if broken:
        where = " and ".join(sorted(map(str, files)))
        raise CheckpointError(
            f"{where} holds values that are not finite",
            broken,
            hint="the training diverged, or the values leave the range of the type",
        )
    return tensors


@final
class _MappedFile:
    """A file, mapped privately: what is written to its tensors stays in this process."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read", [str(error)]) from error

    def tensor(self, entry: TensorEntry) -> Tensor:
        dtype = DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        if not count:
            return torch.empty(entry.shape, dtype=dtype, device="cpu")
        if entry.offset % dtype.itemsize:
            size = count * dtype.itemsize
            aligned = bytearray(self._map[entry.offset : entry.offset + size])
            return torch.frombuffer(aligned, dtype=dtype).view(entry.shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.offset).view(entry.shape)

    def forget(self, entry: TensorEntry) -> None:
        """Let go of the memory of a tensor that is needed no more."""
        if hasattr(mmap, "MADV_DONTNEED"):
            size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
            page = mmap.PAGESIZE
            begin, end = -(-entry.offset // page) * page, (entry.offset + size) // page * page
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
