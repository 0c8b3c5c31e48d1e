"""Diagnose a pipeline: all measurements, the substitution, and the verdict over both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ldm_registry.conditioning import condition_of
from ldm_registry.data import read_images, to_unit
from ldm_registry.diagnostics.chosen_features import Features, chosen
from ldm_registry.diagnostics.evidence import Measurement
from ldm_registry.diagnostics.left_as_found import left_as_found
from ldm_registry.diagnostics.measurements import run_tests
from ldm_registry.diagnostics.report import Costs, Report, Substitution
from ldm_registry.diagnostics.stage_costs import stage_costs
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.substitution import substitute
from ldm_registry.diagnostics.verdict import weigh
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Component
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.runtime.compiled import runs_compiled
from ldm_registry.vocabulary import STAGES, Kind

IMAGES, IMAGES_QUICK = 48, 24
"""How many of the spec's images are used, spread over the set."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A part of the diagnosis begins.

    Attributes:
        about: What it does.
        index: How many came before it.
        count: How many there are.
    """

    about: str
    index: int
    count: int


def diagnose(
    pipe: Pipeline,
    images: Tensor | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    stage: Kind | str | None = None,
    seed: int | None = None,
    quick: bool = False,
    with_costs: bool = True,
    features: Features | None = None,
) -> Report:
    """Find the part of a pipeline that is to blame for bad images, if any is.

    The pipeline is left as it was found.

    Args:
        pipe: What to diagnose.
        images: [N, C, H, W] in [-1, 1] that it should be able to deal with; None takes those of the spec's `data`.
        condition: What the denoiser is told about these images, N each; None takes the labels of the spec's images,
            or the spec's own condition.
        stage: Look at one stage by itself; None looks at all of them and at how they work together.
        seed: Of all noise; None takes the spec's.
        quick: Take about a fifth of the time; leaves the costs out.
        with_costs: Also measure time and memory of each stage, which has no part in the verdict.
        features: An encoder whose pooled latents, or a function of images [N, C, H, W] in [-1, 1] whose vectors [N, D],
            samples are compared by with the known images, beside the built-in features.

    Returns:
        The verdict with all evidence.

    Raises:
        SpecError: There are no images, or the features do not fit them.
    """
    *_, last = diagnosing(
        pipe,
        images,
        condition=condition,
        stage=stage,
        seed=seed,
        quick=quick,
        with_costs=with_costs,
        features=features,
    )
    assert isinstance(last, Report)
    return last


def diagnosing(
    pipe: Pipeline,
    images: Tensor | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    stage: Kind | str | None = None,
    seed: int | None = None,
    quick: bool = False,
    with_costs: bool = True,
    features: Features | None = None,
) -> Iterator[Begun | Report]:
    """As `diagnose`, which drains it: says what is begun, and ends with the report."""
    begin = time.perf_counter()
    only = None if stage is None else Kind(stage)
    if features is not None and only is not None:
        raise SpecError(
            f"features are for samples of the whole pipeline, which are not made when only the {only} is looked at"
        )
    subject = subject_of(pipe, images, condition, only, seed, quick=quick)
    if features is not None:
        subject = replace(subject, features=chosen(features, subject.images))
    tests = list(run_tests(subject, only))
    with_costs = with_costs and only is None and not quick
    count = len(tests) + (only is None) + with_costs
    measurements: list[Measurement] = []
    for index, (test, run) in enumerate(tests):
        yield Begun(test.about, index, count)
        with left_as_found(pipe):
            measurements.append(run())
    substitution: Substitution | None = None
    warnings = [*pipe.warnings, *_run_otherwise(pipe)]
    if only is None:
        yield Begun("every subset of the stages replaced", len(tests), count)
        with left_as_found(pipe):
            try:
                substitution = substitute(subject)
            except Exception as error:  # a pipeline too broken to be run is what a diagnosis is for
                warnings.append(f"no stage could be replaced: {type(error).__name__}: {error}")
    costs: Costs | None = None
    if with_costs:
        yield Begun("time and memory of each stage", count - 1, count)
        with left_as_found(pipe):
            try:
                costs = stage_costs(subject)
            except Exception as error:
                warnings.append(f"time and memory could not be measured: {type(error).__name__}: {error}")
    from ldm_registry import __version__

    yield Report(
        pipe.spec.source.stem if pipe.spec.source else "pipeline",
        weigh(measurements, substitution),
        tuple(measurements),
        substitution,
        only,
        {kind: _part(pipe, kind).name for kind in STAGES},
        {kind: _placed(pipe, kind) for kind in STAGES},
        subject.seed,
        len(subject.images),
        quick,
        tuple(warnings),
        time.perf_counter() - begin,
        __version__,
        costs,
    )


def subject_of(
    pipe: Pipeline,
    images: Tensor | None = None,
    condition: Mapping[str, Tensor] | None = None,
    stage: Kind | None = None,
    seed: int | None = None,
    *,
    quick: bool = False,
) -> Subject:
    """What the measurements look at; arguments as for `diagnose`.

    Raises:
        SpecError: There are no images, or those given do not fit the pipeline.
    """
    seed = pipe.spec.seed if seed is None else seed
    labels: Tensor | None = None
    if images is None:
        images, labels = _images_of_spec(pipe, stage, IMAGES_QUICK if quick else IMAGES)
    channels, size = pipe.spec.image.channels, (pipe.spec.image.height, pipe.spec.image.width)
    if images.ndim != 4 or images.shape[1] != channels or not len(images):
        raise SpecError(
            f"cannot diagnose with images of shape {list(images.shape)}; expected [N, {channels}, H, W] in [-1, 1]"
        )
    images = images.detach().float().cpu()
    if tuple(images.shape[-2:]) != size:
        images = functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    if condition is None:
        condition = _condition_of_images(pipe, len(images), labels)
    return Subject(pipe, images, {name: value.cpu() for name, value in condition.items()}, seed, quick)


def _images_of_spec(pipe: Pipeline, stage: Kind | None, count: int) -> tuple[Tensor, Tensor | None]:
    data, image = pipe.spec.data, pipe.spec.image
    if data is None:
        if stage is Kind.SCHEDULER:
            return torch.zeros(1, image.channels, image.height, image.width), None
        raise SpecError(
            "a diagnosis needs images that the pipeline should be able to deal with",
            hint="name some in the spec, `data: {images: FILE.tar}`, or pass `images`",
        )
    found = read_images(data.images)
    rows = torch.linspace(0, len(found) - 1, min(count, len(found))).round().long()
    images = to_unit(found.images[rows])
    if image.channels == 1 and images.shape[1] == 3:
        images = images.mean(1, keepdim=True)
    return images, found.labels[rows]


def _condition_of_images(pipe: Pipeline, count: int, labels: Tensor | None) -> Mapping[str, Tensor]:
    """The labels of the images where the denoiser knows them all, else the spec's own condition."""
    given = pipe.denoiser.conditioning.get("class_label")
    if given is not None and labels is not None:
        classes = given.classes or int(labels.max()) + 1
        return {"class_label": labels} if int(labels.max()) < classes else {}
    image = pipe.spec.image
    return condition_of(
        pipe.denoiser, pipe.conditioners, pipe.spec.condition, range(count), (image.height, image.width)
    )


def _part(pipe: Pipeline, kind: Kind) -> Component:
    part: Component = getattr(pipe, kind.value)
    return part


def _run_otherwise(pipe: Pipeline) -> list[str]:
    """Which parts run compiled, and are diagnosed as they are without."""
    parts = [_part(pipe, kind) for kind in STAGES]
    return [
        f"{part.kind} {part.name!r} is diagnosed uncompiled: nothing can be observed in what `compile` makes of it"
        for part in parts
        if runs_compiled(part)
    ]


def _placed(pipe: Pipeline, kind: Kind) -> str:
    device, dtype = placement(_part(pipe, kind))
    return f"{device}, {str(dtype).removeprefix('torch.')}"
