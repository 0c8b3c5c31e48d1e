"""Nothing between the first and the last step reads what an accelerator computes, or copies to it and waits.

The state lives on the `meta` device, which has no values to read: whatever asks for one fails, as it would wait on an
accelerator.
"""

from __future__ import annotations

from typing import Any, final

import ldm_schedulers
import pytest
import torch
from ldm_dit import DiT, PixArt
from ldm_unet import UNet, UNetCondition
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_registry import noise
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Decoder,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    NoiseSchedule,
    Trained,
)
from ldm_registry.pipeline import Decoded, Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import Kind, Prediction

pytestmark = pytest.mark.plugins

META = torch.device("meta")
SHAPE = (4, 8, 8)
STEPS = 5
NETWORKS = [
    pytest.param(DiT, {}, id="dit"),
    pytest.param(PixArt, {}, id="pixart"),
    pytest.param(UNet, {}, id="unet"),
    pytest.param(UNet, {"time_embedding_type": "fourier"}, id="unet, Fourier features"),
    pytest.param(
        UNet, {"time_embedding_type": "learned", "num_train_timesteps": 1000}, id="unet, learned times"
    ),
    pytest.param(UNetCondition, {}, id="unet-condition"),
]
SCHEDULE = ldm_schedulers.ScaledLinearSchedule
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
SAMPLERS: list[type[Any]] = [
    part for part in ldm_schedulers.register_components() if part.kind is Kind.SCHEDULER
]
CASES = [
    *(pytest.param(sampler, {}, id=sampler.name) for sampler in SAMPLERS),
    pytest.param(ldm_schedulers.DDIM, {"eta": 1.0, "clip": 1.0}, id="ddim, stochastic and clipped"),
    pytest.param(ldm_schedulers.DDIM, {"threshold_ratio": 0.9}, id="ddim, dynamic thresholding"),
    pytest.param(ldm_schedulers.DDPM, {"variance": "learned"}, id="ddpm, learned variance"),
    pytest.param(ldm_schedulers.DDPM, {"variance": "learned_range"}, id="ddpm, learned range"),
    pytest.param(ldm_schedulers.PNDM, {"skip_prk_steps": False}, id="pndm, Runge-Kutta"),
    pytest.param(ldm_schedulers.EDMHeun, {"s_churn": 40.0}, id="edm-heun, churn"),
    pytest.param(ldm_schedulers.DPMMultistep, {"algorithm_type": "sde-dpmsolver"}, id="dpm-multistep, sde"),
]


@final
class Copies(TorchDispatchMode):
    """Lists the copies from one device to another that are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = function(*args, **named)
        tensors = [one for one in (*args, result) if isinstance(one, Tensor)]
        if function in COPIES and len({one.device for one in tensors}) > 1 and not named.get("non_blocking"):
            self.waited_for.append(f"{function} of {tuple(result.shape)} {result.dtype}")
        return result


@final
class Answer(Denoiser):
    """Always predicts the same, on the meta device."""

    name = "answer"
    Config = ComponentConfig
    size_multiple = 1

    def __init__(self, prediction: Prediction, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.prediction, self.training_schedule, self.conditioning = prediction, schedule, {}
        self.latent_space = LatentSpace(SHAPE[0], 1)
        self.answer = nn.Buffer(torch.zeros(1, *SHAPE, device=META))

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        return DenoiserOutput(self.answer, self.answer)


def pipeline(denoiser: Denoiser, sampler: type[Any], **config: Any) -> Pipeline:
    codec: Any = Registry.discover().get(Kind.DECODER, "identity")
    stages = {stage: {"use": "identity"} for stage in ("encoder", "decoder", "denoiser", "scheduler")}
    spec = PipelineSpec.model_validate({"version": 1, "image": {"channels": 4, "size": 8}, **stages})
    assert denoiser.training_schedule is not None
    scheduler = sampler(sampler.Config(steps=STEPS, **config), denoiser.training_schedule, 16)
    half: Decoder = codec(codec.Config(channels=4))
    return Pipeline(spec, half, denoiser, scheduler, half)  # type: ignore[arg-type]  # nothing is encoded


def made(part: type[Any], **config: Any) -> Any:
    return part(part.Config(**config))


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise on its way to an accelerator starts from pinned memory, and the copy is not waited for."""

    def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        return tensor.to(device, dtype, non_blocking=True)

    monkeypatch.setattr(noise, "moved", moved)


def waits(pipe: Pipeline) -> list[str]:
    with torch.no_grad(), Copies() as copies:
        *_, last = pipe.trace(1)
    assert isinstance(last, Decoded)
    assert last.image.device == META
    return copies.waited_for


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize(("sampler", "config"), CASES)
def test_no_sampler_waits_for_the_device(sampler: type[Any], config: dict[str, Any]) -> None:
    schedule = made(ldm_schedulers.RectifiedFlowSchedule if "flow" in sampler.name else SCHEDULE)
    assert not waits(pipeline(Answer(Prediction.V, schedule), sampler, **config))


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize("prediction", list(Prediction))
def test_no_prediction_is_converted_by_waiting(prediction: Prediction) -> None:
    assert not waits(pipeline(Answer(prediction, made(SCHEDULE)), ldm_schedulers.DDIM))


@pytest.mark.parametrize(("network", "config"), NETWORKS)
def test_no_network_waits_for_the_device(network: type[Any], config: dict[str, Any]) -> None:
    schedule = made(SCHEDULE)
    settings = network.Config(**{**network.conformance_config, **config})
    denoiser = network(settings, Trained(Prediction.EPSILON, schedule)).to(META)
    condition = {
        name: torch.zeros((1, *(size or 3 for size in given.shape)), dtype=given.dtype, device=META)
        for name, given in denoiser.conditioning.items()
    }
    z = torch.zeros(1, denoiser.latent_space.channels, *SHAPE[1:], device=META)
    with torch.no_grad(), Copies() as copies:
        output = denoiser(z, schedule.level(torch.tensor(500.0)).normalised(), condition)
    assert output.prediction.device == META
    assert not copies.waited_for


@pytest.mark.gpu
@pytest.mark.parametrize(("sampler", "config"), CASES)
def test_no_sampler_waits_for_a_cuda_device(sampler: type[Any], config: dict[str, Any]) -> None:
    schedule = made(ldm_schedulers.RectifiedFlowSchedule if "flow" in sampler.name else SCHEDULE)
    denoiser = Answer(Prediction.V, schedule).to_empty(device=torch.device("cuda"))
    denoiser.answer.zero_()
    events = pipeline(denoiser, sampler, **config).trace(1, synchronise=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        *_, last = events
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(last, Decoded)
    assert last.image.device.type == "cuda"


@pytest.mark.usefixtures("pinned")
def test_what_waits_is_noticed() -> None:
    pipe = pipeline(Answer(Prediction.V, made(SCHEDULE)), ldm_schedulers.DDIM)

    def copies(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        inputs[1].alpha.to(META)

    def reads(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert inputs[0].max() > 0

    pipe.denoiser.register_forward_pre_hook(copies)
    assert len(waits(pipe)) == STEPS
    pipe.denoiser.register_forward_pre_hook(reads)
    with pytest.raises(RuntimeError, match="meta"):
        waits(pipe)
