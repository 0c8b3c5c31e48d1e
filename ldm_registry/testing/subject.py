"""The component under test: how to build one, what to feed it, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ldm_registry.build import fresh
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Conditioner,
    Decoder,
    Denoiser,
    Encoder,
    NoiseLevel,
    NoiseSchedule,
    Scheduler,
    Trained,
    randn,
)
from ldm_registry.testing.stand_ins import shrink
from ldm_registry.trainable import Fittable
from ldm_registry.vocabulary import Kind

SEED = 20_240_607
BATCH = 3
SMALLEST_SIDE = 4
IMAGE_SIZE = (48, 32)
"""(height, width) in pixels, as conditioners are told."""
TEXTS = ("a red kite over the sea", "", "Two cats, at night")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a component is fed, B samples of it.

    Attributes:
        main: Image, latent, noisy latent or starting noise [B, C, H, W]; times [B] for a schedule; without meaning
            for a conditioner.
        level: Of a noisy latent, normalised, [B].
        condition: By name, each [B, ...].
        texts: Of a conditioner, by name, B each.
    """

    main: Tensor
    level: NoiseLevel | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Inputs:
        """The same on another device or in another dtype; levels stay where they are."""
        condition = {name: value.to(device) for name, value in self.condition.items()}
        return replace(self, main=self.main.to(device, dtype), condition=condition)

    def row(self, index: int) -> Inputs:
        """A batch of one."""
        pick = slice(index, index + 1)
        level = self.level and NoiseLevel(self.level.alpha[pick], self.level.sigma[pick])
        condition = {name: value[pick] for name, value in self.condition.items()}
        return Inputs(
            self.main[pick], level, condition, {name: texts[pick] for name, texts in self.texts.items()}
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A component class with what it is built from.

    Attributes:
        component: The class under test.
        config: Small, so that the suite is fast.
        trained: For a denoiser: how it was trained; None for one that was not (an oracle).
        schedule: For a scheduler: what it steps through.
        devices: Where it is tried.
        tokenizer: For a conditioner of text: folder of its tokenizer.
        checkpoint: Folder whose contract is measured.
        images: Image set that it is measured with.
    """

    component: type[Component]
    config: ComponentConfig
    trained: Trained | None
    schedule: NoiseSchedule
    devices: tuple[str, ...]
    tokenizer: Path | None = None
    checkpoint: Path | None = None
    images: Path | None = None

    @property
    def kind(self) -> Kind:
        """Which interface it implements."""
        return self.component.kind

    def arguments(self, config: ComponentConfig | None = None) -> tuple[Any, ...]:
        """What the class is called with.

        Args:
            config: In place of its own.
        """
        match self.kind:
            case Kind.DENOISER:
                return config or self.config, self.trained
            case Kind.SCHEDULER:
                return config or self.config, self.schedule, None
            case Kind.CONDITIONER:
                return config or self.config, self.tokenizer
            case _:
                return (config or self.config,)

    def fresh(self) -> Component:
        """A new instance as its constructor leaves it; always the same weights."""
        return fresh(self.component, self.arguments(), SEED).eval()

    def build(self) -> Component:
        """A new instance as it would be after training: fitted, or with every weight moved off its start.

        Layers that start at zero would hide whatever lies before them.
        """
        component = self.fresh()
        generator = torch.Generator().manual_seed(SEED)
        if isinstance(component, Fittable) and component.state_dict():
            self._fit(component, generator)
        with torch.no_grad():
            for parameter in component.parameters():
                parameter.add_(0.05 * randn(parameter.shape, generator, dtype=parameter.dtype))
        return component

    def _fit(self, component: Fittable, generator: torch.Generator) -> None:
        denoiser = cast(Denoiser, component)
        labels = max((given.classes or 0 for given in denoiser.conditioning.values()), default=0)
        count = max(16, 2 * labels)
        shape = (count, denoiser.latent_space.channels, *_sides(denoiser))
        condition = {
            name: torch.arange(count) % given.classes
            for name, given in denoiser.conditioning.items()
            if given.classes is not None
        }
        component.fit(randn(shape, generator), condition)

    def inputs(
        self, component: Component, size: tuple[int, int] | None = None, *, batch: int = BATCH
    ) -> Inputs:
        """Seeded float64 inputs on the CPU, each sample at a level and with a label of its own.

        Args:
            component: What they are for.
            size: (H, W) in latent cells, or in multiples of a denoiser's `size_multiple`; None is a small one.
            batch: B.
        """
        generator = torch.Generator().manual_seed(SEED)
        if isinstance(component, NoiseSchedule):
            low, high = component.time_range
            share = torch.rand(batch, generator=generator, dtype=torch.float64)
            return Inputs(low + (high - low) * share)
        if isinstance(component, Scheduler):
            return Inputs(randn((batch, 2, *(size or (4, 6))), generator, dtype=torch.float64))
        if isinstance(component, Conditioner):
            return Inputs(torch.zeros(batch), texts=_texts(component, batch))
        height, width = _sides(component, size)
        if isinstance(component, Encoder):
            shape = (batch, component.image_channels, height, width)
            return Inputs(randn(shape, generator, dtype=torch.float64).tanh())
        channels = cast(Decoder | Denoiser, component).latent_space.channels
        main = randn((batch, channels, height, width), generator, dtype=torch.float64)
        if not isinstance(component, Denoiser):
            return Inputs(main)
        return Inputs(main, self._levels(batch), _conditions(component, batch, generator))

    def _levels(self, batch: int) -> NoiseLevel:
        schedule = self.trained.schedule if self.trained else self.schedule
        low, high = schedule.time_range
        share = torch.linspace(0.25, 0.75, batch, dtype=torch.float64)
        return schedule.level(low + (high - low) * share).normalised()


def run(
    component: Component, inputs: Inputs, generators: Sequence[torch.Generator] | None = None
) -> dict[str, Tensor]:
    """Everything that a component puts out, by name, without gradients.

    Args:
        component: What to call.
        inputs: B samples.
        generators: One for each sample; None runs without, except for a scheduler, which gets its own.
    """
    with torch.no_grad():
        return call(component, inputs, generators)


def call(
    component: Component, inputs: Inputs, generators: Sequence[torch.Generator] | None = None
) -> dict[str, Tensor]:
    """As `run`, with gradients where the component allows them."""
    if isinstance(component, Encoder):
        return {"latent": component.encode(inputs.main, generators)}
    if isinstance(component, Decoder):
        return {"image": component.decode(inputs.main)}
    if isinstance(component, Denoiser):
        assert inputs.level is not None
        output = component(inputs.main, inputs.level, inputs.condition)
        variance = {} if output.variance is None else {"variance": output.variance}
        return {"prediction": output.prediction, **variance}
    if isinstance(component, Conditioner):
        return dict(component.encode(inputs.texts, IMAGE_SIZE))
    if isinstance(component, NoiseSchedule):
        level = component.level(inputs.main)
        return {"alpha": level.alpha, "sigma": level.sigma, "time": component.time(level)}
    sampler = cast(Scheduler, component)
    start = sampler.levels().prior(inputs.main)
    # A stochastic sampler needs generators, and nothing says which samplers are stochastic.
    *_, last = sampler.trajectory(shrink, start, seeded(len(start)) if generators is None else generators)
    return {"z": last.z, "x0": last.x0}


def seeded(batch: int = BATCH) -> list[torch.Generator]:
    """Fresh generators, one for each sample; the same ones every time."""
    return [torch.Generator().manual_seed(SEED + index) for index in range(batch)]


def _sides(component: Component, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(H, W) of the input: `size` in the component's own units, or the only one that it accepts."""
    if isinstance(component, Denoiser):
        if component.latent_size is not None:
            return component.latent_size
        unit = component.size_multiple
    else:
        unit = cast(Encoder | Decoder, component).latent_space.stride if isinstance(component, Encoder) else 1
    least = -(-SMALLEST_SIDE // unit)
    height, width = size or (max(2, least), max(2, least) + 1)
    return height * unit, width * unit


def _conditions(denoiser: Denoiser, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    values = {}
    for name, given in denoiser.conditioning.items():
        if given.classes is not None:
            values[name] = torch.arange(batch) % given.classes
        else:
            shape = (batch, *(extent or 3 for extent in given.shape))
            values[name] = randn(shape, generator).to(given.dtype)
    return values


def _texts(conditioner: Conditioner, batch: int) -> dict[str, tuple[str, ...]]:
    """B texts for each input, no two inputs with the same ones in the same order."""
    return {
        name: tuple(TEXTS[(index + turn) % len(TEXTS)] for index in range(batch))
        for turn, name in enumerate(conditioner.inputs)
    }
