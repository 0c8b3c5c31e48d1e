"""Tensors from one device to another without making the CPU wait."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on another device, or itself where it is there already in that type.

    On the way to an accelerator the CPU does not wait: the copy starts from pinned memory and takes its place among
    the kernels that are queued there. On the way back it waits, since what follows reads the values.

    Args:
        tensor: Of any shape.
        device: Where it is wanted.
        dtype: What it is wanted in; None leaves it.
    """
    dtype = tensor.dtype if dtype is None else dtype
    if tensor.device == device and tensor.dtype == dtype:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        # The smaller type travels: conversion comes first where it makes the copy smaller.
        first = tensor.to(dtype) if dtype.itemsize <= tensor.dtype.itemsize else tensor
        return first.pin_memory().to(device, non_blocking=True).to(dtype)
    return tensor.to(device, dtype, non_blocking=device.type == "cuda")
