"""What each part of a pipeline does in a run, taken out of it, so that it can be done again by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from torch import Tensor

from ldm_registry.conditioning import encoded
from ldm_registry.costs.resident_memory import MIB, free_mib
from ldm_registry.costs.watched import Noted, noted
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import Component, Conditioner, Denoised, NoiseLevel, randn
from ldm_registry.pipeline import Pipeline, Started, Stepped, placement
from ldm_registry.vocabulary import Kind


@dataclass(frozen=True, slots=True)
class Case:
    """What is made at once.

    Attributes:
        batch: Images.
        height: Pixels.
        width: Pixels.
    """

    batch: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.height * self.width

    @property
    def size(self) -> str:
        """In words."""
        return f"{self.height} x {self.width}"


@dataclass(frozen=True, slots=True)
class PartCall:
    """One thing that a part does, ready to be repeated.

    Attributes:
        part: What does it.
        device: Where.
        dtype: In which floating-point type.
        run: Does it, and leaves the part as it was.
        shares: Equal shares that it consists of: the steps of a sampler; 1 for anything else.
        asks: How often a sampler asks the denoiser meanwhile.
        stated_bytes: What the part says in advance that it will take; None where it says nothing.
    """

    part: Component
    device: torch.device
    dtype: torch.dtype
    run: Callable[[], object]
    shares: int = 1
    asks: int = 0
    stated_bytes: int | None = None


MAPS = 4
"""Times its images in float32, at least, is what a network takes."""
Name = str
"""`encoder`, `denoiser`, `scheduler`, `decoder`, or `conditioner LABEL`."""
Calls = dict[Name, PartCall | str]
"""By name; a sentence where the part refuses."""


def parts_of(pipe: Pipeline) -> dict[Name, Component]:
    """The parts of a pipeline by name, in the order of the data flow."""
    conditioners = {f"{Kind.CONDITIONER} {label}": one for label, one in sorted(pipe.conditioners.items())}
    stages: dict[Name, Component] = {
        Kind.ENCODER.value: pipe.encoder,
        Kind.DENOISER.value: pipe.denoiser,
        Kind.SCHEDULER.value: pipe.scheduler,
        Kind.DECODER.value: pipe.decoder,
    }
    return {**conditioners, **stages}


def resized(pipe: Pipeline, case: Case) -> Pipeline:
    """The same parts with a spec that asks for images of another size; nothing is loaded or checked anew."""
    image = pipe.spec.image.model_copy(update={"size": (case.height, case.width)})
    return replace(pipe, spec=pipe.spec.model_copy(update={"image": image}))


def part_calls(pipe: Pipeline, case: Case, seed: int) -> Calls:
    """What every part does for some images.

    The denoiser's call is that of a run, guidance included; the scheduler is handed a clean estimate that costs
    nothing.

    Args:
        pipe: Gives the parts.
        case: The images.
        seed: Of all noise.
    """
    misfit = _misfit(pipe, case)
    if misfit is not None:
        return dict.fromkeys(parts_of(pipe), misfit)
    pipe = resized(pipe, case)
    return {
        **{f"{Kind.CONDITIONER} {label}": call for label, call in _conditioners(pipe, case)},
        Kind.ENCODER.value: _encoder(pipe, case, seed),
        **_sampling(pipe, case, seed),
        Kind.DECODER.value: _decoder(pipe, case, seed),
    }


def refusal(error: Exception) -> str:
    """Why something does not work, in one line."""
    if isinstance(error, LdmError):
        return "; ".join((error.summary, *error.problems))
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no reason given'}"


def _misfit(pipe: Pipeline, case: Case) -> str | None:
    stride = pipe.encoder.latent_space.stride
    wrong = [side for side in (case.height, case.width) if side % stride]
    if wrong:
        return f"{wrong[0]} px is not a multiple of the stride {stride}"
    images_mib = case.batch * pipe.encoder.image_channels * case.pixels * 4 / MIB
    free = free_mib()
    if free is not None and images_mib * MAPS > free:
        return f"the images alone are {images_mib:,.0f} MiB, and {free:,.0f} MiB are free"
    return None


def _conditioners(pipe: Pipeline, case: Case) -> Iterator[tuple[str, PartCall]]:
    for label, conditioner in sorted(pipe.conditioners.items()):
        texts, size = _texts(pipe, conditioner, case.batch), (case.height, case.width)
        run = partial(encoded, {label: conditioner}, texts, case.batch, size)
        yield label, PartCall(conditioner, *placement(conditioner), run)


def _texts(pipe: Pipeline, conditioner: Conditioner, batch: int) -> Mapping[str, list[str]]:
    values = pipe.spec.condition
    return {
        name: [str(values[name][index % len(values[name])]) for index in range(batch)]
        for name in conditioner.inputs
        if name in values
    }


def _encoder(pipe: Pipeline, case: Case, seed: int) -> PartCall:
    device, dtype = placement(pipe.encoder)
    shape = case.batch, pipe.encoder.image_channels, case.height, case.width
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(2).sub(1).to(device, dtype)
    stated = pipe.encoder.working_memory(case.batch, case.height, case.width)
    return PartCall(pipe.encoder, device, dtype, lambda: pipe.encoder.encode(images), stated_bytes=stated)


def _decoder(pipe: Pipeline, case: Case, seed: int) -> PartCall:
    device, dtype = placement(pipe.decoder, default=placement(pipe.denoiser))
    shape = case.batch, *pipe.latent_shape
    latents = randn(shape, torch.Generator().manual_seed(seed), device=device, dtype=dtype)
    stated = pipe.decoder.working_memory(case.batch, case.height, case.width)
    return PartCall(pipe.decoder, device, dtype, lambda: pipe.decoder.decode(latents), stated_bytes=stated)


def _sampling(pipe: Pipeline, case: Case, seed: int) -> Calls:
    """The denoiser and the scheduler, as the first step of a run has them."""
    z: Tensor | None = None
    x0: Tensor | None = None
    refused = _unfit_for_denoiser(pipe)
    with noted(pipe.denoiser) as call:
        try:
            for event in pipe.trace(case.batch, seed=seed):
                if isinstance(event, Started):
                    z = event.z.clone()
                elif isinstance(event, Stepped):
                    x0 = event.x0.clone()
                if refused or x0 is not None:
                    break
        except Exception as error:  # whatever a network says to a size that is not its own
            refused = refusal(error)
    if z is None:
        return dict.fromkeys((Kind.DENOISER.value, Kind.SCHEDULER.value), refused or "it does not start")
    known = Denoised(torch.zeros_like(z) if x0 is None else x0, _variance(call, z))
    device, dtype = placement(pipe.denoiser)
    denoiser = PartCall(pipe.denoiser, device, dtype, partial(pipe.denoiser, *call.given))
    return {
        Kind.DENOISER.value: refused or denoiser,
        Kind.SCHEDULER.value: _scheduler(pipe, case, seed, z, known),
    }


def _unfit_for_denoiser(pipe: Pipeline) -> str | None:
    _, *size = pipe.latent_shape
    fixed, multiple = pipe.denoiser.latent_size, pipe.denoiser.size_multiple
    if fixed is not None and list(fixed) != size:
        return f"works on latents of {fixed[0]} x {fixed[1]} alone"
    wrong = [side for side in size if side % multiple]
    return f"a latent side of {wrong[0]} is not a multiple of {multiple}" if wrong else None


def _variance(call: Noted, z: Tensor) -> Tensor | None:
    """Of the clean estimate, where the network learned one: a call under guidance has it twice."""
    found: Tensor | None = getattr(call.output, "variance", None)
    return None if found is None else found[: len(z)].to(z)


def _scheduler(pipe: Pipeline, case: Case, seed: int, z: Tensor, known: Denoised) -> PartCall | str:
    generators = [torch.Generator().manual_seed(seed + index) for index in range(case.batch)]
    asked = count()

    def denoise(z: Tensor, level: NoiseLevel) -> Denoised:
        next(asked)
        return known

    def walk() -> int:
        return sum(1 for _ in pipe.scheduler.trajectory(denoise, z, generators))

    try:
        steps = walk()
    except Exception as error:  # a sampler may ask for what a network that refuses cannot give
        return refusal(error)
    return PartCall(pipe.scheduler, z.device, z.dtype, walk, steps, next(asked))
