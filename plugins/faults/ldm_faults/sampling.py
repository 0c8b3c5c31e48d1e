"""Faults of samplers: what is clipped, which level comes next, what is left over.

Those that change the step itself put a loop of their own in place of the sampler's: DDIM's, with the bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from ldm_faults.fault import Fault, around
from ldm_registry.interfaces import Component, Denoise, Denoised, NoiseLevel, NoiseLevels, Scheduler, Step
from ldm_registry.prediction import to_epsilon
from ldm_registry.vocabulary import Kind

_LARGEST_SHORTFALL = 0.25
_SIGMA_MAX = 14.6
_LARGEST_LEFT_SIGMA = 0.12
_LAST_RUN = "last_clean_estimate"
Advance = Callable[[NoiseLevels, int, Tensor, Tensor], Tensor]


@final
class ClippedX0(Fault):
    """F57: the clean estimate is clipped to [-1, 1], as for pixels, although latents reach further.

    Met as washed-out images with artefacts (`clip_sample: true` is the default of the class). The limit is
    `1 / strength`. In pixel space, where it is right to clip, there is hardly an effect.
    """

    name = "clipped-x0"
    fault_id = "F57"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("clipped",)
    fault_class = "clipped clean estimate"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        limit = 1.0 / self.strength

        def trajectory(
            part: Component, original: Any, denoise: Denoise, z: Tensor, generator: Any = None
        ) -> Any:
            def clipped(z: Tensor, level: NoiseLevel) -> Denoised:
                answer = denoise(z, level)
                return Denoised(answer.x0.clamp(-limit, limit), answer.variance)

            return original(clipped, z, generator)

        around(part, "trajectory", trajectory)


@final
class UniformStride(Fault):
    """F58: the level that a step leads to is found by a uniform stride, not taken from the list of levels.

    Met as under-denoised images of the wrong contrast (DDIM with `linspace`, and with `trailing` where the steps do
    not divide evenly). With N evenly spaced times the stride is short by about 1 / N of a step, so every step but
    the last stops too early. Short by a quarter of a step, as with 4 steps, at strength 1.
    """

    name = "uniform-stride"
    fault_id = "F58"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("do not land on their levels", "told another level")
    fault_class = "level after a step"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        short = _LARGEST_SHORTFALL * self.strength

        def advance(levels: NoiseLevels, index: int, x0: Tensor, epsilon: Tensor) -> Tensor:
            here, there = levels[index], levels[index + 1]
            if index == len(levels) - 2:
                return there.add_noise(x0, epsilon)
            return _between(there, here, short).add_noise(x0, epsilon)

        _replace_loop(part, advance)


@final
class LeftoverNoise(Fault):
    """F60: sampling ends at the cleanest level of the schedule and takes it for clean.

    Met as residual grain and smudges (`set_alpha_to_one: false`, and a parallel pipeline that forgot it). The sigma
    that is left is 0.12 times strength; at a quarter that is the 0.03 of Stable Diffusion's schedule.
    """

    name = "leftover-noise"
    fault_id = "F60"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("residual noise", "before the noise is gone")
    fault_class = "noise left at the end"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        sigma = _LARGEST_LEFT_SIGMA * self.strength
        end = NoiseLevel.of(math.sqrt(1.0 - sigma**2), sigma)

        def advance(levels: NoiseLevels, index: int, x0: Tensor, epsilon: Tensor) -> Tensor:
            level = end if index == len(levels) - 2 else levels[index + 1]
            return level.add_noise(x0, epsilon)

        _replace_loop(part, advance)


@final
class UnscaledPrior(Fault):
    """F63: the initial noise is not multiplied by `init_noise_sigma`.

    Met as pure noise or mush (ports of samplers that work in units of sigma). The noise that sampling starts from
    is too small by `14.6 ** strength`, 14.6 being the largest sigma of Stable Diffusion.
    """

    name = "unscaled-prior"
    fault_id = "F63"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("initial noise",)
    fault_class = "scale of the initial noise"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        ratio = _SIGMA_MAX**self.strength

        def levels(part: Component, original: Any) -> NoiseLevels:
            right: NoiseLevels = original()
            std = float(right[0].std) if right.prior_std is None else right.prior_std
            return replace(right, prior_std=std / ratio)

        around(part, "levels", levels)


@final
class HistoryNotReset(Fault):
    """F68: the history of a multistep sampler outlives the run, so the next run extrapolates from its estimates.

    Met as a second image that differs from the first, or a crash (samplers kept between requests). The first run is
    right. In the next ones, the first half of the steps times strength extrapolates from the last estimate of
    the run before.
    """

    name = "history-not-reset"
    fault_id = "F68"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("history", "from one run to the next", "not repeatable")
    fault_class = "state that outlives a run"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        assert isinstance(part, Scheduler)
        affected = math.ceil(0.5 * self.strength * (len(part.levels()) - 1))

        def trajectory(
            part: Component, original: Any, denoise: Denoise, z: Tensor, generator: Any = None
        ) -> Any:
            before: Tensor | None = part.__dict__.get(_LAST_RUN)
            calls = 0

            def extrapolated(z: Tensor, level: NoiseLevel) -> Denoised:
                nonlocal calls
                answer, calls = denoise(z, level), calls + 1
                if before is None or before.shape[1:] != z.shape[1:] or calls > affected:
                    return answer
                return Denoised(answer.x0 + 0.5 * (answer.x0 - before[:1].to(answer.x0)), answer.variance)

            for step in original(extrapolated, z, generator):
                part.__dict__[_LAST_RUN] = step.x0.detach()
                yield step

        around(part, "trajectory", trajectory)


@final
class BrokenLoop(Fault):
    """F72: the loop is wrong although each clean estimate in it is right: noise is put back at the old level.

    Met as noise from networks whose one-step estimates are good (from-scratch implementations). The sigma of the
    next state goes from the one of the next level to the one of this level with strength.
    """

    name = "broken-loop"
    fault_id = "F72"
    modifies = stages = (Kind.SCHEDULER,)
    words = ("do not land on their levels", "wrong amount of noise", "residual noise")
    fault_class = "step of the sampler"

    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        strength = self.strength

        def advance(levels: NoiseLevels, index: int, x0: Tensor, epsilon: Tensor) -> Tensor:
            here, there = levels[index], levels[index + 1]
            sigma = torch.lerp(there.sigma, here.sigma, strength)
            return NoiseLevel(there.alpha, sigma).add_noise(x0, epsilon)

        _replace_loop(part, advance)


def _replace_loop(part: Component, advance: Advance) -> None:
    """Put DDIM's loop in place of the sampler's own, with another rule for the next state.

    Args:
        part: A scheduler.
        advance: From the levels, the index of the step, the clean estimate and the noise to the next state.
    """

    def trajectory(
        part: Component, _original: Any, denoise: Denoise, z: Tensor, generator: Any = None
    ) -> Iterator[Step]:
        assert isinstance(part, Scheduler)
        levels = part.levels()
        for index in range(len(levels) - 1):
            x0 = denoise(z, levels[index]).x0.to(z.dtype)
            z = advance(levels, index, x0, to_epsilon(x0, z, levels[index]))
            yield Step(index, levels[index + 1], z, x0)

    around(part, "trajectory", trajectory)


def _between(one: NoiseLevel, other: NoiseLevel, weight: float) -> NoiseLevel:
    """A level on the way from one to another; on the circle, where both are variance preserving."""
    alpha, sigma = torch.lerp(one.alpha, other.alpha, weight), torch.lerp(one.sigma, other.sigma, weight)
    level = NoiseLevel(alpha, sigma)
    on_circle = max(abs(float(one.std) - 1.0), abs(float(other.std) - 1.0)) < 1e-6
    return level.normalised() if on_circle else level
