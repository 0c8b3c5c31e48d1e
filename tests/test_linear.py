from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry import linear
from ldm_registry.linear import HEAVY, LARGE, WEIGHTS_A_ROW, TokenLinear, mkl_lags
from ldm_registry.runtime import processor

WIDTH = 256
ROWS = LARGE // WIDTH + 1


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The options of every convolution from now on, on a processor where they are the faster way."""
    monkeypatch.setattr(linear, "MKL_LAGS", True)
    seen: list[dict[str, int]] = []
    conv2d = F.conv2d

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None, **options: int) -> Tensor:
        seen.append(options)
        return conv2d(x, weight, bias, **options)

    monkeypatch.setattr(F, "conv2d", watched)
    return seen


@pytest.fixture
def other_processor() -> Iterator[None]:
    processor._stated.cache_clear()
    yield
    processor._stated.cache_clear()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lead", [(ROWS,), (1, ROWS), (3, ROWS), (2, 3, ROWS)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_a_convolution_gives_the_product(
    convolutions: list[dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    lead: tuple[int, ...],
    biased: bool,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layer, x = TokenLinear(WIDTH, HEAVY // WIDTH, bias=biased), noise(*lead, WIDTH)
    exact = F.linear(x, layer.weight.double(), None if layer.bias is None else layer.bias.double())
    with torch.inference_mode():
        found = layer(x.float())
    assert convolutions == [{"dilation": 2 if threads == 1 else 1}]
    assert found.is_contiguous()
    assert torch.allclose(found.double(), exact, rtol=0, atol=2e-5)


def test_tokens_that_lie_channel_by_channel(convolutions: list[dict[str, int]]) -> None:
    layer, x = TokenLinear(WIDTH, HEAVY // WIDTH), noise(2, WIDTH, ROWS).float().transpose(1, 2)
    with torch.inference_mode():
        found, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    assert len(convolutions) == 1
    assert torch.allclose(found, expected, rtol=0, atol=2e-5)


def test_half_of_the_weights(convolutions: list[dict[str, int]]) -> None:
    weight, x = noise(2 * HEAVY // WIDTH, WIDTH).float(), noise(ROWS, WIDTH).float()
    with torch.no_grad():
        found = linear.linear(x, weight.chunk(2)[1])
    assert len(convolutions) == 1
    assert torch.allclose(found, (x @ weight.T)[:, HEAVY // WIDTH :], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("rows", "outputs", "dtype"),
    [
        (ROWS - 1, HEAVY // WIDTH, torch.float32),
        (ROWS, HEAVY // WIDTH - 1, torch.float32),
        (ROWS, ROWS * WEIGHTS_A_ROW // WIDTH + 1, torch.float32),
        (ROWS, HEAVY // WIDTH, torch.float64),
        (ROWS, HEAVY // WIDTH, torch.bfloat16),
    ],
    ids=str,
)
def test_what_is_no_faster_stays_a_product(
    convolutions: list[dict[str, int]], rows: int, outputs: int, dtype: torch.dtype
) -> None:
    layer, x = TokenLinear(WIDTH, outputs).to(dtype), noise(rows, WIDTH).to(dtype)
    with torch.inference_mode():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert convolutions == []


def test_gradients_are_those_of_the_product(convolutions: list[dict[str, int]]) -> None:
    layer, x = TokenLinear(WIDTH, HEAVY // WIDTH), noise(ROWS, WIDTH).float()
    layer(x).square().sum().backward()
    gradient = 2 * F.linear(x, layer.weight, layer.bias).T @ x
    assert convolutions == []
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, gradient, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("lags", "way"), [(True, "conv2d"), (False, "linear")])
def test_it_compiles_in_one_piece(monkeypatch: pytest.MonkeyPatch, lags: bool, way: str) -> None:
    monkeypatch.setattr(linear, "MKL_LAGS", lags)
    layer, x, graphs = TokenLinear(WIDTH, HEAVY // WIDTH), noise(ROWS, WIDTH).float(), []

    def kept(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append({node.name for node in graph.graph.nodes})
        return graph.forward

    compiled = torch.compile(layer, backend=kept, fullgraph=True, dynamic=False)
    with torch.no_grad():
        found = compiled(x)
    assert [way in names for names in graphs] == [True]
    assert torch.allclose(found, F.linear(x, layer.weight, layer.bias), rtol=0, atol=2e-5)


def test_its_tensors_are_those_of_a_linear_layer() -> None:
    assert {name: tensor.shape for name, tensor in TokenLinear(3, 5).state_dict().items()} == {
        name: tensor.shape for name, tensor in nn.Linear(3, 5).state_dict().items()
    }


@pytest.mark.parametrize(
    ("capability", "mkl", "maker", "lags"),
    [
        ("AVX512", True, "AuthenticAMD", True),
        ("AVX512_VNNI", True, "AuthenticAMD", True),
        ("AVX512", True, "GenuineIntel", False),
        ("AVX512", False, "AuthenticAMD", False),
        ("AVX2", True, "AuthenticAMD", False),
        ("DEFAULT", False, "", False),
    ],
)
def test_mkl_lags_where_there_is_avx_512_that_intel_did_not_make(
    monkeypatch: pytest.MonkeyPatch, capability: str, mkl: bool, maker: str, lags: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(processor, "maker", lambda: maker)
    assert mkl_lags() is lags


@pytest.mark.usefixtures("other_processor")
@pytest.mark.parametrize(
    ("text", "elsewhere", "name", "maker"),
    [
        (
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC: a\n\nprocessor\t: 1\nmodel name\t: b\n",
            "",
            "AMD EPYC: a",
            "AuthenticAMD",
        ),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", "aarch64", "aarch64", ""),
        (
            None,
            "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel",
            "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel",
            "GenuineIntel",
        ),
    ],
    ids=["Linux", "ARM", "Windows"],
)
def test_what_a_processor_tells(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    elsewhere: str,
    name: str,
    maker: str,
) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(processor, "_LINUX", file)
    monkeypatch.setattr(platform, "processor", lambda: elsewhere)
    assert (processor.name(), processor.maker()) == (name, maker)
