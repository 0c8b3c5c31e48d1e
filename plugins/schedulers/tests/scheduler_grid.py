"""Every combination of the options of diffusers' schedulers, each run on both sides.

`python plugins/schedulers/tests/scheduler_grid.py` runs all of them at 1, 3, 13, 50 and 1000 steps, which takes about
an hour; the tests run what fits in seconds.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import diffusers
import ldm_schedulers
import side_by_side
import torch
from diffusers_in_double import double
from torch import Tensor

from ldm_registry.errors import ContractError, SpecError

TRAINING_STEPS: Final = 1000
STEPS: Final = (1, 3, 13, 50, 1000)
TOLERANCE: Final = 1e-5
"""Relative, of every input of the network and of the end."""
TIME_TOLERANCE: Final = 1e-4
"""In training steps."""

Options = dict[str, Any]

TRAINED_BETAS: Final = [0.0002 + 0.015 * (step / 999) ** 1.5 for step in range(TRAINING_STEPS)]
BETAS: Final = [
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
]
TRAINED: Final = [{"trained_betas": TRAINED_BETAS}]
SPACINGS: Final = [
    {"timestep_spacing": spacing, "steps_offset": offset}
    for spacing, offset in itertools.product(["leading", "trailing", "linspace"], [0, 1])
]
RESCALED: Final = [{}, {"rescale_betas_zero_snr": True}]
SIGMAS: Final = [{}, *({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))]
FINALS: Final = [{"final_sigmas_type": final} for final in ("zero", "sigma_min")]
ALPHAS: Final = [{"set_alpha_to_one": to_one} for to_one in (True, False)]
LIMITS: Final = [
    {"clip_sample": False},
    {"clip_sample": True, "clip_sample_range": 0.7},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.4},
]


def predictions(*names: str) -> list[Options]:
    """The axis of what the network puts out."""
    return [{"prediction_type": name} for name in names]


@dataclass(frozen=True)
class Family:
    """One scheduler class, our sampler, and the axes of its options.

    Attributes:
        sampler: Ours.
        axes: Those of which every combination is run.
        more: Those that are varied in the covering subsets beside them.
    """

    sampler: Any
    axes: Sequence[Sequence[Options]]
    more: Sequence[Sequence[Options]] = ()

    @property
    def reference(self) -> Any:
        return getattr(diffusers, self.sampler.diffusers_class)

    def every(self, *, unheeded: bool = False) -> Iterator[Options]:
        """Every combination of `axes`, the first choice of `more`.

        Args:
            unheeded: Also those that differ from another in a `steps_offset` which no spacing but `leading` heeds.
        """
        firsts = [axis[0] for axis in self.more]
        for parts in itertools.product(*self.axes):
            options = merged([*parts, *firsts])
            heeded = options.get("timestep_spacing", "leading") == "leading"
            if heeded or unheeded or options["steps_offset"] == 0:
                yield options

    def covering(self, *, more: bool = True) -> list[Options]:
        """Combinations of which some has each pair of choices of any two axes; with or without those of `more`."""
        axes = [*self.axes, *(self.more if more else [axis[:1] for axis in self.more])]
        return [
            merged([axis[choice] for axis, choice in zip(axes, row, strict=True)]) for row in pairwise(axes)
        ]


def merged(parts: Sequence[Options]) -> Options:
    """One config."""
    return {key: value for part in parts for key, value in part.items()}


def pairwise(axes: Sequence[Sequence[Any]]) -> list[tuple[int, ...]]:
    """Rows of choices in which each pair of choices of any two axes occurs; greedy, the same every time."""
    todo = {
        (one, first, other, second)
        for one, other in itertools.combinations(range(len(axes)), 2)
        for first in range(len(axes[one]))
        for second in range(len(axes[other]))
    }
    rows = []
    while todo:
        one, first, other, second = min(todo)
        row: dict[int, int] = {one: first, other: second}
        for axis in range(len(axes)):
            if axis not in row:
                gains = [
                    sum(
                        ((at, row[at], axis, choice) if at < axis else (axis, choice, at, row[at])) in todo
                        for at in row
                    )
                    for choice in range(len(axes[axis]))
                ]
                row[axis] = gains.index(max(gains))
        rows.append(tuple(row[axis] for axis in range(len(axes))))
        todo -= {
            (one, row[one], other, row[other]) for one, other in itertools.combinations(range(len(axes)), 2)
        }
    return rows


DISCRETE: Final = predictions("epsilon", "sample", "v_prediction")
FAMILIES: Final = {
    "ddpm": Family(
        ldm_schedulers.DDPM,
        [
            DISCRETE,
            [*BETAS, *TRAINED, {"beta_schedule": "sigmoid", "beta_start": 0.0001, "beta_end": 0.02}],
            SPACINGS,
            RESCALED,
        ],
        [
            LIMITS,
            [
                {"variance_type": name}
                for name in (
                    "fixed_small",
                    "fixed_small_log",
                    "fixed_large",
                    "fixed_large_log",
                    "learned",
                    "learned_range",
                )
            ],
        ],
    ),
    "ddim": Family(ldm_schedulers.DDIM, [DISCRETE, [*BETAS, *TRAINED], SPACINGS, RESCALED, ALPHAS], [LIMITS]),
    "pndm": Family(
        ldm_schedulers.PNDM,
        [
            predictions("epsilon", "v_prediction"),
            [*BETAS, *TRAINED],
            SPACINGS,
            ALPHAS,
            [{"skip_prk_steps": skip} for skip in (True, False)],
        ],
    ),
    "euler": Family(
        ldm_schedulers.Euler,
        [DISCRETE, BETAS, SPACINGS, RESCALED, SIGMAS, FINALS],
        [
            [{}, *TRAINED],
            [{}, {"interpolation_type": "log_linear"}],
            [{}, {"sigma_min": 0.04, "sigma_max": 11.0}],
        ],
    ),
    "euler-ancestral": Family(
        ldm_schedulers.EulerAncestral,
        [predictions("epsilon", "v_prediction"), [*BETAS, *TRAINED], SPACINGS, RESCALED],
    ),
    "heun": Family(
        ldm_schedulers.Heun,
        [DISCRETE, BETAS, SPACINGS, SIGMAS],
        [[{}, *TRAINED], [{}, {"clip_sample": True, "clip_sample_range": 0.7}]],
    ),
    "flow-euler": Family(
        ldm_schedulers.FlowEuler,
        [
            [{"shift": 1.0}, {"shift": 3.0}],
            [
                {},
                *(
                    {"use_dynamic_shifting": True, "time_shift_type": kind}
                    for kind in ("exponential", "linear")
                ),
            ],
            [{}, {"shift_terminal": 0.1}],
            SIGMAS,
            [{"stochastic_sampling": stochastic} for stochastic in (False, True)],
            [{"num_train_timesteps": total} for total in (1000, 250)],
        ],
    ),
    "flow-heun": Family(
        ldm_schedulers.FlowHeun,
        [
            [{"shift": 1.0}, {"shift": 3.0}, {"shift": 0.4}],
            [{"num_train_timesteps": total} for total in (1000, 250)],
        ],
    ),
}


class _Stride:
    """A number of steps for which `T // steps` is the stride to the next time that is visited."""

    def __init__(self, times: Sequence[int]) -> None:
        self._strides = [time - following for time, following in itertools.pairwise([*times, -1])]
        self.index = 0

    def __rfloordiv__(self, total: int) -> int:
        return self._strides[self.index]


@dataclass(frozen=True)
class Cell:
    """One config at one number of steps.

    Attributes:
        name: Of our sampler.
        options: The config.
        steps: N.
    """

    name: str
    options: Mapping[str, Any]
    steps: int

    @property
    def spacing(self) -> str:
        default = "leading" if self.name in ("ddpm", "ddim", "pndm") else "linspace"
        return str(self.options.get("timestep_spacing", default))

    @property
    def spaced(self) -> bool:
        return any(self.options.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta"))

    @property
    def times(self) -> list[int]:
        """Whole times that are visited, for the classes that round them."""
        if self.spacing == "linspace":
            gap = (TRAINING_STEPS - 1) / max(self.steps - 1, 1)
            times = [round(index * gap) for index in range(self.steps)][::-1]
            return times if self.steps > 1 else [TRAINING_STEPS - 1]
        if self.spacing == "trailing":
            return [round(TRAINING_STEPS * (1 - index / self.steps)) - 1 for index in range(self.steps)]
        stride = TRAINING_STEPS // self.steps
        return [index * stride + self.options.get("steps_offset", 0) for index in range(self.steps)][::-1]

    @property
    def placed(self) -> bool:
        """Whether the levels lie between two ends that no time has a say in."""
        log_linear = self.options.get("interpolation_type") == "log_linear"
        return log_linear or (self.spaced and "sigma_max" in self.options)

    @property
    def beyond(self) -> bool:
        """Whether diffusers asks for a time that the network was never trained at."""
        if self.name.startswith("flow") or self.placed:
            return False
        return self.spacing == "leading" and self.times[0] > TRAINING_STEPS - 1

    @property
    def rising(self) -> bool:
        """Whether diffusers' stand-in for the last sigma, 4096, lies below the one before it, and both are visited."""
        linear = (
            self.options.get("beta_schedule", "linear") == "linear" and "trained_betas" not in self.options
        )
        finite = self.options.get("rescale_betas_zero_snr") and self.name in ("euler", "euler-ancestral")
        placed = self.spaced or "log_linear" in self.options.values()
        return bool(linear and finite and not placed and self.steps == TRAINING_STEPS)

    @property
    def without_signal(self) -> bool:
        """Whether epsilon is asked for where there is no signal."""
        epsilon = self.options.get("prediction_type", "epsilon") == "epsilon"
        rescaled = self.options.get("rescale_betas_zero_snr", False)
        kept = self.name in ("euler", "euler-ancestral")
        return bool(epsilon and rescaled and not kept and self.times[0] == TRAINING_STEPS - 1)

    @property
    def terminal_of_one(self) -> bool:
        """Whether a single level, which holds no signal, is to be stretched to a terminal one."""
        return self.steps == 1 and bool(self.options.get("shift_terminal"))

    @property
    def runge_kutta(self) -> str:
        """How the first steps of PNDM compare: `same`, or `ours` where diffusers has no such steps."""
        if self.name != "pndm" or self.options["skip_prk_steps"]:
            return "same"
        even = self.spacing == "leading" or (TRAINING_STEPS % self.steps == 0 and self.spacing == "trailing")
        return "same" if self.steps > 3 and TRAINING_STEPS // self.steps % 2 == 0 and even else "ours"


def check(cell: Cell) -> str:
    """Run a cell on both sides and hold them against one another.

    Returns:
        `equal`, `equal to the repaired reference`, `refused` or `ours alone`.

    Raises:
        AssertionError: They differ.
    """
    sampler = FAMILIES[cell.name].sampler
    reading = side_by_side.read(sampler, cell.options)
    learned = learned_of(cell)
    if cell.beyond or cell.terminal_of_one or cell.rising or cell.without_signal:
        try:
            side_by_side.ours(side_by_side.built(sampler, reading, steps=cell.steps), reading)
        except (SpecError, ContractError):
            return "refused"
        raise AssertionError("ours runs")
    scheduler = side_by_side.built(sampler, reading, steps=cell.steps)
    one = side_by_side.ours(scheduler, reading, learned=learned)
    if cell.runge_kutta == "ours":
        assert reading.differences
        assert bool(one.end.isfinite().all())
        return "ours alone"
    other, repaired = _reference(cell, learned)
    distance, apart = one.worst(other)
    assert distance <= TOLERANCE, f"{distance:.1e} apart"
    assert apart <= TIME_TOLERANCE, f"times {apart:.1e} apart"
    assert reading.differences or not repaired, "repaired, and no difference listed"
    return "equal to the repaired reference" if repaired else "equal"


def learned_of(cell: Cell) -> side_by_side.Network | None:
    match cell.options.get("variance_type"):
        case "learned":
            return lambda z, time: 0.01 * torch.sigmoid(side_by_side.variance(z, time))
        case "learned_range":
            return side_by_side.variance
    return None


def _reference(cell: Cell, learned: side_by_side.Network | None) -> tuple[side_by_side.Record, bool]:
    """A run of diffusers, without those of its faults that are listed; and whether it has one here."""
    family = FAMILIES[cell.name]
    options, faults = _repaired(cell)
    arguments: dict[str, Any] = {}
    with double(family.reference):
        spaced = {
            key: options.pop(key) for key in list(options) if cell.name == "heun" and key.startswith("use_")
        }
        reference = family.reference(**options)
        # Heun works out a thousand levels when it is built; spaced ones take a tenth of a second.
        reference.register_to_config(**spaced)
        set_timesteps(reference, cell)
        if cell.name in ("ddim", "pndm") and _uneven(cell):
            faults.append("stride")
            arguments["before"] = _strides(reference, cell)
        net = side_by_side.network
        if cell.name == "pndm" and cell.options["prediction_type"] == "v_prediction" and cell.steps > 1:
            faults.append("blend")
            net = _as_epsilon(reference)
        if cell.name == "ddpm" and cell.times[-1] > 0 and "small" not in options["variance_type"]:
            faults.append("last noise")
            arguments["before"] = _quiet_last(reference)
        try:
            record = side_by_side.theirs(reference, net, learned, **arguments)
        finally:
            # Before `double` puts back what it found: a patch on top of its own would outlive it.
            mock.patch.stopall()
    return record, bool(faults)


def _repaired(cell: Cell) -> tuple[Options, list[str]]:
    options, faults = dict(cell.options), list[str]()
    if options.get("interpolation_type") == "log_linear" and not cell.spaced:
        faults.append("log_linear")
        options |= {"interpolation_type": "log_linear", "use_exponential_sigmas": True}
        options.pop("sigma_min", None)
        options.pop("sigma_max", None)
    if not cell.name.startswith("flow") and cell.spacing == "linspace" and cell.steps == 1:
        faults.append("one step")
        options["timestep_spacing"] = "trailing"
    if options.get("variance_type") == "fixed_large_log":
        faults.append("log of large")
        options["variance_type"] = "fixed_large"
    return options, faults


def set_timesteps(reference: Any, cell: Cell) -> None:
    """Set the timesteps, for the number of tokens that ours was built with."""
    shift = {}
    if cell.options.get("use_dynamic_shifting"):
        config = reference.config
        rise, run = config.max_shift - config.base_shift, config.max_image_seq_len - config.base_image_seq_len
        shift["mu"] = config.base_shift + rise / run * (side_by_side.TOKENS - config.base_image_seq_len)
    reference.set_timesteps(cell.steps, **shift)


def _uneven(cell: Cell) -> bool:
    times = cell.times
    stride = TRAINING_STEPS // cell.steps
    even = all(time - following == stride for time, following in itertools.pairwise(times))
    return not (even and times[-1] - stride < 0)


def _strides(reference: Any, cell: Cell) -> Any:
    stride = _Stride(cell.times)
    reference.num_inference_steps = stride

    def before(index: int) -> None:
        # PNDM asks twice at its second time: the second call belongs to the first step.
        late = 1 if cell.name == "pndm" and index > 0 else 0
        stride.index = index - late

    return before


def _as_epsilon(reference: Any) -> side_by_side.Network:
    """The network with each v turned into the noise that it stands for."""
    bars = reference.alphas_cumprod
    reference.register_to_config(prediction_type="epsilon")

    def epsilon(z: Tensor, time: float) -> Tensor:
        bar = bars[int(time)]
        return bar.sqrt() * side_by_side.network(z, time) + (1 - bar).sqrt() * z

    return epsilon


def _quiet_last(reference: Any) -> Any:
    last = len(reference.timesteps) - 1

    def before(index: int) -> None:
        if index == last:
            module = sys.modules[type(reference).__module__]
            mock.patch.object(module, "randn_tensor", lambda shape, **_: torch.zeros(shape)).start()

    return before


def run(cells: Sequence[Cell]) -> Counter[str]:
    """Check cells and count the outcomes.

    Raises:
        AssertionError: Some cells differ; names them.
    """
    outcomes, failures = Counter[str](), list[str]()
    for cell in cells:
        try:
            outcomes[check(cell)] += 1
        except Exception as error:
            options = {key: value for key, value in cell.options.items() if key != "trained_betas"}
            failures.append(f"{cell.name} {options} {cell.steps}: {type(error).__name__}: {error}")
    assert not failures, f"{len(failures)} of {len(cells)} cells differ:\n" + "\n".join(failures[:40])
    return outcomes


def every(name: str, steps: Sequence[int], *, unheeded: bool = False) -> list[Cell]:
    """Every combination of a family at some numbers of steps."""
    combinations = FAMILIES[name].every(unheeded=unheeded)
    return [Cell(name, options, number) for options in combinations for number in steps]


def covering(name: str, steps: Sequence[int], *, more: bool = True) -> list[Cell]:
    """The pairwise-covering subset of a family at some numbers of steps."""
    rows = FAMILIES[name].covering(more=more)
    return [Cell(name, options, number) for options in rows for number in steps]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, family in itertools.product(STEPS, FAMILIES):
        began = time.monotonic()
        chosen = [*every(family, [number], unheeded=True), *covering(family, [number])]
        print(family, number, dict(run(chosen)), f"{time.monotonic() - began:.0f} s", flush=True)
