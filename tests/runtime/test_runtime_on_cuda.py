"""What only a CUDA device can show: graphs that are replayed, and weights that are streamed in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_pipelines import toy

from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.runtime.offload import held
from ldm_registry.runtime.transfer import moved

pytestmark = pytest.mark.gpu

STAGES = ("encoder", "denoiser", "decoder")


def on_cuda(**runtime: bool) -> Pipeline:
    changes: dict[str, Any] = {f"{stage}_device": "cuda" for stage in STAGES}
    return toy(**changes, **{f"{stage}_runtime": runtime for stage in STAGES})


def is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.cpu(), other.cpu(), atol=1e-4)


def test_a_tensor_that_goes_there_and_back_is_the_same() -> None:
    cuda, values = torch.device("cuda"), torch.linspace(-1, 1, 1000)
    there = moved(values, cuda, torch.float16)
    assert (there.device.type, there.dtype) == ("cuda", torch.float16)
    assert torch.equal(moved(there, torch.device("cpu")), values.half())
    assert moved(there, there.device) is there


@pytest.mark.slow
def test_replayed_graphs_give_the_numbers_of_eager_and_keep_earlier_results() -> None:
    pipe, plain = on_cuda(compile=True, cuda_graphs=True), on_cuda()
    latents = [torch.full((2, 4, 4, 4), value, device="cuda") for value in (0.5, -0.5, 0.25, 1.0)]
    decoded = [pipe.decoder.decode(latent) for latent in latents]
    for latent, image in zip(latents, decoded, strict=True):
        assert is_close(image, plain.decoder.decode(latent))
    for batch in (2, 2, 3):
        assert is_close(pipe.sample(batch), plain.sample(batch))


@pytest.mark.slow
def test_compiled_parts_give_the_numbers_of_eager() -> None:
    assert is_close(on_cuda(compile=True).sample(2), on_cuda().sample(2))


def test_offloaded_parts_wait_in_pinned_memory_and_make_the_same_images() -> None:
    pipe, plain = on_cuda(offload=True), on_cuda()
    for part in (pipe.encoder, pipe.denoiser, pipe.decoder):
        assert placement(part)[0].type == "cuda"
        assert all(one.device.type == "cpu" and one.is_pinned() for one in part.parameters())
    assert torch.equal(pipe.sample(2), plain.sample(2))
    image = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    assert torch.equal(pipe.reconstruct(image), plain.reconstruct(image))
    assert all(one.device.type == "cpu" for one in pipe.decoder.parameters())


def test_offloaded_weights_take_memory_of_the_device_only_while_they_are_held() -> None:
    pipe = on_cuda(offload=True)
    before = torch.cuda.memory_allocated()
    with held(pipe.denoiser):
        assert all(one.device.type == "cuda" for one in pipe.denoiser.parameters())
        assert torch.cuda.memory_allocated() > before
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
