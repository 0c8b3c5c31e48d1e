"""Shorter ways that are taken without gradients, and that nobody can tell but by a clock."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from ldm_dit import DiT
from ldm_dit.attention import PART, gelu_tanh_
from ldm_dit.modulation import FEW, HEAVY, Modulation
from torch.nn import functional as F

from ldm_registry.interfaces import NoiseLevel

Build = Callable[..., DiT]
Level = Callable[..., NoiseLevel]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("numbers", [1, PART, PART + 3])
def test_gelu_part_by_part_is_that_of_the_whole(numbers: int) -> None:
    x = 3 * noise(numbers)
    whole = F.gelu(x, approximate="tanh")
    assert gelu_tanh_(x) is x
    assert torch.allclose(x, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rows", [1, 3, FEW])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_modulation_is_its_linear_layer(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    products: list[torch.Tensor] = []
    bmm = torch.bmm

    def watched(blocks: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        products.append(blocks)
        return bmm(blocks, x)

    monkeypatch.setattr(torch, "bmm", watched)
    layer, x = Modulation(256, HEAVY // 256).double(), noise(rows, 256)
    expected = layer(x)
    assert not products
    with torch.inference_mode():
        quick = layer(x)
        many = layer(noise(FEW + 1, 256))
    assert [len(blocks) for blocks in products] == [math.gcd(threads, HEAVY // 256)]
    assert quick.is_contiguous()
    assert torch.allclose(quick, expected, rtol=0, atol=1e-12)
    assert torch.equal(many, F.linear(noise(FEW + 1, 256), layer.weight, layer.bias))


@pytest.mark.parametrize("labels", [[4], [1, 0, 7]], ids=str)
@pytest.mark.parametrize("affine", [False, True])
def test_it_predicts_the_same_with_gradients_without_and_watched(
    build: Build, level: Level, labels: list[int], affine: bool
) -> None:
    network = build(activation_fn="gelu-approximate", norm_elementwise_affine=affine).double()
    z, condition = noise(3, 4, 8, 8), {"class_label": torch.tensor(labels)}
    trained = network(z, level(300.0), condition).prediction
    with torch.inference_mode():
        quick = network(z, level(300.0), condition).prediction
    outputs = []
    for module in network.modules():
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        watched = network(z, level(300.0), condition).prediction
    assert len(outputs) > 20
    assert torch.allclose(trained, quick, rtol=0, atol=1e-12)
    assert torch.allclose(trained, watched, rtol=0, atol=1e-12)


def test_what_a_hook_recorded_is_not_overwritten(build: Build, level: Level) -> None:
    network = build(activation_fn="gelu-approximate").double()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.Linear):
            module.register_forward_hook(
                lambda _module, _inputs, output: seen.append((output, output.clone()))
            )
    with torch.no_grad():
        network(noise(1, 4, 8, 8), level(300.0), {})
    assert len(seen) > 20
    assert all(torch.equal(kept, then) for kept, then in seen)


def test_a_watched_norm_is_called(build: Build, level: Level) -> None:
    network, called = build().double(), []
    norm = network.get_submodule("transformer_blocks.0.norm3")
    norm.register_forward_hook(lambda _module, _inputs, output: called.append(output.shape))
    with torch.no_grad():
        network(noise(1, 4, 8, 8), level(300.0), {})
    assert len(called) == 1
