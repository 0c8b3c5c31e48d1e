"""UniPCMultistepScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from ldm_registry.errors import SpecError
from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_schedulers.diffusers import keys, multistep, predictions, spacings

if TYPE_CHECKING:
    from ldm_schedulers.unipc import UniPCConfig

NAME: Final = "UniPCMultistepScheduler"

LAST_NOISE_STEP: Final = (
    "predict_x0 false with final_sigmas_type zero: diffusers multiplies 0 by infinity in the last step; ours ends at "
    "the clean estimate"
)
LAST_BH1: Final = (
    "solver_type bh1 with final_sigmas_type zero: diffusers multiplies 0 by infinity in the last step; ours ends at "
    "the clean estimate"
)
LAST_HIGH_ORDER: Final = (
    "lower_order_final false with final_sigmas_type zero: diffusers divides by 0 in the last step; ours takes it with "
    "order 1"
)
REPEATED_LEVEL: Final = (
    "final_sigmas_type sigma_min with use_flow_sigmas: diffusers ends where its last step starts, and leaves that "
    "noise; ours ends without noise"
)
REPEATED_END: Final = (
    "lower_order_final false with a sigma spacing and final_sigmas_type sigma_min: diffusers takes a step of no "
    "length, and divides by 0 in it; ours stays there"
)
_SIGNAL_FLOOR: Final = 1e-6
"""What diffusers takes from a first noise fraction of 1, so that its logarithms stay finite."""

_OTHERS_SOLVERS: Final = ("midpoint", "heun", "logrho")
"""Values of `solver_type` of sibling classes, which diffusers takes for its default."""


class UniPCKeys(multistep.MultistepKeys):
    """The keys of the class and their defaults."""

    solver_order: int = Field(default=2, ge=1, le=9)
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: tuple[int, ...] = ()
    solver_p: None = None
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    shift_terminal: float | None = Field(default=None, ge=0, lt=1)

    @field_validator("solver_type", mode="before")
    @classmethod
    def _known_solver(cls, value: Any) -> Any:
        return "bh2" if value in _OTHERS_SOLVERS else value

    @field_validator("disable_corrector", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def problems(self) -> list[str]:
        """What contradicts itself; diffusers fails over it, or makes noise."""
        flow = bool(self.use_flow_sigmas)
        spaced = [key for key in keys.SigmaKeys.model_fields if getattr(self, key)]
        bounds = [key for key in ("sigma_min", "sigma_max") if getattr(self, key) is not None]
        checks = [
            (
                flow and bool(spaced) and spaced != ["use_karras_sigmas"],
                f"{' and '.join(spaced)} with use_flow_sigmas: diffusers takes sigma / alpha for the noise fraction of "
                "a flow; expected use_karras_sigmas, or none",
            ),
            (
                bool(bounds) and not spaced,
                f"{' and '.join(bounds)}: diffusers heeds them only where sigma is spaced; expected null",
            ),
            (self.shift_terminal is not None and not flow, "shift_terminal needs use_flow_sigmas"),
            (
                flow and bool(spaced) and bool(self.shift_terminal),
                "shift_terminal with use_karras_sigmas has no effect in diffusers; expected null",
            ),
            (
                flow and bool(spaced) and (self.use_dynamic_shifting or self.flow_shift != 1.0),
                "flow_shift and use_dynamic_shifting with use_karras_sigmas have no effect in diffusers; expected 1 "
                "and false",
            ),
            (
                not self.predict_x0 and self.prediction_type == "flow_prediction",
                "predict_x0 false with flow_prediction: diffusers has no such step; expected predict_x0 true",
            ),
            (
                not self.predict_x0 and self.thresholding,
                "predict_x0 false with thresholding: diffusers does not threshold; expected thresholding false",
            ),
        ]
        return [*super().problems(), *(text for wrong, text in checks if wrong)]


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(UniPCKeys, NAME, values)
    if problems := said.problems():
        raise SpecError(f"the scheduler config of {NAME} asks for what is not built", problems)
    config = {
        **(_flow(said) if said.use_flow_sigmas else _table(said)),
        **multistep.limits_of(said),
        "solver_order": said.solver_order,
        "solver_type": said.solver_type,
        "predict_x0": said.predict_x0,
        "lower_order_final": said.lower_order_final,
        "disable_corrector": said.disable_corrector,
    }
    return SchedulerReading(
        config=config,
        **multistep.trained_of(said),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=_differences(said),
    )


def _table(said: UniPCKeys) -> dict[str, Any]:
    """The levels over a schedule of steps."""
    spaced = spacings.sigma_spacing_of(said)
    if not spaced:
        return {**spacings.spacing_of(said), "final": said.final_sigmas_type}
    stated = {"sigma_min": said.sigma_min, "sigma_max": said.sigma_max}
    ends = {key: value for key, value in stated.items() if value is not None}
    if said.final_sigmas_type == "sigma_min" and said.sigma_min is not None:
        return {**spaced, **ends, "final_ratio": said.sigma_min}
    return {**spaced, **ends, "final": said.final_sigmas_type}


def _flow(said: UniPCKeys) -> dict[str, Any]:
    """Evenly spaced from no signal to time 1 / T, shifted; or Karras's spacing of sigma / alpha."""
    if not said.use_karras_sigmas:
        low = 1.0 / (said.num_train_timesteps - 1.0)
        ends = {"sigma_min": low, "signal_floor": _SIGNAL_FLOOR, "prior_std": 1.0}
        terminal = {"shift_terminal": said.shift_terminal} if said.shift_terminal else {}
        return {"spacing": "trailing", **ends, **multistep.shift_of(said), **terminal}
    low, high = multistep.table_ends(said)
    low, high = said.sigma_min or low, said.sigma_max or high
    levels = {"sigma_spacing": "karras", "sigma_min": low, "sigma_max": high, "prior_std": 1.0}
    return {**levels, "final_ratio": low} if said.final_sigmas_type == "sigma_min" else levels


def _differences(said: UniPCKeys) -> tuple[str, ...]:
    spaced = [key for key in keys.SigmaKeys.model_fields if getattr(said, key)]
    moved = spaced or (["use_flow_sigmas"] if said.use_flow_sigmas else [])
    to_zero, stays = said.final_sigmas_type == "zero", said.final_sigmas_type == "sigma_min" and bool(spaced)
    rising = not said.lower_order_final and said.solver_order > 1
    trailing = (spacings.TRAILING_COUNT,) if said.timestep_spacing == "trailing" else ()
    checks = [
        (not said.predict_x0 and to_zero, LAST_NOISE_STEP),
        (said.solver_type == "bh1" and to_zero, LAST_BH1),
        (rising and to_zero, LAST_HIGH_ORDER),
        (rising and stays, REPEATED_END),
        (bool(said.use_flow_sigmas) and not spaced and not to_zero, REPEATED_LEVEL),
    ]
    return (
        *((multistep.WHOLE_TIMES.format(moved[0]),) if moved else (*multistep.every_step(said), *trailing)),
        *(text for applies, text in checks if applies),
    )


def write_config(config: UniPCConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    placed = ("spacing", "steps_offset", "sigma_spacing", "sigma_ends", "sigma_min", "sigma_max", "shift")
    handled = (*placed, "dynamic_shift", "shift_terminal", "round_times", "final")
    problems = spacings.leftovers(config, (*handled, "threshold_ratio", "threshold_max"))
    flow = multistep.is_flow(trained)
    values = {
        **(_flow_keys(config, trained, problems) if flow else _table_keys(config, steps, trained, problems)),
        **multistep.limit_keys(config),
        "prediction_type": predictions.name_of(trained.prediction, multistep.flow_choices(trained), problems),
        "solver_order": config.solver_order,
        "solver_type": config.solver_type,
        "predict_x0": config.predict_x0,
        "lower_order_final": config.lower_order_final,
        "disable_corrector": config.disable_corrector,
    }
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    return multistep.written(UniPCKeys, NAME, values, problems)


def _table_keys(config: UniPCConfig, steps: int, trained: Trained, problems: list[str]) -> dict[str, Any]:
    stated = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max}
    ends = {key: value for key, value in stated.items() if value is not None}
    if config.shift != 1.0 or config.dynamic_shift != "none" or config.shift_terminal is not None:
        problems.append("shift, dynamic_shift and shift_terminal need a flow in diffusers")
    if config.final_ratio is not None and config.final_ratio != config.sigma_min:
        problems.append(f"final_ratio: {config.final_ratio} is sigma_min or nothing in diffusers")
    repeats = config.final == "sigma_min" or config.final_ratio is not None
    if config.final == "sigma_min" and config.sigma_min is not None:
        problems.append("final: sigma_min with a stated sigma_min ends there in diffusers; set final_ratio")
    return {
        **multistep.table_keys(config, steps, trained, problems),
        **spacings.sigma_keys(config),
        **ends,
        "final_sigmas_type": "sigma_min" if repeats else "zero",
    }


def _flow_keys(config: UniPCConfig, trained: Trained, problems: list[str]) -> dict[str, Any]:
    total = multistep.flow_scale(trained, problems)
    if config.sigma_spacing == "karras":
        return _karras_flow_keys(config, total, problems)
    if config.sigma_spacing != "none":
        problems.append(f"a flow has sigma_spacing: karras or none in diffusers, not {config.sigma_spacing}")
    clean = 1.0 / (total - 1.0)
    if config.spacing != "trailing" or not multistep.close(config.sigma_min, clean) or config.sigma_max:
        problems.append(f"a flow has spacing: trailing and sigma_min: {clean!r} in diffusers")
    if config.signal_floor != _SIGNAL_FLOOR or config.prior_std != 1.0:
        problems.append(f"a flow has signal_floor: {_SIGNAL_FLOOR} and prior_std: 1 in diffusers")
    if config.final != "zero" or config.final_ratio is not None:
        problems.append("a flow ends with final: zero in diffusers, but for sigma_spacing: karras")
    terminal = {} if config.shift_terminal is None else {"shift_terminal": config.shift_terminal}
    return {"num_train_timesteps": total, **multistep.shift_keys(config), **terminal}


def _karras_flow_keys(config: UniPCConfig, total: int, problems: list[str]) -> dict[str, Any]:
    if config.sigma_min is None or config.sigma_max is None or config.prior_std != 1.0:
        problems.append("a flow with sigma_spacing: karras states sigma_min, sigma_max and prior_std: 1")
    if config.shift != 1.0 or config.dynamic_shift != "none" or config.shift_terminal is not None:
        problems.append("a flow with sigma_spacing: karras has no shift in diffusers")
    if config.final != "zero" or config.final_ratio not in (None, config.sigma_min):
        problems.append(
            "a flow with sigma_spacing: karras ends with final: zero, or with final_ratio at sigma_min"
        )
    return {
        "num_train_timesteps": total,
        "use_flow_sigmas": True,
        "use_karras_sigmas": True,
        "sigma_min": config.sigma_min,
        "sigma_max": config.sigma_max,
        "final_sigmas_type": "zero" if config.final_ratio is None else "sigma_min",
    }
