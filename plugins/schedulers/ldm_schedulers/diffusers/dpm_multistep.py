"""DPMSolverMultistepScheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from ldm_registry.errors import SpecError
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, multistep, predictions, spacings

if TYPE_CHECKING:
    from ldm_schedulers.dpm_multistep import DPMMultistepConfig

NAME: Final = "DPMSolverMultistepScheduler"

THIRD_ORDER_SDE: Final = (
    "solver_order 3 with sde-dpmsolver++: diffusers gives the second difference a weight of the wrong sign, which does "
    "not vanish with the step and makes it first order; ours has the weight that goes with the other forms"
)
THIRD_ORDER_NOISE: Final = "solver_order 3 with sde-dpmsolver: diffusers has none and fails; ours has"
REPEATED_END: Final = (
    "{} that ends at the level it has come to (final_sigmas_type sigma_min with a sigma spacing): diffusers divides "
    "0 by 0, or takes the root of a rounding error; ours stays there"
)

RISING_END: Final = (
    "final_sigmas_type sigma_min with use_flow_sigmas: diffusers ends at sigma of the first beta, which adds noise "
    "where the last step starts below it; ours stays there"
)
_OTHERS_SOLVERS: Final = ("logrho", "bh1", "bh2")
"""Values of `solver_type` of sibling classes, which diffusers takes for its default."""


class DPMKeys(multistep.MultistepKeys):
    """The keys of the class and their defaults."""

    solver_order: int = Field(default=2, ge=1, le=3)
    algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    lambda_min_clipped: Annotated[float, Field(allow_inf_nan=True)] = -math.inf
    variance_type: Literal["learned", "learned_range"] | None = None
    time_shift_type: Literal["exponential"] = "exponential"

    @field_validator("algorithm_type", mode="before")
    @classmethod
    def _known_algorithm(cls, value: Any) -> Any:
        return "dpmsolver++" if value == "deis" else value

    @field_validator("solver_type", mode="before")
    @classmethod
    def _known_solver(cls, value: Any) -> Any:
        return "midpoint" if value in _OTHERS_SOLVERS else value

    def problems(self) -> list[str]:
        """What contradicts itself; diffusers fails over it, or makes noise."""
        spaced = [key for key in (*keys.SigmaKeys.model_fields, "use_lu_lambdas") if getattr(self, key)]
        noise = not self.algorithm_type.endswith("++")
        checks = [
            (len(spaced) > 1, f"{' and '.join(spaced)} exclude one another"),
            (
                bool(spaced) and bool(self.use_flow_sigmas),
                f"{' and '.join(spaced)} with use_flow_sigmas: diffusers takes sigma / alpha for the noise fraction of "
                "a flow; expected one of them",
            ),
            (
                noise and self.final_sigmas_type == "zero",
                f"algorithm_type {self.algorithm_type} with final_sigmas_type zero: diffusers refuses it; expected "
                "sigma_min",
            ),
            (
                noise and self.prediction_type == "flow_prediction",
                f"algorithm_type {self.algorithm_type} with flow_prediction: diffusers has no such step; expected "
                "dpmsolver++ or sde-dpmsolver++",
            ),
        ]
        return [*super().problems(), *(text for wrong, text in checks if wrong)]


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(DPMKeys, NAME, values)
    if problems := said.problems():
        raise SpecError(f"the scheduler config of {NAME} asks for what is not built", problems)
    config = {
        **(_flow(said) if said.use_flow_sigmas else _table(said)),
        **multistep.limits_of(said),
        "algorithm_type": said.algorithm_type,
        "solver_order": said.solver_order,
        "solver_type": said.solver_type,
        "lower_order_final": said.lower_order_final,
        "euler_at_final": said.euler_at_final,
    }
    return SchedulerReading(
        config=config,
        **multistep.trained_of(said),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=_differences(said),
    )


def _spaced(said: DPMKeys) -> dict[str, Any]:
    # Lu's spacing of lambda has rho 1 in diffusers, which is geometric in sigma / alpha.
    return {"sigma_spacing": "exponential"} if said.use_lu_lambdas else spacings.sigma_spacing_of(said)


def _table(said: DPMKeys) -> dict[str, Any]:
    """The levels over a schedule of steps. Where sigma is spaced, diffusers heeds no lambda_min_clipped."""
    final = {"final": said.final_sigmas_type}
    if spaced := _spaced(said):
        return {**spaced, **final}
    clipped = said.lambda_min_clipped
    limit = {} if math.isinf(clipped) else {"lambda_min_clipped": clipped}
    return {**spacings.spacing_of(said), **limit, **final}


def _flow(said: DPMKeys) -> dict[str, Any]:
    """Evenly spaced from time (T - 1) / T, shifted; the start is noise of unit variance all the same."""
    levels = {"spacing": "trailing", "sigma_max": said.num_train_timesteps - 1.0, "prior_std": 1.0}
    if said.final_sigmas_type == "sigma_min":
        # diffusers takes sigma / alpha of the first beta for a noise fraction.
        low = multistep.table_ends(said)[0]
        levels["final_ratio"] = low / (1.0 - low)
    return {**levels, **multistep.shift_of(said)}


def _differences(said: DPMKeys) -> tuple[str, ...]:
    spaced = [key for key in (*keys.SigmaKeys.model_fields, "use_lu_lambdas") if getattr(said, key)]
    moved = spaced or (["use_flow_sigmas"] if said.use_flow_sigmas else [])
    third = said.solver_order == 3
    stays = bool(spaced) and said.final_sigmas_type == "sigma_min"
    fragile = [
        (said.algorithm_type.startswith("sde"), f"algorithm_type {said.algorithm_type}"),
        (third, "solver_order 3"),
        (said.solver_order == 2 and said.solver_type == "heun", "solver_type heun"),
    ]
    ends = [REPEATED_END.format(what) for applies, what in fragile if applies and stays]
    thirds = {"sde-dpmsolver++": (THIRD_ORDER_SDE,), "sde-dpmsolver": (THIRD_ORDER_NOISE,)}
    return (
        *((multistep.WHOLE_TIMES.format(moved[0]),) if moved else ()),
        *(thirds.get(said.algorithm_type, ()) if third else ()),
        *ends[:1],
        *((RISING_END,) if said.use_flow_sigmas and said.final_sigmas_type == "sigma_min" else ()),
        *(() if moved else (*multistep.every_step(said), *_trailing(said))),
    )


def _trailing(said: DPMKeys) -> tuple[str, ...]:
    return (spacings.TRAILING_COUNT,) if said.timestep_spacing == "trailing" else ()


def write_config(config: DPMMultistepConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    placed = ("spacing", "steps_offset", "sigma_spacing", "sigma_ends", "sigma_max", "shift", "dynamic_shift")
    problems = spacings.leftovers(
        config, (*placed, "round_times", "final", "threshold_ratio", "threshold_max")
    )
    flow = multistep.is_flow(trained)
    values = {
        **(_flow_keys(config, trained, problems) if flow else _table_keys(config, steps, trained, problems)),
        **multistep.limit_keys(config),
        "prediction_type": predictions.name_of(trained.prediction, multistep.flow_choices(trained), problems),
        "algorithm_type": config.algorithm_type,
        "solver_order": config.solver_order,
        "solver_type": config.solver_type,
        "lower_order_final": config.lower_order_final,
        "euler_at_final": config.euler_at_final,
    }
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    if config.solver_order == 3 and config.second_difference == "whole":
        problems.append("second_difference: whole has no key in diffusers; use half")
    return multistep.written(DPMKeys, NAME, values, problems)


def _table_keys(
    config: DPMMultistepConfig, steps: int, trained: Trained, problems: list[str]
) -> dict[str, Any]:
    for name in ("sigma_max", "final_ratio"):
        if getattr(config, name) is not None:
            problems.append(f"{name}: {getattr(config, name)} has no key in diffusers here")
    if config.shift != 1.0 or config.dynamic_shift != "none":
        problems.append("shift and dynamic_shift need a flow in diffusers")
    limit = {} if config.lambda_min_clipped is None else {"lambda_min_clipped": config.lambda_min_clipped}
    return {
        **multistep.table_keys(config, steps, trained, problems),
        **spacings.sigma_keys(config),
        **limit,
        "final_sigmas_type": "sigma_min" if config.final == "sigma_min" else "zero",
    }


def _flow_keys(config: DPMMultistepConfig, trained: Trained, problems: list[str]) -> dict[str, Any]:
    total = multistep.flow_scale(trained, problems)
    if config.spacing != "trailing" or not multistep.close(config.sigma_max, total - 1.0):
        problems.append(f"a flow has spacing: trailing and sigma_max: {total - 1} in diffusers")
    if config.sigma_spacing != "none" or config.lambda_min_clipped is not None:
        problems.append("a flow has no sigma_spacing and no lambda_min_clipped in diffusers")
    if config.prior_std != 1.0 or config.signal_floor is not None:
        problems.append("a flow has prior_std: 1 and no signal_floor in diffusers")
    if config.final != "zero":
        problems.append("a flow ends with final: zero or a final_ratio in diffusers")
    values = {"num_train_timesteps": total, **multistep.shift_keys(config)}
    if config.final_ratio is None:
        return values
    fraction = config.final_ratio / (1.0 + config.final_ratio)
    return values | {"final_sigmas_type": "sigma_min", "beta_start": fraction**2 / (1.0 + fraction**2)}
