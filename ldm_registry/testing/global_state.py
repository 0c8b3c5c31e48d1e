"""What belongs to the whole process and no component may touch."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def snapshot() -> dict[str, Any]:
    """The state of the process as values that can be compared, by name."""
    name, keys, position, *rest = np.random.get_state()
    return {
        "torch's random generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's random generator": (name, np.asarray(keys).tobytes(), position, *rest),
        "Python's random generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "thread count": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "warning filters": tuple(warnings.filters),
        "environment variables": dict(os.environ),
    }


@contextmanager
def restored() -> Iterator[None]:
    """Put the process back as it was, so that one component cannot spoil what is run after it."""
    before = snapshot()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    with warnings.catch_warnings():
        try:
            yield
        finally:
            torch.set_rng_state(torch_state)
            np.random.set_state(numpy_state)
            random.setstate(before["Python's random generator"])
            torch.set_default_dtype(before["default dtype"])
            if torch.get_default_device() != before["default device"]:
                torch.set_default_device(before["default device"])
            torch.set_grad_enabled(before["gradient mode"])
            torch.set_num_threads(before["thread count"])
            torch.use_deterministic_algorithms(before["deterministic algorithms"])
            torch.set_float32_matmul_precision(before["float32 matmul precision"])
            torch.backends.cudnn.benchmark = before["cuDNN benchmark"]
            os.environ.clear()
            os.environ.update(before["environment variables"])
