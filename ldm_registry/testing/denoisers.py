"""What denoisers declare, against what comes out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ldm_registry.interfaces import Denoiser, NoiseLevel
from ldm_registry.testing.check import NotApplicableError, asked_of, require, require_close, require_equal
from ldm_registry.testing.subject import BATCH, Inputs, Subject, run
from ldm_registry.vocabulary import Kind, Prediction

ODD_SIZES = ((3, 5), (5, 2))
"""(H, W) in units of `size_multiple`."""
DOUBLE_TOLERANCE = 1e-9


@asked_of(Kind.DENOISER)
def training_is_as_declared(subject: Subject) -> None:
    """`prediction` and `training_schedule` are those it was built with; an oracle has no schedule."""
    denoiser = _denoiser(subject)
    prediction = getattr(denoiser, "prediction", None)
    require(isinstance(prediction, Prediction), f"prediction is {prediction!r}; expected a Prediction")
    schedule = denoiser.training_schedule
    if subject.trained is None:
        require(schedule is None, f"training_schedule is {schedule!r}, though it was built without one")
        return
    said = subject.trained.prediction
    require(prediction == said, f"prediction is {prediction!r}, though it was built as trained for {said!r}")
    require(
        schedule is None or schedule is subject.trained.schedule,
        f"training_schedule is {schedule!r}; expected the one it was built with",
    )


@asked_of(Kind.DENOISER)
def output_has_the_shape_of_its_input(subject: Subject) -> None:
    """The prediction, and a variance if it gives one, have the shape of `z`, also at odd multiples of its size."""
    denoiser = _denoiser(subject)
    sizes = (None, *ODD_SIZES) if denoiser.latent_size is None else (None,)
    for size in sizes:
        inputs = subject.inputs(denoiser, size)
        for name, output in run(denoiser, inputs).items():
            require(
                output.shape == inputs.main.shape,
                f"{name} has shape {list(output.shape)} for z of {list(inputs.main.shape)}",
            )
            require(bool(output.isfinite().all()), f"{name} has values that are not finite")


@asked_of(Kind.DENOISER)
def other_sizes_are_refused_or_kept(subject: Subject) -> None:
    """A size that it does not declare raises or keeps its shape; where `latent_size` is fixed, every other raises."""
    denoiser = _denoiser(subject)
    inputs = subject.inputs(denoiser)
    if denoiser.latent_size is None and denoiser.size_multiple == 1:
        raise NotApplicableError("it declares that every size fits")
    larger = replace(inputs, main=torch.nn.functional.pad(inputs.main, (0, 1, 0, 1)))
    try:
        output = run(denoiser, larger)["prediction"]
    except Exception:
        return
    require(
        denoiser.latent_size is None,
        f"latent_size is {denoiser.latent_size}, yet {list(larger.main.shape)} ran",
    )
    require(output.shape == larger.main.shape, f"{list(larger.main.shape)} came out as {list(output.shape)}")


@asked_of(Kind.DENOISER)
def one_level_serves_a_whole_batch(subject: Subject) -> None:
    """A level of shape [] means the same as one of shape [B] that repeats it."""
    denoiser = _denoiser(subject)
    inputs = subject.inputs(denoiser)
    assert inputs.level is not None
    one = NoiseLevel(inputs.level.alpha[1], inputs.level.sigma[1])
    many = NoiseLevel(one.alpha.expand(BATCH), one.sigma.expand(BATCH))
    together = run(denoiser, replace(inputs, level=one))
    for name, output in run(denoiser, replace(inputs, level=many)).items():
        require_close(together[name], output, f"{name}, level of shape [] against [B]", DOUBLE_TOLERANCE)


@asked_of(Kind.DENOISER)
def output_depends_on_the_level(subject: Subject) -> None:
    """Another noise level gives another prediction for the same `z`."""
    denoiser = _denoiser(subject)
    inputs = subject.inputs(denoiser, batch=1)
    schedule = subject.trained.schedule if subject.trained else subject.schedule
    low, high = schedule.time_range
    times = torch.tensor([0.2, 0.8], dtype=torch.float64)[:, None] * (high - low) + low
    clean, noisy = (_prediction(denoiser, inputs, schedule.level(time).normalised()) for time in times)
    require(
        not torch.equal(clean, noisy),
        "the prediction is the same at a fifth and at four fifths of its schedule",
    )


@asked_of(Kind.DENOISER)
def conditions_are_as_declared(subject: Subject) -> None:
    """Every declared class and the null run; classes differ from one another; a missing condition is the null."""
    denoiser = _denoiser(subject)
    if not denoiser.conditioning:
        raise NotApplicableError("it takes no condition")
    inputs = subject.inputs(denoiser, batch=1)
    for name, given in denoiser.conditioning.items():
        if given.classes is None:
            continue
        outputs = {label: _labelled(denoiser, inputs, name, label) for label in range(given.classes)}
        if given.null is not None:
            outputs[given.null] = _labelled(denoiser, inputs, name, given.null)
            others = {key: value for key, value in inputs.condition.items() if key != name}
            missing = run(denoiser, replace(inputs, condition=others))["prediction"]
            require_equal(
                missing, outputs[given.null], f"without {name}, against the null label {given.null}"
            )
        first, *rest = outputs.values()
        require(
            any(not torch.equal(first, other) for other in rest),
            f"{name} makes no difference: labels {', '.join(map(str, outputs))} all give one prediction",
        )


@asked_of(Kind.DENOISER)
def labels_out_of_range_are_refused(subject: Subject) -> None:
    """A label that is neither a class nor the null raises."""
    denoiser = _denoiser(subject)
    labels = {name: given for name, given in denoiser.conditioning.items() if given.classes is not None}
    if not labels:
        raise NotApplicableError("it takes no class label")
    inputs = subject.inputs(denoiser, batch=1)
    for name, given in labels.items():
        beyond = max(given.classes or 0, -1 if given.null is None else given.null + 1)
        try:
            _labelled(denoiser, inputs, name, beyond)
        except Exception:
            continue
        require(
            False, f"{name} {beyond} ran; classes are 0 to {(given.classes or 0) - 1}, null is {given.null}"
        )


def _denoiser(subject: Subject) -> Denoiser:
    return cast(Denoiser, subject.build().double())


def _prediction(denoiser: Denoiser, inputs: Inputs, level: NoiseLevel) -> Tensor:
    return run(denoiser, replace(inputs, level=level))["prediction"]


def _labelled(denoiser: Denoiser, inputs: Inputs, name: str, label: int) -> Tensor:
    condition = {**inputs.condition, name: torch.tensor([label])}
    return run(denoiser, replace(inputs, condition=condition))["prediction"]


CHECKS = (
    training_is_as_declared,
    output_has_the_shape_of_its_input,
    other_sizes_are_refused_or_kept,
    one_level_serves_a_whole_batch,
    output_depends_on_the_level,
    conditions_are_as_declared,
    labels_out_of_range_are_refused,
)
