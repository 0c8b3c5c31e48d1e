"""The second sampler, handed what the first one was told: from which step on does it do otherwise?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ldm_registry.diagnostics.agreement import Match, Precision
from ldm_registry.diagnostics.parity import Parity, judged, worsened
from ldm_registry.diagnostics.recorded_run import Call, Recorded
from ldm_registry.interfaces import Denoised, NoiseLevel, Scheduler
from ldm_registry.vocabulary import Kind

LEVEL_TOLERANCE_NATS = 1e-4
"""Of the log-SNR at which a sampler asks: what tables in single precision are off by."""


def sampler_parity(scheduler: Scheduler, recorded: Recorded, dtype: torch.dtype) -> Parity:
    """Compare a sampler with the recorded one, step by step.

    It is handed the recorded clean estimates, call by call, whatever its own state is, so that no network takes part
    and no difference feeds on itself.

    Args:
        scheduler: The second.
        recorded: A run of the first.
        dtype: What the second computes in.
    """
    coarser = max(dtype, recorded.start.dtype, key=lambda one: torch.finfo(one).eps)
    precision = Precision(torch.finfo(coarser).eps, str(coarser).removeprefix("torch."))
    count = len(recorded.levels) - 1
    tolerance = precision.tolerance(count)
    found = Parity(Kind.SCHEDULER, Match.EQUAL, 0.0, tolerance, precision.name)

    def with_one(found: Parity, expected: Tensor, got: Tensor, step: int, level: NoiseLevel) -> Parity:
        return worsened(found, judged(Kind.SCHEDULER, expected, got, tolerance, precision), step, level)

    levels = scheduler.levels()
    found = with_one(found, recorded.start, levels.prior(recorded.noise.to(dtype)), -1, recorded.levels[0])
    replay = _Replay(recorded, dtype)
    taken = 0
    generators = [torch.Generator().manual_seed(seed) for seed in recorded.seeds]
    try:
        for step in scheduler.trajectory(replay, recorded.start.to(dtype), generators):
            taken = step.index + 1
            for call, z in replay.drain():
                found = with_one(found, call.z, z, call.step, call.level)
            if step.index < count:
                found = with_one(found, recorded.states[step.index], step.z, step.index, step.level)
    except _OtherLevelError as parted:
        if found.match is not Match.DIFFERENT:
            found = replace(found, match=Match.DIFFERENT, step=parted.step, log_snr=parted.log_snr)
        return replace(found, notes=(str(parted),))
    made = len(recorded.states)
    if taken != made:
        note = f"it takes {taken} steps, the first {made}"
        is_first = found.match is not Match.DIFFERENT
        last = min(taken, made) if is_first else found.step
        found = replace(found, match=Match.DIFFERENT, step=last, notes=(note,))
    return found


class _OtherLevelError(Exception):
    """A sampler asks at another noise level than the one that was recorded."""

    def __init__(self, asked: float, expected: float | None, step: int) -> None:
        wanted = "asks no more" if expected is None else f"asks at {expected:.4f}"
        super().__init__(
            f"in step {step + 1} it asks the denoiser at log-SNR {asked:.4f}, where the first {wanted}"
        )
        self.step, self.log_snr = step, asked


class _Replay:
    """The recorded answers, one call after the other, whatever state is handed in."""

    def __init__(self, recorded: Recorded, dtype: torch.dtype) -> None:
        self._recorded, self._dtype, self._made = recorded, dtype, 0
        self._asked: list[tuple[Call, Tensor]] = []

    def __call__(self, z: Tensor, level: NoiseLevel) -> Denoised:
        calls = self._recorded.calls
        asked = float(level.log_snr.max())
        if self._made >= len(calls):
            raise _OtherLevelError(asked, None, calls[-1].step + 1)
        call = calls[self._made]
        expected = float(call.level.log_snr.max())
        if asked != expected and not abs(asked - expected) <= LEVEL_TOLERANCE_NATS:
            raise _OtherLevelError(asked, expected, call.step)
        self._made += 1
        self._asked.append((call, z))
        variance = call.answer.variance
        return Denoised(call.x0.to(self._dtype), None if variance is None else variance.to(self._dtype))

    def drain(self) -> list[tuple[Call, Tensor]]:
        """The calls since the last time, each with the state that was handed in."""
        asked, self._asked = self._asked, []
        return asked
