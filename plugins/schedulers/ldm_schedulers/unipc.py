"""UniPC: a predictor of any order, and a corrector that uses the next call of the network twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Denoise, Generators, NoiseLevels, NoiseSchedule, Scheduler, Step, Trained
from ldm_registry.prediction import to_epsilon
from ldm_registry.vocabulary import Prediction
from ldm_schedulers import multistep_spacing
from ldm_schedulers.diffusers import unipc
from ldm_schedulers.estimate import at_least_float32, estimate
from ldm_schedulers.exponential import Combination, Stride, finite_before, moments, strides
from ldm_schedulers.multistep_spacing import MultistepConfig
from ldm_schedulers.tables import DOUBLE


class UniPCConfig(MultistepConfig):
    """UniPC over whole training steps; 50 by default, and 10 to 20 are often enough."""

    solver_order: int = Field(
        default=2,
        ge=1,
        le=9,
        description="p, estimates that the predictor extrapolates; the corrector gains one order",
    )
    solver_type: Literal["bh1", "bh2"] = Field(
        default="bh2",
        description="B(h) of the terms of lowest order: h, or exp(h) - 1; of no account from order 3 on",
    )
    predict_x0: bool = Field(default=True, description="extrapolate the clean estimate, or the noise")
    lower_order_final: bool = Field(
        default=True, description="take the last steps with orders that fall to 1"
    )
    disable_corrector: tuple[int, ...] = Field(
        default=(), description="indices of the steps, from 0, whose result is not corrected"
    )


@final
class UniPC(Scheduler):
    """UniPC-p in the B(h) form (Algorithms 1 and 2, Zhao et al. 2023). Order p + 1 with the corrector.

    The network is asked at the predicted state, and the answer serves the correction of that state and the next
    prediction. `Step.z` is the predicted state.

    A step of infinite length, from a level without signal or to one without noise, is always taken in the data form
    with order 1 and is not corrected.
    """

    name = "unipc"
    diffusers_class = "UniPCMultistepScheduler"
    Config = UniPCConfig
    config: UniPCConfig
    stochastic = False

    def __init__(self, config: UniPCConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self._levels = multistep_spacing.levels(config, schedule, tokens)
        steps = strides(self._levels)
        lengths = [step.length for step in steps]
        orders = [_order(config, lengths, index) for index in range(len(steps))]
        self._predictions = [
            _combination(config, step, _nodes(lengths, index, order))
            for index, (step, order) in enumerate(zip(steps, orders, strict=True))
        ]
        self._corrections = [
            _combination(config, step, [1.0, *_nodes(lengths, index, order)])
            if 0.0 < step.length < math.inf and index not in config.disable_corrector
            else None
            for index, (step, order) in enumerate(zip(steps, orders, strict=True))
        ]

    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""
        return self._levels

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data, one call of `denoise` a step; see `Scheduler.trajectory`."""
        z = before = at_least_float32(z)
        history = list[Tensor]()
        for index, prediction in enumerate(self._predictions):
            level = self._levels[index]
            x0 = estimate(denoise, z, level, self.config).x0
            newest = x0 if self.config.predict_x0 else to_epsilon(x0, z, level)
            correction = self._corrections[index - 1] if index > 0 else None
            if correction is not None:
                z = correction.applied(before, [newest, *history])
            history = [newest, *history[: self.config.solver_order - 1]]
            before = z
            z = prediction.applied(z, history if prediction.of_noise else [x0, *history[1:]])
            yield Step(index, self._levels[index + 1], z, x0)

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says; see `ForeignScheduler.from_diffusers`."""
        return unipc.read_config(values)

    def to_diffusers(
        self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config of the same steps; see `ForeignScheduler.to_diffusers`."""
        trained = Trained(prediction, schedule, time_scale)
        return unipc.write_config(self.config, len(self._levels) - 1, trained)


def _order(config: UniPCConfig, lengths: list[float], index: int) -> int:
    """What order a step is predicted with, and its result corrected."""
    if not 0.0 < lengths[index] < math.inf:
        return 1
    order = min(config.solver_order, 1 + finite_before(lengths, index))
    return min(order, len(lengths) - index) if config.lower_order_final else order


def _nodes(lengths: list[float], index: int, order: int) -> list[float]:
    """Where the older estimates lie, in lengths of the step from its start: below 0, newest first."""
    distances = [math.fsum(lengths[index - back : index]) for back in range(1, order)]
    return [-distance / lengths[index] for distance in distances]


def _combination(config: UniPCConfig, step: Stride, nodes: list[float]) -> Combination:
    """A prediction, or with a first node of 1 a correction, as numbers (Eq. 5 and 9, Zhao et al. 2023).

    The weights are those of the estimates at the nodes and at the start of the step: newest first, so that a
    correction reads the estimate at the end, that at the start, and the older ones.
    """
    h = step.length
    of_noise = not config.predict_x0 and not math.isinf(h)
    signed, scale = (-h, step.next_sigma) if of_noise else (h, step.next_alpha)
    gain = step.next_alpha / step.alpha if of_noise else step.next_sigma / step.sigma
    integrals = moments(signed, len(nodes) + 1)
    slopes = _slopes(config, signed, nodes, integrals)
    shares = [slope / node for slope, node in zip(slopes, nodes, strict=True)]
    start = integrals[0] - math.fsum(shares)
    at = 1 if nodes and nodes[0] == 1.0 else 0
    weights = [*shares[:at], start, *shares[at:]]
    return Combination(gain, tuple(scale * weight for weight in weights), of_noise)


def _slopes(config: UniPCConfig, signed: float, nodes: list[float], integrals: list[float]) -> list[float]:
    """Weights of the slopes from the start of the step to each node.

    With one node the paper takes 1/2 for what would solve the equation, which is as good to the order that it
    claims, and only there B(h) shows.
    """
    if len(nodes) == 1:
        return [0.5 * (signed if config.solver_type == "bh1" else integrals[0])]
    if not nodes:
        return []
    powers = torch.tensor([[node**power for node in nodes] for power in range(len(nodes))], **DOUBLE)
    solved: list[float] = torch.linalg.solve(powers, torch.tensor(integrals[1:], **DOUBLE)).tolist()
    return solved
