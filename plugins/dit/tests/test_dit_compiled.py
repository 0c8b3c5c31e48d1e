"""The networks of this plugin as one graph each: nothing in them makes the compiler give up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_dit import DiT, PixArt
from torch import Tensor

from ldm_registry.interfaces import Condition, Denoiser, NoiseLevel

Level = Callable[..., NoiseLevel]


def assert_compiled_is_eager(network: Denoiser, level: NoiseLevel, condition: Condition) -> None:
    torch.compiler.reset()
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    # The backend that makes a graph of pure functions of what is traced, and then runs that without a C++ compiler.
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        eager = network(z, level, condition).prediction
        graph = compiled(z, level, condition).prediction
    assert torch.allclose(graph, eager, rtol=0, atol=1e-5 * float(eager.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [[4], [1, 7]], ids=str)
def test_a_dit_is_one_graph(build: Callable[..., DiT], level: Level, labels: list[int]) -> None:
    network = build(activation_fn="gelu-approximate")
    assert_compiled_is_eager(network, level(300.0), {"class_label": torch.tensor(labels)})


@pytest.mark.slow
def test_a_pixart_is_one_graph(
    build_pixart: Callable[..., PixArt],
    read: Callable[[PixArt, int], dict[str, Tensor]],
    level: Level,
) -> None:
    network = build_pixart(activation_fn="gelu-approximate")
    assert_compiled_is_eager(network, level(300.0), read(network, 2))
