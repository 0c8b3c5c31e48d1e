"""PNDMScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from ldm_registry.foreign import SchedulerReading
from ldm_registry.interfaces import Trained
from ldm_registry.vocabulary import Prediction
from ldm_schedulers.diffusers import keys, predictions, schedules, spacings

if TYPE_CHECKING:
    from ldm_schedulers.pndm import PNDMConfig

NAME: Final = "PNDMScheduler"
BETAS: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS: Final = ("epsilon", "v_prediction")

BLENDED_V: Final = (
    "prediction_type v_prediction: diffusers blends the v of several times and converts the blend at one of them; ours "
    "blends the noise that each v stands for"
)
MIDPOINTS: Final = (
    "skip_prk_steps false: diffusers needs 4 steps, and where T // N is odd the midpoint that it steps to is not the "
    "one that it tells the network; ours runs with any number and halves the step"
)


class PNDMKeys(keys.TrainingKeys):
    """The keys of the class and their defaults."""

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"


def read_config(values: Mapping[str, Any]) -> SchedulerReading:
    """What a config says; see `ForeignScheduler.from_diffusers`."""
    said, notes = keys.read(PNDMKeys, NAME, values)
    config = {
        **spacings.spacing_of(said),
        "skip_prk_steps": said.skip_prk_steps,
        "final": "zero" if said.set_alpha_to_one else "sigma_min",
    }
    differences = [
        (said.timestep_spacing != "leading", spacings.STRIDE),
        (said.prediction_type == "v_prediction", BLENDED_V),
        (not said.skip_prk_steps, MIDPOINTS),
    ]
    return SchedulerReading(
        config=config,
        schedule=schedules.schedule_of(said),
        prediction=predictions.PREDICTIONS[said.prediction_type],
        defaults=notes,
        differences=(
            *(text for applies, text in differences if applies),
            *spacings.spacing_differences(said),
        ),
    )


def write_config(config: PNDMConfig, steps: int, trained: Trained) -> dict[str, Any]:
    """The config with which diffusers takes the same N steps; see `ForeignScheduler.to_diffusers`."""
    problems = [
        *spacings.leftovers(config, ("spacing", "steps_offset", "round_times", "final")),
        *spacings.whole_times(config, trained, steps),
        *spacings.strides(config, trained, steps),
    ]
    if config.final == "last":
        problems.append("final: last has no key in diffusers")
    if trained.prediction is Prediction.V and steps > 1:
        problems.append("a v prediction: diffusers blends the v of several times, which is not this sampler")
    if not config.skip_prk_steps and (steps < 4 or (trained.schedule.steps or 0) // steps % 2):
        problems.append("skip_prk_steps: false needs 4 steps or more in diffusers, and an even T // N")
    values = {
        **schedules.betas_of(trained.schedule, BETAS, problems, rescalable=False),
        **spacings.spacing_keys(config, trained.schedule, steps, problems),
        "prediction_type": predictions.name_of(trained.prediction, PREDICTIONS, problems),
        "skip_prk_steps": config.skip_prk_steps,
        "set_alpha_to_one": config.final == "zero",
    }
    return keys.write(PNDMKeys, NAME, values, problems)
