"""Denoisers that are wrong, or wrongly used, in one way each; the pipeline that is handed in stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ldm_registry.build import build_schedule
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import ComponentConfig, Condition, Denoiser, DenoiserOutput, NoiseLevel, Trained
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Prediction, Scaling

Injure = Callable[[Denoiser], Denoiser]


class Wrapped(Denoiser):
    """Another denoiser whose input, level or condition is changed on the way."""

    name = "wrapped"
    Config = ComponentConfig

    def __init__(
        self,
        inner: Denoiser,
        z: Callable[[Tensor, NoiseLevel], Tensor] = lambda z, level: z,
        level: Callable[[NoiseLevel], NoiseLevel] = lambda level: level,
        condition: Callable[[Condition], Condition] = lambda condition: condition,
        output: Callable[[Tensor], Tensor] = lambda output: output,
    ) -> None:
        super().__init__()
        self.inner, self._change = inner, (z, level, condition, output)
        self.prediction, self.conditioning = inner.prediction, inner.conditioning
        self.latent_space, self.size_multiple = inner.latent_space, inner.size_multiple
        object.__setattr__(self, "training_schedule", inner.training_schedule)

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        change_z, change_level, change_condition, change_output = self._change
        found = self.inner(change_z(z, level), change_level(level), change_condition(condition))
        return DenoiserOutput(change_output(found.prediction))


def injured(subject: Subject, injure: Injure) -> Subject:
    """The same subject with an injured copy of its denoiser."""
    denoiser = injure(copy.deepcopy(subject.pipe.denoiser))
    hurt = replace(subject, pipe=replace(subject.pipe, denoiser=denoiser))
    hurt.__dict__["latents"] = subject.latents
    return hurt


def read_as(prediction: Prediction) -> Injure:
    def injure(denoiser: Denoiser) -> Denoiser:
        denoiser.prediction = prediction
        return denoiser

    return injure


def retrained(change: Callable[[Trained], Trained]) -> Injure:
    """Believes something else about its training."""

    def injure(denoiser: Denoiser) -> Denoiser:
        vars(denoiser)["trained"] = change(vars(denoiser)["trained"])
        return denoiser

    return injure


def of_schedule(name: str) -> Injure:
    schedule = build_schedule(name, {}, Registry.discover())
    return retrained(lambda trained: replace(trained, schedule=schedule))


def time_scaled(factor: float) -> Injure:
    return retrained(lambda trained: replace(trained, time_scale=factor * trained.time_scale))


def sines_swapped(denoiser: Denoiser) -> Denoiser:
    """The columns that sines and cosines meet change places in every layer that takes them."""
    for name, module in denoiser.named_modules():
        if name.endswith("linear_1") and isinstance(module, nn.Linear) and "time" in name:
            with torch.no_grad():
                module.weight.copy_(torch.cat([*reversed(module.weight.chunk(2, dim=1))], dim=1))
    return denoiser


def unscaled(scaling: Scaling, sign: int) -> Injure:
    """The input keeps the std that it has in another scaling, or loses it twice."""

    def change(z: Tensor, level: NoiseLevel) -> Tensor:
        std = NoiseLevel.at(level.log_snr, scaling).std ** sign
        return z * (std.to(z).view(-1, *[1] * (z.ndim - 1)) if std.ndim else std.to(z))

    return lambda denoiser: Wrapped(denoiser, z=change)


def time_rounded(denoiser: Denoiser) -> Denoiser:
    """Hears its time in bfloat16."""
    schedule, scale = vars(denoiser)["trained"].schedule, vars(denoiser)["trained"].time_scale

    def change(level: NoiseLevel) -> NoiseLevel:
        time = (scale * schedule.time(level)).to(torch.bfloat16).double() / scale
        return schedule.level(time.clamp(*schedule.time_range)).normalised()

    return Wrapped(denoiser, level=change)


def deaf(denoiser: Denoiser) -> Denoiser:
    """Believes the same level always."""

    def change(level: NoiseLevel) -> NoiseLevel:
        middle = NoiseLevel.of(0.5**0.5, 0.5**0.5)
        return NoiseLevel(middle.alpha.expand_as(level.alpha), middle.sigma.expand_as(level.sigma))

    return Wrapped(denoiser, level=change)


def shifted_labels(denoiser: Denoiser) -> Denoiser:
    def change(condition: Condition) -> Condition:
        label = condition["class_label"]
        return {**condition, "class_label": torch.where(label < 9, (label + 4) % 9, label)}

    return Wrapped(denoiser, condition=change)


def noisy_weights(share: float) -> Injure:
    """Every weight moved by a share of the std of its tensor."""

    def injure(denoiser: Denoiser) -> Denoiser:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in denoiser.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(share * noise * parameter.std(correction=0))
        return denoiser

    return injure


def block_at_random(denoiser: Denoiser) -> Denoiser:
    """The weights of one block are normal values of their own std, as never loaded."""
    generator = torch.Generator().manual_seed(0)
    blocks = denoiser.get_submodule("transformer_blocks")
    with torch.no_grad():
        for parameter in blocks.get_submodule("1").parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return denoiser
