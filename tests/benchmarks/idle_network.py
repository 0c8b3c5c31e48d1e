"""A pipeline whose network does nothing, so that what is left is the sampling loop itself."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from ldm_registry.build import build_schedule
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Decoder,
    Denoiser,
    DenoiserOutput,
    Encoder,
    LatentSpace,
    NoiseLevel,
    Trained,
)
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import Kind

SIDE = 8
SHAPE = (1, 3, SIDE, SIDE)


@final
class Idle(Denoiser):
    """Always predicts the same."""

    name = "idle"
    Config = ComponentConfig
    size_multiple = 1

    def __init__(self, trained: Trained, prediction: Tensor) -> None:
        super().__init__()
        self.prediction, self.training_schedule = trained.prediction, trained.schedule
        self.conditioning = {}
        self.latent_space = LatentSpace(3, 1)
        self._output = DenoiserOutput(prediction)

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        return self._output


def idle_pipeline(sampler: Any, reading: SchedulerReading, steps: int, prediction: Tensor) -> Pipeline:
    """A pixel-space pipeline of one image.

    Args:
        sampler: A class of ours.
        reading: Its config, and the noise schedule.
        steps: Of the sampler.
        prediction: What the network always puts out, of `SHAPE`.
    """
    registry = Registry.discover()
    settings = {key: value for key, value in reading.schedule.items() if key != "name"}
    schedule = build_schedule(str(reading.schedule["name"]), settings, registry)
    scheduler = sampler(sampler.Config(**{**reading.config, "steps": steps}), schedule, SIDE**2)
    encoder, decoder = (registry.get(kind, "identity") for kind in (Kind.ENCODER, Kind.DECODER))
    spec = PipelineSpec.model_validate(
        {
            "version": 1,
            "image": {"channels": 3, "size": SIDE},
            **{part: {"use": "identity"} for part in ("encoder", "decoder")},
            "denoiser": {"use": "idle"},
            "scheduler": {"use": sampler.name},
        }
    )
    idle = Idle(Trained(reading.prediction, schedule, reading.time_scale), prediction)
    codec: tuple[Encoder, Decoder] = (encoder(encoder.Config()), decoder(decoder.Config()))
    return Pipeline(spec, codec[0], idle, scheduler, codec[1])
