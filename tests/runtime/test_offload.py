from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import pytest
import torch
from torch import Tensor
from toy_pipelines import toy

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Decoder
from ldm_registry.pipeline import Stepped, placement
from ldm_registry.runtime.entry import own_call, put_in
from ldm_registry.runtime.offload import Carrier, OffloadedCall, held, prefetch

LATENT = torch.linspace(-1, 1, 64).view(1, 4, 4, 4)


@final
class Rehearsal(Carrier):
    """Carries from one place of the CPU's memory to another, and tells what it did."""

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.device = torch.device("cpu")
        self.log = [] if log is None else log
        self.name = name
        self.there: set[int] = set()

    def waiting(self, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def start(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.log.append(f"{self.name} start".strip())
        copies = [tensor.clone() for tensor in tensors]
        self.there = {copy.data_ptr() for copy in copies}
        return copies

    def arrive(self, copies: Sequence[Tensor]) -> None:
        assert {copy.data_ptr() for copy in copies} == self.there
        self.log.append(f"{self.name} arrive".strip())


@pytest.fixture
def carrier() -> Rehearsal:
    return Rehearsal()


@pytest.fixture
def decoder(carrier: Rehearsal) -> Decoder:
    """A decoder that waits, and notes in the carrier's log where its weights are when it runs."""
    part = toy().decoder

    def decode(latent: Tensor) -> Tensor:
        carrier.log.append("there" if weights(part) <= carrier.there else "not there")
        return own_call(part)(latent)  # type: ignore[no-any-return]  # a decoder gives a tensor

    put_in(part, OffloadedCall(part, decode, carrier))
    return part


def weights(part: Decoder) -> set[int]:
    return {parameter.data_ptr() for parameter in part.parameters()}


def test_a_call_fetches_the_weights_and_lets_them_go(decoder: Decoder, carrier: Rehearsal) -> None:
    waiting = weights(decoder)
    assert torch.equal(decoder.decode(LATENT), toy().decoder.decode(LATENT))
    assert carrier.log == ["start", "arrive", "there"]
    assert weights(decoder) == waiting
    decoder.decode(LATENT)
    assert carrier.log == ["start", "arrive", "there"] * 2


def test_weights_that_are_held_are_fetched_once(decoder: Decoder, carrier: Rehearsal) -> None:
    waiting = weights(decoder)
    with held(decoder):
        with held(decoder):
            decoder.decode(LATENT)
        decoder.decode(LATENT)
        assert weights(decoder) == carrier.there
    assert carrier.log == ["start", "arrive", "there", "there"]
    assert weights(decoder) == waiting


def test_a_prefetch_starts_once_and_does_not_wait(decoder: Decoder, carrier: Rehearsal) -> None:
    waiting = weights(decoder)
    prefetch(decoder)
    prefetch(decoder)
    assert carrier.log == ["start"]
    assert weights(decoder) == waiting
    decoder.decode(LATENT)
    assert carrier.log == ["start", "arrive", "there"]


def test_an_error_of_the_part_leaves_its_weights_waiting(decoder: Decoder, carrier: Rehearsal) -> None:
    waiting = weights(decoder)
    with pytest.raises(RuntimeError, match="channels"):
        decoder.decode(torch.ones(1, 5, 4, 4))
    assert weights(decoder) == waiting


def test_weights_that_change_while_they_wait_are_the_ones_that_run(decoder: Decoder) -> None:
    decoder.decode(LATENT)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
    assert decoder.decode(LATENT).abs().sum() == 0


def test_a_copy_is_a_part_of_its_own(decoder: Decoder, carrier: Rehearsal) -> None:
    twin = copy.deepcopy(decoder)
    assert torch.equal(twin.decode(LATENT), decoder.decode(LATENT))
    assert carrier.log == ["start", "arrive", "there"]
    assert list(twin.state_dict()) == list(decoder.state_dict())


def test_inside_inference_mode_weights_stay_ordinary_tensors(decoder: Decoder) -> None:
    with torch.inference_mode():
        decoder.decode(LATENT)
    assert not any(parameter.is_inference() for parameter in decoder.parameters())
    with held(decoder):
        assert not any(parameter.is_inference() for parameter in decoder.parameters())


def test_in_a_run_each_stage_is_fetched_once_and_the_decoder_before_its_turn() -> None:
    pipe, log = toy(scheduler_config={"steps": 6}), list[str]()
    for kind in ("denoiser", "decoder"):
        part = getattr(pipe, kind)
        put_in(part, OffloadedCall(part, own_call(part), Rehearsal(log, kind)))
    waiting = weights(pipe.decoder)
    for event in pipe.trace(2):
        log.append(type(event).__name__)
        if isinstance(event, Stepped):
            assert weights(pipe.decoder) == waiting
    assert [word for word in log if word != "DenoiserCalled"] == [
        *("Started", "denoiser start", "denoiser arrive"),
        *("Stepped", "Stepped", "Stepped"),
        *("decoder start", "Stepped", "Stepped", "Stepped"),
        *("decoder arrive", "Decoded"),
    ]
    assert torch.equal(pipe.sample(2), toy(scheduler_config={"steps": 6}).sample(2))


def test_a_part_that_waits_is_said_to_be_where_it_runs() -> None:
    part, carrier = toy().decoder, Rehearsal()
    carrier.device = torch.device("meta")
    assert placement(part) == (torch.device("cpu"), torch.float32)
    put_in(part, OffloadedCall(part, own_call(part), carrier))
    assert placement(part) == (torch.device("meta"), torch.float32)


def test_on_the_cpu_offload_changes_nothing_and_says_so() -> None:
    pipe = toy(denoiser_runtime={"offload": True}, decoder_runtime={"offload": True})
    assert pipe.warnings == tuple(
        f"{part} runs on the CPU, where its weights wait anyway: `offload` changes nothing"
        for part in ("denoiser 'toy-denoiser'", "decoder 'toy-codec'")
    )
    assert torch.equal(pipe.sample(2), toy().sample(2))


def test_a_device_that_is_not_there_or_has_no_such_name_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        toy(decoder_device="cuda:99", scheduler_device="cuda:99")
    assert [problem.split(" is to run on cuda:99")[0] for problem in caught.value.problems] == [
        "scheduler 'toy-scheduler'",
        "decoder 'toy-codec'",
    ]
    with pytest.raises(SpecError, match="'gpu', which PyTorch does not know"):
        toy(decoder_device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_what_needs_one_is_refused_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        toy(
            encoder_runtime={"compile": True, "cuda_graphs": True},
            denoiser_device="cuda",
            denoiser_runtime={"offload": True},
            decoder_runtime={"tile": 16},
        )
    assert [problem.split(":")[0] for problem in sorted(caught.value.problems)] == [
        "decoder 'toy-codec' cannot work in tiles",
        f"denoiser 'toy-denoiser' is to run on cuda, which PyTorch {torch.__version__} does not find here",
        "encoder 'toy-codec' runs on cpu, which has no CUDA graphs",
    ]
