"""diffusers' schedulers in double precision, on the noise that ours draw: their own code, without its roundings.

diffusers writes `torch.float32` and `np.float32` into its tables and its steps. Within a module of it these two names
can mean float64 instead, which leaves the formulas and takes the rounding away: both sides then work out their own
tables from the betas, and may be compared to more digits than float32 has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from ldm_registry.interfaces import Generators, randn


class _Wide(ModuleType):
    """A library in which float32 is float64."""

    def __init__(self, library: ModuleType) -> None:
        super().__init__(library.__name__)
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, "float64" if name == "float32" else name)


def _noise(shape: tuple[int, ...], generator: Generators | None = None, **options: Any) -> Tensor:
    """Noise as our samplers draw it, whatever dtype is asked for."""
    return randn(shape, generator, dtype=torch.float64)


@contextmanager
def double(scheduler: type[Any]) -> Iterator[None]:
    """Within it, the module of a scheduler class of diffusers computes in float64 and draws our noise."""
    module = sys.modules[scheduler.__module__]
    wide = {"torch": _Wide(torch), "np": _Wide(np), "randn_tensor": _noise}
    wide = {name: value for name, value in wide.items() if hasattr(module, name)}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.multiple(module, **wide):
            yield
    finally:
        torch.set_default_dtype(before)
