"""The pace of a run: when to stop, when to save, when to report. The steps themselves are pulled in."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm_registry.errors import SpecError
from ldm_registry.training.average import Average
from ldm_registry.training.interruption import interruption
from ldm_registry.training.optimizers import optimizers_for, rate_share
from ldm_registry.training.processes import Processes
from ldm_registry.training.progress import Progress
from ldm_registry.training.seeds import mixed
from ldm_registry.training.settings import LoopSettings
from ldm_registry.training.state import TrainingState, save_state

REPORT_EVERY_S = 1.0
REASONS = (None, "minutes", "interrupted", "finished")
"""Why a training stops; where processes differ, the last one counts."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step gives.

    Attributes:
        losses: By name, scalars on the training device; nobody waits for them until they are reported. Their mean over
            the processes is that over the samples.
        validation: Figures with averaged weights, when this step took them.
    """

    losses: Mapping[str, Tensor | float]
    validation: Mapping[str, float] = field(default_factory=dict)


def new_state(
    modules: Mapping[str, nn.Module],
    settings: LoopSettings,
    identity: Mapping[str, object],
    device: torch.device,
) -> TrainingState:
    """The state before the first step.

    Args:
        modules: What is trained and averaged, by name, already on the device.
        settings: Of the run.
        identity: What a resumed run must agree with.
        device: Of the modules.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    average = Average(modules, settings.ema_half_life, settings.ema_warmup)
    return TrainingState(modules, optimizers_for(modules, settings), average, scaler, identity, settings)


def paced(
    state: TrainingState, steps: Iterator[StepResult], folder: Path, group: Processes
) -> Iterator[Progress]:
    """Pull steps until the training is done, its minutes are over or a signal comes; save on the way and at the end.

    Args:
        state: What the steps change; they count its `step` up.
        steps: Each `next` takes one step.
        folder: Of the state's file.
        group: The processes of the training. They stop, save and report together: the first one has the clock, and each
            may have got a signal.

    Yields:
        A report at most once a second, whenever there are validation figures, and at the end.

    Raises:
        SpecError: The loss is no longer finite; the last saved state is from before.
    """
    settings = state.settings
    begin = reported = saved = time.monotonic()
    before, reported_step = state.elapsed_s, state.step
    with interruption() as interrupted:
        (stopped,) = group.largest([_why_stop(state, begin, interrupted())])
        while not stopped:
            result = next(steps)
            now = time.monotonic()
            state.elapsed_s = before + now - begin
            stopped, saves, reports = group.largest(
                [
                    _why_stop(state, begin, interrupted()),
                    group.is_first and now - saved >= settings.checkpoint_every_s,
                    group.is_first and now - reported >= REPORT_EVERY_S,
                ]
            )
            if saves or reports or result.validation:
                losses = _finite(group.mean(result.losses), state.step)
            if saves:
                save_state(state, folder, writes=group.is_first)
                saved = now
            if result.validation or reports:
                yield Progress(
                    step=state.step,
                    steps=settings.steps,
                    elapsed_s=state.elapsed_s,
                    step_ms=1e3 * (now - reported) / (state.step - reported_step),
                    learning_rate=rate_share(settings, state.step - 1),
                    losses=losses,
                    validation=result.validation,
                )
                reported, reported_step = now, state.step
        save_state(state, folder, writes=group.is_first)
    yield Progress(state.step, settings.steps, state.elapsed_s, stopped=REASONS[stopped])


def _why_stop(state: TrainingState, begin: float, interrupted: bool) -> int:
    """Where among `REASONS` the training stands."""
    minutes = state.settings.minutes
    if state.step >= state.settings.steps:
        reason = "finished"
    elif interrupted:
        reason = "interrupted"
    elif minutes is not None and time.monotonic() - begin >= 60.0 * minutes:
        reason = "minutes"
    else:
        reason = None
    return REASONS.index(reason)


def _finite(losses: Mapping[str, float], step: int) -> Mapping[str, float]:
    """The losses, which a training that has diverged no longer has."""
    broken = [f"{name}: {value}" for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise SpecError(
            f"the training diverged at step {step}",
            broken,
            hint="lower the learning rate or lengthen the warm-up; the last saved state is from before",
        )
    return losses


@torch.no_grad()
def finish_step(state: TrainingState, parameters: list[nn.Parameter]) -> None:
    """Clip the gradients, step every optimiser, average the weights and count the step."""
    for optimizer in state.optimizers.values():
        state.scaler.unscale_(optimizer)
    if state.settings.clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, state.settings.clip_norm)
    for optimizer in state.optimizers.values():
        state.scaler.step(optimizer)
    state.scaler.update()
    for optimizer in state.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    state.average.update(state.step)
    state.step += 1


def reseed_dropout(
    modules: Mapping[str, nn.Module], settings: LoopSettings, step: int, rank: int = 0
) -> None:
    """Seed torch's global generator where a network has dropout, which takes no generator of its own."""
    if any(isinstance(part, nn.Dropout) and part.p > 0 for one in modules.values() for part in one.modules()):
        torch.manual_seed(mixed(settings.seed, "dropout", step, *[rank] * (rank > 0)))


def autocast(settings: LoopSettings, device: torch.device) -> torch.autocast:
    """The precision of the forward pass."""
    dtype = torch.bfloat16 if settings.precision == "float32" else getattr(torch, settings.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=settings.precision != "float32")
