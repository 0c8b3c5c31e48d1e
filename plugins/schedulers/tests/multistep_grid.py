"""The options of diffusers' multistep schedulers and of EDM's Euler, combined, each run on both sides.

`python plugins/schedulers/tests/multistep_grid.py` runs every combination, which takes about an hour; the tests run
what fits in seconds.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from multistep_parity import compare

TRAINING_STEPS: Final = 1000
TOLERANCE: Final = 1e-5
"""Relative, of the state after every step."""
TIME_TOLERANCE: Final = 1e-4
"""In training steps."""

Options = dict[str, Any]
DPM: Final = "DPMSolverMultistepScheduler"
UNIPC: Final = "UniPCMultistepScheduler"
LMS: Final = "LMSDiscreteScheduler"
EDM: Final = "EDMEulerScheduler"
CLASSES: Final = (DPM, UNIPC, LMS, EDM)

BETAS: Final[list[Options]] = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.0002 + 0.015 * (step / 999) ** 1.5 for step in range(TRAINING_STEPS)]},
]
SPACINGS: Final[list[Options]] = [
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
]
RESCALED: Final[list[Options]] = [{}, {"rescale_betas_zero_snr": True}]
FINALS: Final[list[Options]] = [{}, {"final_sigmas_type": "sigma_min"}]
PREDICTED: Final[list[Options]] = [
    {"prediction_type": name} for name in ("epsilon", "sample", "v_prediction", "flow_prediction")
]
SIGMAS: Final[list[Options]] = [
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
]
FLOWS: Final[list[Options]] = [
    {"use_flow_sigmas": True},
    {"use_flow_sigmas": True, "flow_shift": 3.0},
    {"use_flow_sigmas": True, "use_dynamic_shifting": True},
]
LIMITS: Final[list[Options]] = [
    {},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.4},
]
NAMED: Final[dict[str, list[list[Options]]]] = {
    DPM: [
        PREDICTED,
        BETAS,
        SPACINGS,
        RESCALED,
        [*SIGMAS, {"use_lu_lambdas": True}, {"lambda_min_clipped": -5.1}, *FLOWS],
        FINALS,
    ],
    UNIPC: [
        PREDICTED,
        BETAS,
        SPACINGS,
        RESCALED,
        [
            *SIGMAS,
            {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 9.0},
            *FLOWS,
            {"use_flow_sigmas": True, "flow_shift": 2.0, "shift_terminal": 0.05},
            {"use_flow_sigmas": True, "use_dynamic_shifting": True, "time_shift_type": "linear"},
            {"use_flow_sigmas": True, "use_karras_sigmas": True},
        ],
        FINALS,
    ],
    LMS: [PREDICTED[:3], BETAS, SPACINGS, SIGMAS],
    EDM: [
        [{}, {"prediction_type": "v_prediction"}],
        [{"sigma_schedule": "exponential"}, {}, {"rho": 5.0}],
        [{}, {"sigma_data": 1.0}, {"sigma_min": 0.01, "sigma_max": 40.0}],
        FINALS,
    ],
}
"""The options of which every combination is compared."""

SOLVERS: Final[dict[str, list[list[Options]]]] = {
    DPM: [
        [
            {"algorithm_type": name}
            for name in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
        ],
        [{"solver_order": order} for order in (2, 3, 1)],
        [{"solver_type": kind} for kind in ("midpoint", "heun")],
        [{}, {"lower_order_final": False}],
        [{}, {"euler_at_final": True}],
        LIMITS,
    ],
    UNIPC: [
        [{"solver_order": order} for order in (2, 3, 1)],
        [{"predict_x0": True}, {"predict_x0": False}],
        [{"solver_type": kind} for kind in ("bh2", "bh1")],
        [{}, {"lower_order_final": False}],
        [{}, {"disable_corrector": [0, 2]}],
        LIMITS,
    ],
    LMS: [[{}]],
    EDM: [[{}]],
}
"""The options of the solvers, which are taken in turns over the combinations of the others."""


def merged(parts: Sequence[Mapping[str, Any]]) -> Options:
    return {key: value for part in parts for key, value in part.items()}


def product(axes: Sequence[Sequence[Options]]) -> list[Options]:
    return [merged(parts) for parts in itertools.product(*axes)]


def sensible(name: str, values: Mapping[str, Any]) -> bool:
    """Whether both sides take the config at all."""
    flow, predicted = values.get("use_flow_sigmas"), values.get("prediction_type")
    noise = "dpmsolver++" not in values.get("algorithm_type", "dpmsolver++") or not values.get(
        "predict_x0", True
    )
    checks = [
        bool(flow) == (predicted == "flow_prediction") or (flow and predicted in ("epsilon", "sample")),
        not (noise and predicted == "flow_prediction"),
        not (name == DPM and noise and values.get("final_sigmas_type", "zero") == "zero"),
        not (name == UNIPC and noise and values.get("thresholding")),
    ]
    return all(checks)


def named(name: str) -> Iterator[Options]:
    """Every combination of the named options that diffusers tells apart.

    Where sigma is spaced by itself DPM-Solver and UniPC read no spacing of times, and in a flow no rescaling; the
    covering subsets vary those all the same.
    """
    for values in product(NAMED[name]):
        flow = bool(values.get("use_flow_sigmas"))
        placed = name in (DPM, UNIPC) and (flow or is_spaced(values))
        unread = placed and values["timestep_spacing"] != "linspace"
        if not unread and not (flow and values.get("rescale_betas_zero_snr")):
            yield values


def cases(name: str, turn: int = 0) -> Iterator[Options]:
    """Every combination of the named options, each with the solver's options of its turn."""
    solvers = product(SOLVERS[name])
    at = 29 * turn
    for values in named(name):
        # A stride that shares no factor with their number, so that turns do not follow the axes.
        at += 5
        turns = ({**values, **solvers[(at + 7 * later) % len(solvers)]} for later in range(len(solvers)))
        fitting = next((case for case in turns if sensible(name, case)), None)
        if fitting is not None:
            yield fitting


def covering(name: str) -> list[Options]:
    """A subset in which every two values of two axes meet, where both sides take them."""
    axes = [*NAMED[name], *SOLVERS[name]]
    wanted = {
        ((one, i), (other, j))
        for one, other in itertools.combinations(range(len(axes)), 2)
        for i in range(len(axes[one]))
        for j in range(len(axes[other]))
    }
    chosen: list[Options] = []
    generator = torch.Generator().manual_seed(0)
    misses = 0
    while wanted and misses < 60:
        best, gained = None, set[Any]()
        for _ in range(60):
            picks = [int(torch.randint(len(axis), (), generator=generator)) for axis in axes]
            values = merged([axis[pick] for axis, pick in zip(axes, picks, strict=True)])
            if not sensible(name, values):
                continue
            pairs = set(itertools.combinations(enumerate(picks), 2)) & wanted
            if len(pairs) > len(gained):
                best, gained = values, pairs
        if best is None:
            misses += 1
            continue
        chosen.append(best)
        wanted -= gained
    return chosen


def excused(name: str, values: Mapping[str, Any], steps: int) -> str | None:
    """Why the two sides are not compared: what diffusers gets wrong, each measured or explained in docs/interop.md."""
    spaced = is_spaced(values)
    flow, spacing = values.get("use_flow_sigmas"), values.get("timestep_spacing", "linspace")
    final, order = values.get("final_sigmas_type", "zero"), values.get("solver_order", 2)
    every = steps == TRAINING_STEPS and name in (DPM, UNIPC) and not spaced and not flow
    linear = values.get("beta_schedule") == "linear" and "trained_betas" not in values
    faults = [
        (every and spacing in ("linspace", "leading"), "every step"),
        (
            every and linear and values.get("rescale_betas_zero_snr") and spacing == "trailing",
            "noise rises",
        ),
        (
            name == DPM and values.get("algorithm_type") == "sde-dpmsolver" and order == 3 and steps > 2,
            "no third order",
        ),
        (name == UNIPC and values.get("shift_terminal") and steps == 1, "no stretch"),
        (name == DPM and values.get("lambda_min_clipped") and steps == TRAINING_STEPS, "every step"),
        (name == LMS and spacing == "linspace" and steps == 1, "one step"),
        (name == EDM and steps == 1 and (final == "sigma_min" or "sigma_schedule" in values), "one step"),
        (
            name == LMS and spacing == "leading" and "steps_offset" in values and steps == TRAINING_STEPS,
            "beyond the end",
        ),
    ]
    return next((reason for wrong, reason in faults if wrong), None)


def fails_at_the_end(name: str, values: Mapping[str, Any], steps: int) -> bool:
    """Whether the last step of diffusers, and no other, is wrong: not finite, or one that stays where it is."""
    spaced, final = is_spaced(values), values.get("final_sigmas_type", "zero")
    order, lowered = values.get("solver_order", 2), values.get("lower_order_final", True)
    if name == DPM:
        high = order == 3 or (order == 2 and values.get("solver_type") == "heun")
        first = steps == 1 or (lowered and steps < 15) or values.get("euler_at_final")
        noisy = values.get("algorithm_type", "").startswith("sde")
        if values.get("use_flow_sigmas"):
            return final == "sigma_min" and steps >= 50
        return spaced and final == "sigma_min" and ((high and not first) or (noisy and steps > 1))
    if name != UNIPC:
        return False
    if final == "zero":
        faults = [
            not values.get("predict_x0", True),
            values.get("solver_type") == "bh1",
            not lowered and order > 1,
        ]
    else:
        flow = values.get("use_flow_sigmas") and not spaced
        # As many trailing times as there are end at the cleanest level too.
        ends_there = spaced or (values.get("timestep_spacing") == "trailing" and steps == TRAINING_STEPS)
        faults = [flow, ends_there and (steps == 1 or (not lowered and order > 1))]
    return any(faults)


def is_spaced(values: Mapping[str, Any]) -> bool:
    """Whether sigma itself is spaced."""
    names = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
    return any(values.get(f"use_{name}") for name in names)


def checked(name: str, values: Mapping[str, Any], steps: int) -> tuple[str, float, float]:
    """Compare one case.

    Returns:
        What it was counted as, the deviation of the states, and that of the times.

    Raises:
        AssertionError: The two sides differ.
    """
    reason = excused(name, values, steps)
    if reason is not None:
        return reason, 0.0, 0.0
    retimed = name in (DPM, UNIPC) and (is_spaced(values) or bool(values.get("use_flow_sigmas")))
    last = not fails_at_the_end(name, values, steps)
    outcome = compare(name, values, steps, own_times=not retimed, last=last)
    assert outcome.deviation <= TOLERANCE, outcome
    assert outcome.start <= TOLERANCE, outcome
    assert outcome.time <= (1.0 + TIME_TOLERANCE if retimed else TIME_TOLERANCE), outcome
    what = ("times of its own" if retimed else "equal") + ("" if last else ", but for the last step")
    return what, outcome.deviation, 0.0 if retimed else outcome.time


def swept(jobs: Iterator[tuple[str, Options, int]]) -> tuple[Counter[str], float, float, list[str]]:
    """Compare many cases: how many were what, the worst deviations, and what failed."""
    counts, worst, late, failed = Counter[str](), 0.0, 0.0, list[str]()
    for name, values, steps in jobs:
        try:
            what, deviation, moved = checked(name, values, steps)
        except Exception as error:
            shown = {key: value for key, value in values.items() if key != "trained_betas"}
            failed.append(f"{name} {steps} {shown}: {type(error).__name__} {error}"[:600])
            continue
        counts[what] += 1
        worst, late = max(worst, deviation), max(late, moved)
    return counts, worst, late, failed


def every_combination() -> Iterator[tuple[str, Iterator[tuple[str, Options, int]]]]:
    """Parts of it, by name: the named options in full, with the solver's options in turns; all of the solver's options
    over one config of each kind of levels; and the named options at as many steps as there are."""
    few = (1, 3, 13, 50)
    for name in CLASSES:
        for turn in range(4 if len(product(SOLVERS[name])) > 1 else 1):
            jobs = ((name, case, steps) for case in cases(name, turn) for steps in few)
            yield f"{name}, turn {turn}", jobs
    kinds = [{**SPACINGS[3], **PREDICTED[2]}, {**SIGMAS[1], **FINALS[1]}, {**FLOWS[1], **PREDICTED[3]}]
    for name in (DPM, UNIPC):
        solved = ({**case, **solver} for case, solver in itertools.product(kinds, product(SOLVERS[name])))
        jobs = ((name, case, steps) for case in solved if sensible(name, case) for steps in few)
        yield f"{name}, every solver", jobs
    for name in CLASSES:
        yield f"{name}, {TRAINING_STEPS} steps", ((name, case, TRAINING_STEPS) for case in cases(name))


def main() -> int:
    """Run all of it and report part by part; 1 where anything differs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wrong = 0
    for part, jobs in every_combination():
        began = time.time()
        counts, worst, late, failed = swept(jobs)
        print(f"{part}: {sum(counts.values())} cases in {time.time() - began:.0f} s, {dict(counts)}")
        print(f"  worst deviation {worst:.2e}, worst time {late:.2e}, {len(failed)} failed")
        print("".join(f"  {line}\n" for line in failed[:50]), end="", flush=True)
        wrong += len(failed)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
