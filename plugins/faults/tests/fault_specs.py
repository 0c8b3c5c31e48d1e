"""Bundled pipelines with a fault in them, few steps long, and what the stages of one make of the same inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
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
from ldm_registry.vocabulary import STAGES, Kind

BY_NAME: dict[str, type[Fault]] = {fault.name: fault for fault in FAULTS}
STRENGTHS = (0.25, 0.5, 1.0)
VALIDATION = Path(__file__).parents[3] / "specs" / "data" / "noto-emoji-64-val.tar"
_LEVELS = ((0.05, 0.99875), (0.3, 0.9539392), (0.7071068, 0.7071068), (0.9539392, 0.3))


@cache
def healthy(name: str) -> PipelineSpec:
    """A bundled spec of six steps, without guidance."""
    return swap(load_spec(name), scheduler_config={"steps": 6}, guidance_scale=1.0)


@cache
def images() -> Tensor:
    """[12, 3, 64, 64] in [-1, 1]."""
    return to_unit(read_images(VALIDATION, 12).images)


@cache
def registry() -> Registry:
    return Registry.discover()


def broken(name: str, fault: str, strength: float, stage: Kind | None = None) -> Pipeline:
    """A bundled pipeline with a fault in it."""
    return assemble(injected(healthy(name), fault, registry(), strength=strength, stage=stage), registry())


@cache
def before(name: str) -> dict[Kind, Tensor]:
    """What the stages of the healthy pipeline put out."""
    return outputs(sound(name))


@cache
def _latents(name: str) -> Tensor:
    with torch.inference_mode():
        return sound(name).encoder.encode(images()).clone()


@torch.inference_mode()
def outputs(pipe: Pipeline, *stages: Kind) -> dict[Kind, Tensor]:
    """What stages of a pipeline put out; each gets the inputs that a healthy one would give it."""
    latents = _latents(Path(str(pipe.spec.source)).stem)
    return {stage: _OUTPUT[stage](pipe, latents) for stage in stages or STAGES}


def injured(name: str, fault: str, strength: float) -> Pipeline:
    """A healthy pipeline with copies of some stages injured by the modifier itself; not assembled anew."""
    pipe, modifier = sound(name), BY_NAME[fault]
    made = modifier(modifier.Config(strength=strength))
    return replace(
        pipe, **{one.value: made.modify(copy.deepcopy(getattr(pipe, one))) for one in modifier.stages}
    )


@cache
def sound(name: str) -> Pipeline:
    """A bundled pipeline as it is."""
    return assemble(healthy(name), registry())


def _predicted(pipe: Pipeline, latents: Tensor) -> Tensor:
    """Clean estimates at four levels."""
    label = {"class_label": torch.tensor([6, 1, 3, 8])}
    latents = latents[:4]
    noise = noise_like(latents)
    estimates = []
    for alpha, sigma in _LEVELS:
        level = NoiseLevel.of(alpha, sigma)
        z = level.add_noise(latents, noise)
        estimates.append(to_x0(pipe.denoiser.prediction, pipe.denoiser(z, level, label).prediction, z, level))
    return torch.stack(estimates)


def noise_like(latents: Tensor) -> Tensor:
    """The noise that the denoiser is tried with."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))


def _sampled(pipe: Pipeline, latents: Tensor) -> Tensor:
    """The second of two runs with the optimal denoiser of Gaussian data, one channel wide and the others narrow."""
    variance = torch.full((latents.shape[1], 1, 1), 0.25)
    variance[0] = 4.0

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = float(level.alpha), float(level.sigma)
        return Denoised(variance * alpha / (variance * alpha**2 + sigma**2) * z)

    noise = noise_like(latents)
    z = latents
    for start in (noise.flip(0), noise):
        for step in pipe.scheduler.trajectory(
            denoise, pipe.scheduler.levels().prior(start), torch.Generator()
        ):
            z = step.z
    return z


_OUTPUT: dict[Kind, Callable[[Pipeline, Tensor], Tensor]] = {
    Kind.ENCODER: lambda pipe, _latents: pipe.encoder.encode(images()),
    Kind.DENOISER: _predicted,
    Kind.SCHEDULER: _sampled,
    Kind.DECODER: lambda pipe, latents: pipe.decoder.decode(latents),
}


def difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference; a value that is no number counts as 2, black for white."""
    return float((one - other).abs().nan_to_num(2.0, 2.0, 2.0).mean())
