"""TIME: whether the denoiser hears the noise level, finely and smoothly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.golden_outputs import is_as_saved
from ldm_registry.diagnostics.probe import affordable, vp_level
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.vocabulary import Kind

STREAM = 31
IDENTICAL = 0.1
DEAF = 0.02
JUMP = 40.0
DENOISER = frozenset({Kind.DENOISER})


@dataclass(frozen=True, slots=True)
class Response:
    """How the output follows the level, for one and the same input.

    Attributes:
        log_snrs: Where, nats, falling.
        identical: Share of neighbouring levels with bit-identical output.
        change: Output over the whole range, rms of the change over rms of the output.
        steps: Between neighbours on the coarse grid, the same ratio.
    """

    log_snrs: tuple[float, ...]
    identical: float
    change: float
    steps: tuple[float, ...]

    @property
    def jump(self) -> float:
        """The largest change between neighbours over the median one."""
        ordered = sorted(self.steps)
        return ordered[-1] / max(ordered[len(ordered) // 2], 1e-9) if ordered else 1.0


@torch.inference_mode()
def measure_time_sensitivity(subject: Subject) -> Measurement:
    """Show the denoiser one input and tell it one level after another."""
    begin = time.perf_counter()
    title = "Does the denoiser hear the noise level, finely and smoothly?"
    if subject.pipe.denoiser.training_schedule is None:
        # The posterior mean of a finite set is flat wherever one member explains the input.
        return Measurement(
            "TIME", title, DENOISER, skipped="an oracle is right at every level, and hears none"
        )
    found = response(subject)
    return Measurement(
        "TIME",
        title,
        DENOISER,
        (
            Metric(
                "identical_neighbours",
                found.identical,
                "share of neighbouring training steps that give bit-identical outputs",
                Healthy(None, IDENTICAL, "a network is a continuous function of its time"),
            ),
            Metric(
                "change_over_levels",
                found.change,
                "change of the output from the noisiest to the cleanest level, relative",
                Healthy(DEAF, None, "the best answer depends on the level"),
            ),
            Metric(
                "largest_jump",
                found.jump,
                "largest change between neighbouring levels over the median one",
                Healthy(None, JUMP, "smooth embeddings"),
            ),
        ),
        tuple(_suspicions(found, is_as_saved=is_as_saved(subject, Kind.DENOISER))),
        curves=(_curve(found),),
        seconds=time.perf_counter() - begin,
    )


def response(subject: Subject) -> Response:
    """Outputs over a coarse grid of levels, and for pairs of neighbouring training steps."""
    count = affordable(subject, 48, least=8)
    latent = subject.latents[:1]
    z = vp_level(0.0).add_noise(latent, subject.noise(latent, STREAM))
    coarse = _levels(subject, count, offset=0.0)
    outputs = _outputs(subject, z, coarse)
    size = float(outputs.double().square().mean().sqrt().clamp(min=1e-12))
    change = float((outputs[0] - outputs[-1]).double().square().mean().sqrt()) / size
    steps = [float(value) / size for value in outputs.double().diff(dim=0).square().flatten(1).mean(1).sqrt()]
    neighbours = _outputs(subject, z, _levels(subject, count, offset=1.0))
    same = [torch.equal(one, other) for one, other in zip(outputs, neighbours, strict=True)]
    log_snrs = tuple(coarse.log_snr.tolist())
    return Response(log_snrs, sum(same) / len(same), change, tuple(steps))


def _levels(subject: Subject, count: int, *, offset: float) -> NoiseLevel:
    """Levels [count], evenly spaced in whole training steps (of a thousand, for a continuous schedule)."""
    schedule = subject.pipe.denoiser.training_schedule
    assert schedule is not None
    low, high = schedule.time_range
    step = (high - low) / ((schedule.steps or 1001) - 1)
    last = (schedule.steps or 1001) - 2
    index = torch.linspace(0.03 * last, 0.97 * last, count, dtype=torch.float64).round() + offset
    return schedule.level(low + step * index).normalised()


def _outputs(subject: Subject, z: Tensor, levels: NoiseLevel) -> Tensor:
    count = len(levels.alpha)
    condition = {name: value[:1].expand(count, *value.shape[1:]) for name, value in subject.condition.items()}
    inputs = z.expand(count, *z.shape[1:])
    return subject.predict(inputs, levels, condition)


def _suspicions(found: Response, *, is_as_saved: bool) -> Iterator[Suspicion]:
    if found.change < DEAF:
        text = f"the output changes by {found.change:.2%} over the whole range of levels, for the same input"
        strength = min(0.95, 0.95 - 10.0 * found.change)
        if is_as_saved:
            # So young a network has not learned to listen; nothing was broken since.
            fault, text = "has hardly learned to hear the noise level", f"{text}, as when it was saved"
            yield Suspicion(DENOISER, fault, strength, text, is_quality=True)
        else:
            yield Suspicion(DENOISER, "does not hear the noise level", strength, text)
        return
    if found.identical > IDENTICAL:
        text = f"{found.identical:.0%} of neighbouring training steps give bit-identical outputs"
        yield Suspicion(
            DENOISER, "time is rounded before the network sees it", min(0.95, 0.5 + found.identical), text
        )
    if found.jump > JUMP:
        text = f"between two neighbouring levels the output changes {found.jump:.0f} times the median"
        yield Suspicion(DENOISER, "output jumps between neighbouring noise levels", 0.4, text)


def _curve(found: Response) -> Curve:
    points = tuple(zip(found.log_snrs[1:], found.steps, strict=True))
    return Curve(
        "Change of the output from level to level",
        "log-SNR (nats)",
        "relative change",
        {"this denoiser": points},
    )
