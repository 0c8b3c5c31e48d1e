"""Keys of diffusers' scheduler configs, and how one file is read strictly and written in full."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from ldm_registry.errors import SpecError, did_you_mean

_SIBLINGS = frozenset(
    re.findall(
        r"\w+",
        """algorithm_type base_image_seq_len base_shift beta_end beta_schedule beta_start clip_sample clip_sample_range
    disable_corrector dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type
    invert_sigmas lambda_min_clipped lower_order_final max_image_seq_len max_shift noise_sampler_seed
    num_train_timesteps original_inference_steps predict_x0 prediction_type rescale_betas_zero_snr rho s_churn s_noise
    s_tmax s_tmin sample_max_value set_alpha_to_one shift shift_terminal sigma_data sigma_max sigma_min sigma_schedule
    skip_prk_steps solver_order solver_p solver_type steps_offset stochastic_sampling thresholding time_shift_type
    timestep_scaling timestep_spacing timestep_type trained_betas use_beta_sigmas use_dynamic_shifting
    use_exponential_sigmas use_flow_sigmas use_karras_sigmas use_lu_lambdas variance_type""",
    )
)
"""Keys of one scheduler class or another. diffusers passes over those that a class does not have, and files in the
wild carry them: the PNDM config of Stable Diffusion 1.5 has `clip_sample`, the Euler config of SDXL
`skip_prk_steps`."""


class Keys(BaseModel):
    """Base of the keys of one class: strict about names and kinds, null only where diffusers takes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DiscreteKeys(Keys):
    """Of every class over discrete steps: the betas, and how steps are picked."""

    num_train_timesteps: int = Field(default=1000, ge=2)
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = Field(default=0, ge=0)

    @field_validator("trained_betas", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_beta_a_step(self) -> DiscreteKeys:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} values, "
                f"num_train_timesteps says {self.num_train_timesteps}"
            )
        return self


class TrainingKeys(DiscreteKeys):
    """The same without the betas that DDPMScheduler alone has."""

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"


class SigmaKeys(Keys):
    """Of the classes that can space sigma itself."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False

    @model_validator(mode="after")
    def _at_most_one(self) -> SigmaKeys:
        used = [name for name in SigmaKeys.model_fields if getattr(self, name)]
        if len(used) > 1:
            raise ValueError(f"{' and '.join(used)} exclude one another")
        return self


class LimitKeys(Keys):
    """Of the classes that limit the clean estimate; thresholding takes the place of clipping."""

    clip_sample: bool = True
    clip_sample_range: float = Field(default=1.0, gt=0)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(default=0.995, gt=0, le=1)
    sample_max_value: float = Field(default=1.0, gt=0)


Model = TypeVar("Model", bound=Keys)


def read(model: type[Model], class_name: str, values: Mapping[str, Any]) -> tuple[Model, tuple[str, ...]]:
    """A scheduler config of one class.

    Args:
        model: The keys of the class and their defaults.
        class_name: Of diffusers.
        values: The file. Keys that start with `_` are passed over.

    Returns:
        The keys, and one line for each value that the class's default gave or that the class does not read.

    Raises:
        SpecError: Unknown keys, values of the wrong kind, options that are not built; all of them.
    """
    stated = {key: value for key, value in values.items() if not key.startswith("_")}
    strangers = [key for key in stated if key not in model.model_fields]
    problems = [
        f"unknown key {key!r}; {did_you_mean(key, list(model.model_fields))}"
        for key in strangers
        if key not in _SIBLINGS
    ]
    try:
        keys = model.model_validate({key: stated[key] for key in stated if key in model.model_fields})
    except ValidationError as error:
        problems += [_sentence(detail) for detail in error.errors()]
    if problems:
        raise SpecError(f"the scheduler config of {class_name} cannot be read", problems)
    notes = [f"{key}: {json.dumps(getattr(keys, key))}" for key in model.model_fields if key not in stated]
    notes += [f"{key}: not a key of {class_name}, passed over as diffusers does" for key in strangers]
    return keys, tuple(notes)


def _sentence(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "literal_error":
        return f"{where}: {detail['input']!r} is not supported; expected {detail['ctx']['expected']}"
    return f"{where}: got {detail['input']!r}; {detail['msg'][0].lower()}{detail['msg'][1:]}"


def write(
    model: type[Keys], class_name: str, values: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    """A scheduler config with every key of its class.

    Args:
        model: The keys of the class.
        class_name: Of diffusers.
        values: What is not the class's default.
        problems: What diffusers cannot express.

    Raises:
        SpecError: There are problems.
    """
    if problems:
        raise SpecError(f"{class_name} of diffusers cannot take the steps of this sampler", problems)
    return {"_class_name": class_name, **model.model_validate(values).model_dump(mode="json")}
