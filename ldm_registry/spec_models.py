"""What a spec says, as frozen values. Imports no torch.

Every model compares by value, refuses keys that it does not know and holds nothing that can be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from ldm_registry.spec_paths import checked_checkpoint, checked_local
from ldm_registry.spec_runtime import RUNTIME, CodecRuntimeSpec, ConditionerRuntimeSpec, RuntimeSpec
from ldm_registry.spec_values import (
    FROZEN,
    Checkpoint,
    Condition,
    Config,
    ConfigValue,
    ContractFile,
    Device,
    FrozenMapping,
    FrozenModel,
    ImageSize,
    Key,
    LocalPath,
    Precision,
    Use,
    Value,
    Variant,
)
from ldm_registry.training.settings import TrainSpec
from ldm_registry.vocabulary import Prediction


@final
class ScheduleSpec(BaseModel):
    """A noise schedule: `{name: scaled_linear, beta_start: 0.00085, beta_end: 0.012, steps: 1000}`.

    Its settings stand beside the name; `config` has them as a mapping.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, ConfigValue]

    name: str = Field(
        description="Registered name of the schedule, as diffusers calls it: linear, scaled_linear, "
        "squaredcos_cap_v2, ...; its settings stand beside it"
    )

    @property
    def config(self) -> Mapping[str, Value]:
        """Everything but the name."""
        return FrozenMapping(self.__pydantic_extra__)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "config" in values:
            raise ValueError("a schedule has no `config`; write its settings beside its name")
        return values

    @model_validator(mode="after")
    def _unambiguous(self) -> ScheduleSpec:
        if self.name == "sqrt_linear":
            raise ValueError(
                "'sqrt_linear' is what LDM and ComfyUI call evenly spaced betas; diffusers and this spec call "
                "them 'linear': write `name: linear` with beta_start and beta_end"
            )
        if self.name == "linear" and not {"beta_start", "beta_end"} <= set(self.__pydantic_extra__):
            raise ValueError(
                "'linear' means two things: here and in diffusers evenly spaced betas, in LDM and ComfyUI evenly "
                "spaced square roots of betas, which are 'scaled_linear' here; write `name: scaled_linear`, or "
                "`name: linear` together with beta_start and beta_end"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"got the name {self.name!r}; schedules have lower-case names with underscores")
        return self


@final
class TrainedSpec(FrozenModel):
    """How a denoiser was trained, for a checkpoint that has no contract to say so."""

    prediction: Prediction = Field(description="What the network puts out")
    schedule: ScheduleSpec = Field(description="Noise schedule of the training")
    time_scale: float = Field(
        default=1.0, gt=0.0, description="What the network is fed is this times the time of the schedule"
    )


@final
class ImageSpec(FrozenModel):
    """The images that the pipeline makes."""

    channels: int = Field(default=3, ge=1, le=1024, description="Channels of the image")
    size: ImageSize = Field(description="Side in pixels, or [height, width]")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]


@final
class ModifierSpec(FrozenModel):
    """A change of a finished stage."""

    use: Use
    config: Config = FrozenMapping({})


Modify = Annotated[
    tuple[ModifierSpec, ...],
    Field(max_length=64, description="Modifiers that change the finished part, in this order"),
]


@final
class StageSpec(FrozenModel):
    """An encoder or a decoder."""

    use: Use
    checkpoint: Checkpoint = None
    variant: Variant = None
    contract: ContractFile = None
    config: Config = FrozenMapping({})
    modify: Modify = ()
    device: Device = None
    dtype: Precision = None
    runtime: CodecRuntimeSpec = Field(default=CodecRuntimeSpec(), description=RUNTIME)


@final
class DenoiserSpec(FrozenModel):
    """The denoiser."""

    use: Use
    checkpoint: Checkpoint = None
    variant: Variant = None
    contract: ContractFile = None
    config: Config = FrozenMapping({})
    trained: TrainedSpec | None = Field(
        default=None,
        description="How it was trained, where its checkpoint has no contract; must agree with one",
    )
    modify: Modify = ()
    device: Device = None
    dtype: Precision = None
    runtime: RuntimeSpec = Field(default=RuntimeSpec(), description=RUNTIME)


@final
class SchedulerSpec(FrozenModel):
    """The sampler. It has no weights."""

    use: Use
    config: Config = FrozenMapping({})
    schedule: ScheduleSpec | None = Field(
        default=None, description="Noise schedule, in place of the one that the denoiser was trained under"
    )
    modify: Modify = ()
    device: Device = None
    dtype: Precision = None


@final
class ConditionerSpec(FrozenModel):
    """What turns texts of the condition into tensors that the denoiser takes."""

    use: Use
    checkpoint: Checkpoint = None
    tokenizer: Checkpoint = None
    variant: Variant = None
    contract: ContractFile = None
    config: Config = FrozenMapping({})
    device: Device = None
    dtype: Precision = None
    runtime: ConditionerRuntimeSpec = Field(default=ConditionerRuntimeSpec(), description=RUNTIME)


@final
class GuidanceSpec(FrozenModel):
    """Classifier-free guidance (Ho and Salimans 2022)."""

    scale: float = Field(
        default=1.0,
        description="`unconditional + scale * (conditional - unconditional)`: 1 is the conditional prediction "
        "alone, 0 the unconditional one; larger follows the condition more closely",
    )
    negative: Condition = Field(
        default=FrozenMapping({}),
        description="Texts that stand for no condition, by name, such as `prompt: blurry`; where there is none, "
        "the empty text",
    )


Conditioners = Annotated[Mapping[Key, ConditionerSpec], *FROZEN]


@final
class DataSpec(FrozenModel):
    """Images to measure with and to train on, as WebDataset tars."""

    images: LocalPath = Field(description="Tar of the images that measurements use, relative to this file")
    train: LocalPath | None = Field(default=None, description="Tar of the images that training uses")


@final
class PipelineSpec(FrozenModel):
    """A whole pipeline: four stages and what to make with them."""

    version: Literal[1] = Field(default=1, description="Format of the file")
    image: ImageSpec = Field(description="The images that the pipeline makes")
    encoder: StageSpec = Field(description="Pixels to latents")
    denoiser: DenoiserSpec = Field(description="The network, or formula, that tells signal from noise")
    scheduler: SchedulerSpec = Field(description="The sampler: which noise levels it visits, and its steps")
    decoder: StageSpec = Field(description="Latents to pixels")
    conditioners: Conditioners = Field(
        default=FrozenMapping({}),
        description="Text encoders and the like, each under a label of one's own. What several of them give under "
        "one name is joined along the last axis, in the order of their labels",
    )
    condition: Condition = Field(
        default=FrozenMapping({}),
        description="Inputs of the denoiser or of the conditioners by name, such as `class_label: [6, 1]` or "
        "`prompt: a red kite`; the images of a run take the values in turn",
    )
    guidance: GuidanceSpec = Field(default=GuidanceSpec(), description="Classifier-free guidance")
    data: DataSpec | None = Field(default=None, description="Images to measure with and to train on")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Image i of a run draws all its noise from seed + i"
    )
    train: TrainSpec | None = Field(
        default=None, description="How `ldm train` trains the codec and the denoiser"
    )

    _source: Path | None = PrivateAttr(default=None)

    @field_validator("train")
    @classmethod
    def _paths_of_training(cls, train: TrainSpec | None) -> TrainSpec | None:
        if train and train.images is not None:
            checked_local(train.images)
        for settings in (train.codec, train.denoiser) if train else ():
            checked_checkpoint(settings.initialise_from if settings else None)
        return train

    @property
    def source(self) -> Path | None:
        """The file that it was read from; takes no part in comparisons and is never written."""
        return self._source

    def with_source(self, source: Path | None) -> PipelineSpec:
        """An equal spec that says it came from a file.

        Args:
            source: The file; None for a spec that was made in memory.
        """
        copy = self.model_copy()
        copy._source = source
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineSpec) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        # `train` is left out: it may hold a mapping that is not hashable.
        return hash(tuple(value for name, value in self if name != "train"))
