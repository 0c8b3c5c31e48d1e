"""Bundled pipelines with a fault in them, few steps long, and what the stages of one make of the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from ldm_faults import FAULTS, Fault
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.data import read_images, to_unit
from ldm_registry.diagnostics.injection import injected
from ldm_registry.interfaces import Denoised, NoiseLevel
from ldm_registry.pipeline import Pipeline
from ldm_registry.prediction import to_x0
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec, load_spec, swap
from ldm_registry.vocabulary import Kind

BY_NAME: dict[str, type[Fault]] = {fault.name: fault for fault in FAULTS}
STRENGTHS = (0.25, 0.5, 1.0)
VALIDATION = Path(__file__).parents[3] / "specs" / "data" / "noto-emoji-64-val.tar"
_LEVELS = ((0.05, 0.99875), (0.3, 0.9539392), (0.7071068, 0.7071068), (0.9539392, 0.3))


@dataclass(frozen=True)
class Outputs:
    """What each stage makes of inputs that do not depend on the other stages.

    Attributes:
        stages: By stage, any shape.
        sample: The second run's images.
    """

    stages: dict[Kind, Tensor]
    sample: Tensor


@cache
def healthy(name: str) -> PipelineSpec:
    """A bundled spec of four steps, without guidance."""
    return swap(load_spec(name), scheduler_config={"steps": 6}, guidance_scale=1.0)


@cache
def images() -> Tensor:
    """[4, 3, 64, 64] in [-1, 1]."""
    return to_unit(read_images(VALIDATION, 4).images)


@cache
def registry() -> Registry:
    return Registry.discover()


def broken(name: str, fault: str, strength: float, stage: Kind | None = None) -> Pipeline:
    """A bundled pipeline with a fault in it."""
    return assemble(injected(healthy(name), fault, registry(), strength=strength, stage=stage), registry())


@cache
def before(name: str) -> Outputs:
    """What the stages of the healthy pipeline put out."""
    return outputs(assemble(healthy(name), registry()))


@cache
def _latents(name: str) -> Tensor:
    with torch.inference_mode():
        return assemble(healthy(name), registry()).encoder.encode(images()).clone()


@torch.inference_mode()
def outputs(pipe: Pipeline) -> Outputs:
    """What the stages of a pipeline put out; each gets the inputs that a healthy one would give it."""
    name = Path(str(pipe.spec.source)).stem
    latents = _latents(name)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    label = {"class_label": torch.tensor([6, 1, 3, 8])}
    predictions = []
    for alpha, sigma in _LEVELS:
        level = NoiseLevel.of(alpha, sigma)
        z = level.add_noise(latents, noise)
        predictions.append(to_x0(pipe.denoiser.prediction, pipe.denoiser(z, level, label).prediction, z, level))
    stages = {
        Kind.ENCODER: pipe.encoder.encode(images()),
        Kind.DENOISER: torch.stack(predictions),
        Kind.SCHEDULER: _sampled(pipe, latents, noise),
        Kind.DECODER: pipe.decoder.decode(latents),
    }
    pipe.sample(2, seed=3)
    return Outputs(stages, pipe.sample(2, seed=5))


def _sampled(pipe: Pipeline, latents: Tensor, noise: Tensor) -> Tensor:
    """The second of two runs with the Gaussian-optimal denoiser of data of variance 2."""

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = float(level.alpha), float(level.sigma)
        return Denoised(2.0 * alpha / (2.0 * alpha**2 + sigma**2) * z)

    ends = [latents]
    for start in (noise.flip(0), noise):
        for step in pipe.scheduler.trajectory(denoise, pipe.scheduler.levels().prior(start), torch.Generator()):
            ends.append(step.z)
    return ends[-1]


def difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference; a value that is no number counts as 2, black for white."""
    return float((one - other).abs().nan_to_num(2.0, 2.0, 2.0).mean())
