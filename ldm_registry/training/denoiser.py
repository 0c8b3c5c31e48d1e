"""Training a denoiser on cached latents."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, final

import torch
from torch import Tensor, nn

from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import (
    Condition,
    Denoiser,
    DenoiserOutput,
    NoiseLevel,
    NoiseSchedule,
    broadcast,
)
from ldm_registry.prediction import from_x0
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.latents import Latents, noise_of_step
from ldm_registry.training.loop import StepResult, autocast, finish_step, new_state, paced, reseed_dropout
from ldm_registry.training.optimizers import set_learning_rate
from ldm_registry.training.processes import Processes, processes
from ldm_registry.training.progress import Progress
from ldm_registry.training.seeds import seeded
from ldm_registry.training.self_test import denoising_errors, gaussian_ratio
from ldm_registry.training.settings import DenoiserTraining
from ldm_registry.training.sharding import is_sharded, sharded, take_whole
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

    Under torchrun or `accelerate launch` each process takes its part of every batch; all have to call this with the
    same arguments, and all have the same denoiser afterwards.

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
        SpecError: It has no null label for the dropout, the training diverged, or cannot be shared by the processes.
        CheckpointError: The state in the folder is of another training.
        ResourceError: Another process of the training has ended.
    """
    schedule = _trainable_schedule(denoiser, settings)
    with processes(settings, torch.device(device)) as group:
        group.share(settings.batch)
        in_parts = is_sharded(settings, group)
        network = sharded(copy.deepcopy(denoiser).to(group.device)) if in_parts else denoiser
        if not in_parts:
            network.to(device=group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
        network.train()
        state = new_state({"denoiser": network}, settings, identity or {}, group.device)
        if resume:
            load_state(state, folder)
        group.wait()  # until all have read what the first one is going to replace
        if settings.compile:
            network.compile()
        called = network if in_parts else group.parallel(network)
        steps = _Steps(state, settings, schedule, latents, validation, gaussian, called, group)
        yield from paced(state, steps.taken(), folder, group)
        state.average.keep()
        if in_parts:
            take_whole(network, denoiser)
            denoiser.to(group.device)
    denoiser.eval()


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


@final
class _Steps:
    """The steps of a training.

    Args:
        state: What they change.
        settings: Of the run.
        schedule: That the denoiser trains under.
        latents: To train on.
        validation: For the figures.
        gaussian: What the figures are compared with.
        network: What is called: the denoiser, as its processes call it.
        group: The processes, each of which takes its part of every pass.
    """

    def __init__(
        self,
        state: TrainingState,
        settings: DenoiserTraining,
        schedule: NoiseSchedule,
        latents: Latents,
        validation: Latents,
        gaussian: GaussianFit,
        network: nn.Module,
        group: Processes,
    ) -> None:
        self._state, self._settings, self._schedule = state, settings, schedule
        self._latents, self._validation, self._gaussian = latents, validation, gaussian
        self._network, self._group = network, group
        self._denoiser = cast(Denoiser, state.modules["denoiser"])

    def taken(self) -> Iterator[StepResult]:
        """One step for each that is pulled."""
        state, settings = self._state, self._settings
        parameters = list(self._denoiser.parameters())
        while True:
            set_learning_rate(state.optimizers, settings, state.step)
            reseed_dropout(state.modules, settings, state.step, self._group.rank)
            loss = self._passes(state.step)
            finish_step(state, parameters)
            due = settings.validate_every and state.step % settings.validate_every == 0
            yield StepResult({"loss": loss}, self._validate() if due else {})

    def _passes(self, step: int) -> Tensor:
        """Gradients of a step; returns the loss of its last pass. What is drawn is drawn for all processes."""
        settings, denoiser, group = self._settings, self._denoiser, self._group
        x0, labels = self._latents.of_step(settings, step)
        labels = with_dropout(denoiser, labels, settings, step)
        level = levels_of_step(self._schedule, settings, len(x0), step)
        noise = noise_of_step(x0.shape, settings, step, group.device)
        own, weight = group.share(settings.batch), group.weight(settings.batch)
        loss = torch.zeros(())
        for part in range(settings.accumulate):
            first = part * settings.batch
            rows = slice(first + own.start, first + own.stop)
            with group.accumulating(self._network, is_last=part == settings.accumulate - 1):
                loss = weight * _loss(
                    denoiser,
                    self._network,
                    settings,
                    x0[rows],
                    noise[rows],
                    NoiseLevel(level.alpha[rows], level.sigma[rows]),
                    condition_of(denoiser, labels[rows], group.device),
                )
                self._state.scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch's stubs
        return loss.detach()

    def _validate(self) -> dict[str, float]:
        few, denoiser = slice(self._settings.validation_images), self._denoiser
        with self._state.average.applied():
            denoiser.eval()
            condition = condition_of(denoiser, self._validation.labels[few], torch.device("cpu"))
            latents = self._validation.values[0, few].cpu()
            errors = denoising_errors(denoiser, latents, condition, self._gaussian, self._group.device)
        denoiser.train()
        return {
            "x0_mse": sum(one.x0_mse for one in errors) / len(errors),
            "ratio_to_gaussian": gaussian_ratio(errors),
        }


def _loss(
    denoiser: Denoiser,
    network: nn.Module,
    settings: DenoiserTraining,
    x0: Tensor,
    noise: Tensor,
    level: NoiseLevel,
    condition: Condition,
) -> Tensor:
    z = level.add_noise(x0, noise)
    with autocast(settings, x0.device):
        output: DenoiserOutput = network(z, level, condition)
    if output.variance is not None:
        raise ContractError(
            f"denoiser {denoiser.name!r} learns the reverse variance, which has no loss here",
            hint="train it with a fixed variance (no extra output channels)",
        )
    target = from_x0(denoiser.prediction, x0, noise, level)
    error = (output.prediction.float() - target).square()
    weighted: Tensor = broadcast(loss_weight(denoiser.prediction, level, settings), error) * error
    return weighted.mean()


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
