"""Training a denoiser on cached latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import Condition, Denoiser, NoiseLevel, NoiseSchedule, broadcast
from ldm_registry.prediction import from_x0
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.latents import Latents, noise_of_step
from ldm_registry.training.loop import StepResult, autocast, finish_step, new_state, paced, reseed_dropout
from ldm_registry.training.optimizers import set_learning_rate
from ldm_registry.training.progress import Progress
from ldm_registry.training.seeds import seeded
from ldm_registry.training.self_test import denoising_errors, gaussian_ratio
from ldm_registry.training.settings import DenoiserTraining
from ldm_registry.training.state import TrainingState, load_state
from ldm_registry.vocabulary import Prediction

LABEL = "class_label"


def train_denoiser(
    denoiser: Denoiser,
    settings: DenoiserTraining,
    latents: Latents,
    *,
    validation: Latents,
    gaussian: GaussianFit,
    folder: Path,
    identity: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = True,
) -> Iterator[Progress]:
    """Train a denoiser, in place; afterwards it carries the averaged weights.

    Args:
        denoiser: With a training schedule.
        settings: Of the run.
        latents: To train on, on the device.
        validation: For the figures.
        gaussian: Fitted to the training latents; what the figures are compared with.
        folder: Of the training state.
        identity: What a resumed run must agree with.
        device: To train on; the denoiser is moved there.
        resume: Go on from the state in the folder, if there is one.

    Yields:
        Reports, the last one with `stopped` set.

    Raises:
        ContractError: The denoiser has no training schedule, or predicts what cannot be trained on it.
        SpecError: It has no null label for the dropout, or the training diverged.
        CheckpointError: The state in the folder is of another training.
    """
    schedule = _trainable_schedule(denoiser, settings)
    device = torch.device(device)
    denoiser.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's stubs
    state = new_state({"denoiser": denoiser}, settings, identity or {}, device)
    if resume:
        load_state(state, folder)
    if settings.compile:
        denoiser.compile()
    steps = _steps(state, settings, schedule, latents, validation, gaussian, device)
    yield from paced(state, steps, folder)
    denoiser.eval()
    state.average.keep()


def condition_of(denoiser: Denoiser, labels: Tensor, device: torch.device) -> Condition:
    """The condition of labelled latents, as far as a denoiser takes it; what it lacks means null."""
    return {LABEL: labels.to(device)} if LABEL in denoiser.conditioning else {}


def with_dropout(denoiser: Denoiser, labels: Tensor, settings: DenoiserTraining, step: int) -> Tensor:
    """Labels [B] of which a share is replaced by the null label (Ho and Salimans 2022, algorithm 1)."""
    accepted = denoiser.conditioning.get(LABEL)
    if accepted is None or accepted.null is None or not settings.label_dropout:
        return labels
    dropped = (
        torch.rand(len(labels), generator=seeded(settings.seed, "dropout", step)) < settings.label_dropout
    )
    return torch.where(dropped, accepted.null, labels)


def levels_of_step(schedule: NoiseSchedule, settings: DenoiserTraining, count: int, step: int) -> NoiseLevel:
    """The noise levels of a step, normalised to `alpha**2 + sigma**2 = 1`.

    The draws are stratified over the step (Kingma et al. 2021, appendix I.1): sample i draws from the i-th of
    `count` equal parts of [0, 1), which lowers the variance of the loss and leaves its mean.

    Args:
        schedule: That the denoiser trains under.
        settings: Of the run.
        count: Samples of the step.
        step: From 0.
    """
    draws = torch.rand(count, generator=seeded(settings.seed, "time", step), dtype=torch.float64)
    share = (torch.arange(count, dtype=torch.float64) + draws) / count
    if settings.time_sampling == "logit-normal":
        share = torch.sigmoid(settings.time_mean + settings.time_std * torch.special.ndtri(share))
    low, high = schedule.time_range
    if schedule.steps is not None:
        time = low + (share * schedule.steps).floor().clamp(max=schedule.steps - 1)
    else:
        time = low + (high - low) * share
    return schedule.level(time).normalised()


def loss_weight(prediction: Prediction, level: NoiseLevel, settings: DenoiserTraining) -> Tensor:
    """Weight of each sample's squared error, float64 [B].

    min-snr (Hang et al. 2023, Eq. 7) weighs the error of x0 by `min(snr, gamma)`; an error p of another
    prediction is an error of `c p` in x0, where c is its factor in the table of `ldm_registry.prediction`.
    """
    if settings.snr_weighting == "none":
        return torch.ones_like(level.alpha)
    alpha, sigma = level.alpha, level.sigma
    match prediction:
        case Prediction.X0:
            factor = torch.ones_like(alpha)
        case Prediction.EPSILON:
            factor = sigma / alpha
        case Prediction.V | Prediction.F:
            factor = sigma
        case Prediction.VELOCITY | Prediction.REVERSE_VELOCITY:
            factor = sigma / (alpha + sigma)
    return (alpha / sigma).square().clamp(max=settings.snr_gamma) * factor.square()


def _steps(
    state: TrainingState,
    settings: DenoiserTraining,
    schedule: NoiseSchedule,
    latents: Latents,
    validation: Latents,
    gaussian: GaussianFit,
    device: torch.device,
) -> Iterator[StepResult]:
    denoiser = cast(Denoiser, state.modules["denoiser"])
    parameters = list(denoiser.parameters())
    while True:
        step = state.step
        set_learning_rate(state.optimizers, settings, step)
        reseed_dropout(state.modules, settings, step)
        x0, labels = latents.of_step(settings, step)
        condition = condition_of(denoiser, with_dropout(denoiser, labels, settings, step), device)
        level = levels_of_step(schedule, settings, len(x0), step)
        noise = noise_of_step(x0.shape, settings, step, device)
        losses: dict[str, Tensor | float] = {}
        for part in range(settings.accumulate):
            rows = slice(part * settings.batch, (part + 1) * settings.batch)
            loss = _loss(
                denoiser,
                settings,
                x0[rows],
                noise[rows],
                NoiseLevel(level.alpha[rows], level.sigma[rows]),
                {name: values[rows] for name, values in condition.items()},
            )
            state.scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch's stubs
            losses = {"loss": loss.detach()}
        finish_step(state, parameters)
        due = settings.validate_every and state.step % settings.validate_every == 0
        yield StepResult(losses, _validate(state, settings, validation, gaussian, device) if due else {})


def _loss(
    denoiser: Denoiser,
    settings: DenoiserTraining,
    x0: Tensor,
    noise: Tensor,
    level: NoiseLevel,
    condition: Condition,
) -> Tensor:
    z = level.add_noise(x0, noise)
    with autocast(settings, x0.device):
        output = denoiser(z, level, condition)
    if output.variance is not None:
        raise ContractError(
            f"denoiser {denoiser.name!r} learns the reverse variance, which has no loss here",
            hint="train it with a fixed variance (no extra output channels)",
        )
    target = from_x0(denoiser.prediction, x0, noise, level)
    error = (output.prediction.float() - target).square()
    weighted: Tensor = broadcast(loss_weight(denoiser.prediction, level, settings), error) * error
    return weighted.mean()


def _validate(
    state: TrainingState,
    settings: DenoiserTraining,
    validation: Latents,
    gaussian: GaussianFit,
    device: torch.device,
) -> dict[str, float]:
    denoiser = cast(Denoiser, state.modules["denoiser"])
    few = slice(settings.validation_images)
    with state.average.applied():
        denoiser.eval()
        labels = validation.labels[few]
        condition = condition_of(denoiser, labels, torch.device("cpu"))
        errors = denoising_errors(denoiser, validation.values[0, few].cpu(), condition, gaussian, device)
    denoiser.train()
    return {
        "x0_mse": sum(one.x0_mse for one in errors) / len(errors),
        "ratio_to_gaussian": gaussian_ratio(errors),
    }


def _trainable_schedule(denoiser: Denoiser, settings: DenoiserTraining) -> NoiseSchedule:
    schedule = denoiser.training_schedule
    if schedule is None or not any(one.requires_grad for one in denoiser.parameters()):
        raise ContractError(f"denoiser {denoiser.name!r} has nothing to train by gradient")
    accepted = denoiser.conditioning.get(LABEL)
    if (
        accepted is not None
        and accepted.null is None
        and settings.label_dropout
        and "label_dropout" in settings.model_fields_set
    ):
        raise SpecError(
            f"denoiser {denoiser.name!r} has no null label, so none can take the place of dropped ones",
            hint="set `label_dropout: 0.0`",
        )
    return schedule
