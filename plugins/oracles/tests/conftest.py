from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldm_registry.interfaces import randn


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Standard normal float64 tensors, one after the other from one seed."""
    generator = torch.Generator().manual_seed(20221)

    def draw(*shape: int) -> Tensor:
        return randn(shape, generator, dtype=torch.float64)

    return draw
