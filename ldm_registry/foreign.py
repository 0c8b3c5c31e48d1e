"""What the scheduler config of another library says, in our terms: what samplers read on import and write on export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from ldm_registry.interfaces import Component, NoiseSchedule
from ldm_registry.vocabulary import Prediction


@dataclass(frozen=True, slots=True)
class SchedulerReading:
    """A `scheduler_config.json` of diffusers, in our terms.

    Attributes:
        config: Of our sampler, without `steps`: diffusers leaves their number to the caller.
        schedule: Of the noise that the denoiser was trained on: `name` and its settings.
        prediction: What the denoiser puts out.
        time_scale: Network time per unit of schedule time.
        data_std: Standard deviation that the denoiser's data had in training (`sigma_data` of EDM), else 1.
        defaults: `key: value` for every value that the file does not state and that is its class's default.
        differences: Where our sampler departs from theirs on purpose, one sentence each.
    """

    config: Mapping[str, Any]
    schedule: Mapping[str, Any]
    prediction: Prediction
    time_scale: float = 1.0
    data_std: float = 1.0
    defaults: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@runtime_checkable
class ForeignScheduler(Protocol):
    """A sampler that reads and writes the config of its `diffusers_class`."""

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> SchedulerReading:
        """What a scheduler config says.

        Args:
            values: The file. Keys that start with `_` are notes and are passed over.

        Raises:
            SpecError: Unknown keys, values of the wrong kind, options that are not built; all of them by name.
        """

    def to_diffusers(
        self: Self, schedule: NoiseSchedule, prediction: Prediction, time_scale: float
    ) -> dict[str, Any]:
        """The scheduler config with which diffusers takes the same steps, `_class_name` included.

        Args:
            schedule: What the denoiser was trained on, and what this sampler was built with.
            prediction: What the denoiser puts out.
            time_scale: Network time per unit of schedule time.

        Raises:
            SpecError: diffusers cannot express it; says which settings, all of them.
        """


@runtime_checkable
class Foldable(Protocol):
    """Half of a codec that can do its normalisation inside its own weights, for readers that ignore it."""

    def folded(self) -> Component:
        """A component that does the same and whose config asks for no normalisation."""
