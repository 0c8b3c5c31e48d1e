"""What a network does to be fast on the CPU, and that nobody can tell but by a clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_unet import UNet, convolution
from ldm_unet.block import Upsample
from ldm_unet.convolution import FEW, FEWER, Convolution
from ldm_unet.transformer import Gate
from ldm_unet.upsampling import LEAST, upsampled_conv
from torch.nn import functional as F

from ldm_registry.costs.operations import counted
from ldm_registry.interfaces import NoiseLevel

Build = Callable[..., UNet]
Level = Callable[..., NoiseLevel]


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3)], ids=str)
def test_a_folded_upsampling_is_the_plain_one(size: tuple[int, int]) -> None:
    x, weight, bias = noise(2, 3, *size), noise(5, 3, 3, 3), noise(5)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    assert torch.allclose(upsampled_conv(x, weight, bias), plain, rtol=0, atol=1e-12)


def test_an_upsampling_whose_convolution_is_watched_is_not_folded() -> None:
    layer, x = Upsample(2).double(), noise(1, 2, LEAST, 1)
    with torch.no_grad():
        folded = layer(x)
        seen: list[torch.Tensor] = []
        layer.conv.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
        watched = layer(x)
    assert [one.shape for one in seen] == [(1, 2, 2 * LEAST, 2)]
    assert torch.allclose(folded, watched, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_heavy_convolution_of_a_small_map_is_a_product_and_the_same(
    side: int, stride: int, padding: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "HEAVY", 0)
    layer = Convolution(5, 400, side, stride=stride, padding=padding).double()
    x = noise(2, 5, 7, 6).contiguous(memory_format=layout)
    trained = layer(x)
    with torch.no_grad():
        work = counted(lambda: layer(x))
        quick = layer(x)
    assert (work.convolution_flops, work.matmul_flops) == (0, 2 * trained.numel() * 5 * side**2)
    assert quick.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(trained, quick, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lags", "least"), [(True, FEWER), (False, FEW)])
def test_fewer_positions_make_a_product_where_mkl_lags(
    lags: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "HEAVY", 0)
    monkeypatch.setattr(convolution, "MKL_LAGS", lags)
    with torch.no_grad():
        for positions, is_product in ((64 // least, True), (64 // least + 1, False)):
            layer, x = Convolution(8, 64, 3, padding=1), torch.zeros(1, 8, positions, 1)
            assert (counted(lambda layer=layer, x=x: layer(x)).matmul_flops > 0) is is_product


def test_a_convolution_of_many_positions_or_few_weights_stays_one() -> None:
    with torch.no_grad():
        for channels, height in ((16, 2), (400, 120)):
            layer, x = Convolution(channels, channels, 3, padding=1), torch.zeros(1, channels, height, 2)
            assert counted(lambda layer=layer, x=x: layer(x)).matmul_flops == 0


def test_a_gate_in_halves_is_that_in_one_and_is_not_taken_where_its_layer_is_watched() -> None:
    gate, x = Gate(6, 10).double(), noise(2, 7, 6)
    whole = gate(x)
    with torch.no_grad():
        halves = gate(x)
        seen: list[torch.Tensor] = []
        gate.proj.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
        watched = gate(x)
    assert [one.shape for one in seen] == [(2, 7, 20)]
    assert torch.allclose(whole, halves, rtol=0, atol=1e-12)
    assert torch.allclose(whole, watched, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
def test_it_predicts_the_same_with_gradients_without_and_watched(
    build: Build, level: Level, shift: str
) -> None:
    network, z = build(resnet_time_scale_shift=shift).double(), noise(2, 3, 32, 32)
    trained = network(z, level(300.0), {}).prediction
    with torch.inference_mode():
        quick = network(z, level(300.0), {}).prediction
    outputs = []
    for module in network.modules():
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        watched = network(z, level(300.0), {}).prediction
    assert len(outputs) > 20
    assert torch.allclose(trained, quick, rtol=0, atol=1e-12)
    assert torch.allclose(trained, watched, rtol=0, atol=1e-12)


def test_what_a_hook_recorded_is_not_overwritten(build: Build, level: Level) -> None:
    network, z = build(), noise(1, 3, 8, 8, dtype=torch.float32)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm | Convolution | torch.nn.Linear):
            module.register_forward_hook(
                lambda _module, _inputs, output: seen.append((output, output.clone()))
            )
    with torch.no_grad():
        network(z, level(300.0), {})
    assert len(seen) > 20
    assert all(torch.equal(kept, then) for kept, then in seen)


def test_weights_stay_the_same_parameters_and_can_be_trained_after_a_prediction(
    build: Build, level: Level
) -> None:
    network, z = build(), noise(1, 3, 8, 8, dtype=torch.float32)
    before = {name: (one, one.detach().clone()) for name, one in network.named_parameters()}
    first = network(z, level(300.0), {}).prediction
    with torch.inference_mode():
        network(z, level(300.0), {})
    conv = network.conv_in
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    again = network(z, level(300.0), {}).prediction
    again.square().sum().backward()
    assert torch.equal(first, again)
    for name, one in network.named_parameters():
        parameter, value = before[name]
        assert one is parameter
        assert one.is_contiguous()
        assert torch.equal(one, value)
        assert one.grad is not None


def test_a_changed_weight_counts_at_once(build: Build, level: Level) -> None:
    network, z = build(), noise(1, 3, 32, 32, dtype=torch.float32)
    with torch.inference_mode():
        before = network(z, level(300.0), {}).prediction
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
        quick = network(z, level(300.0), {}).prediction
    slow = network(z, level(300.0), {}).prediction
    assert not torch.allclose(before, quick, rtol=1e-3)
    assert torch.allclose(slow, quick, rtol=0, atol=1e-5 * float(slow.detach().abs().max()))
