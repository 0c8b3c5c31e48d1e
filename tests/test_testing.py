"""The conformance suite: healthy components pass, and every check has a component that fails it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final
from unittest import SkipTest

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ldm_registry.errors import PluginError, SpecError
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Condition,
    Conditioner,
    Conditioning,
    Decoder,
    Denoise,
    Denoiser,
    DenoiserOutput,
    Encoder,
    Generators,
    LatentSpace,
    Modifier,
    NoiseLevel,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
    Trained,
    randn,
)
from ldm_registry.prediction import to_epsilon
from ldm_registry.testing import ComponentSuite, Status, check_component, check_names, promises
from ldm_registry.testing.global_state import snapshot
from ldm_registry.vocabulary import Kind, Prediction, Scaling

NOT_INSTALLED = {"an_installed_distribution_declares_it": "it is defined in this test"}


class CodecConfig(ComponentConfig):
    latent_channels: int = Field(2, ge=1, description="Channels of the latent.")
    stride: int = Field(4, ge=1, description="Pixels per latent cell.")


class HealthyEncoder(Encoder):
    name = "healthy-codec"
    Config = CodecConfig
    tileable = (
        True  # Its convolution sees one cell at a time, so that tiles of any size give what the whole gives.
    )

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.latent_channels, config.stride)
        self.image_channels = 3
        self.convolution = nn.Conv2d(3, config.latent_channels, config.stride, config.stride)
        table = torch.full((config.latent_channels, 1, 1), 0.1, device="cpu")
        self.register_buffer("std", table, persistent=False)

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        if image.shape[-1] % self.config.stride or image.shape[-2] % self.config.stride:
            raise SpecError(f"{list(image.shape)} does not divide by {self.config.stride}")
        mean = self.convolution(image)
        if generator is None:
            return mean
        return mean + self.std * randn(mean.shape, generator, device=mean.device, dtype=mean.dtype)

    def working_memory(self, batch: int, height: int, width: int) -> int:
        return 8 * batch * height * width * self.image_channels


class HealthyDecoder(Decoder):
    name = "healthy-codec"
    Config = CodecConfig
    tileable = (
        True  # Its convolution sees one cell at a time, so that tiles of any size give what the whole gives.
    )

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_space = LatentSpace(config.latent_channels, config.stride)
        self.image_channels = 3
        self.convolution = nn.ConvTranspose2d(config.latent_channels, 3, config.stride, config.stride)

    def decode(self, latent: Tensor) -> Tensor:
        return self.convolution(latent)

    def working_memory(self, batch: int, height: int, width: int) -> int:
        return 8 * batch * height * width * self.image_channels


class DenoiserConfig(ComponentConfig):
    channels: int = Field(2, ge=1, description="Channels of the latent.")
    classes: int = Field(3, ge=1, description="Number of classes.")


class HealthyDenoiser(Denoiser):
    name = "healthy"
    Config = DenoiserConfig
    size_multiple = 2

    def __init__(self, config: DenoiserConfig, trained: Trained) -> None:
        super().__init__()
        self.config = config
        self.trained = trained
        self.prediction = trained.prediction
        self.training_schedule = trained.schedule
        self.latent_space = LatentSpace(config.channels, 1)
        self.conditioning = {"class_label": Conditioning(classes=config.classes, null=config.classes)}
        self.mix = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.embed = nn.Embedding(config.classes + 1, config.channels)

    def time(self, z: Tensor, level: NoiseLevel) -> Tensor:
        time = self.trained.network_time(level).to(z.device, z.dtype) / 1000
        return time.reshape(-1, 1, 1, 1)

    def label(self, z: Tensor, condition: Condition) -> Tensor:
        return condition.get("class_label", torch.full((len(z),), self.config.classes, device=z.device))

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        embedded = self.embed(self.label(z, condition))[:, :, None, None]
        return DenoiserOutput(torch.tanh(self.mix(z) + self.time(z, level) + embedded))


class ScheduleConfig(ComponentConfig):
    steps: int = Field(100, ge=2, description="T.")


class HealthySchedule(NoiseSchedule):
    name = "healthy_schedule"
    Config = ScheduleConfig
    scaling = Scaling.VP

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = config.steps
        self.time_range = (0.0, config.steps - 1.0)

    def level(self, time: Tensor) -> NoiseLevel:
        return NoiseLevel.at(8 - 16 * time.double() / (self.config.steps - 1), self.scaling)

    def time(self, level: NoiseLevel) -> Tensor:
        share = (8 - level.log_snr) / 16
        return (share.clamp(0, 1) * (self.config.steps - 1)).round(decimals=9)


class SamplerConfig(ComponentConfig):
    steps: int = Field(4, ge=1, description="Number of steps.")
    churn: float = Field(0.5, ge=0, le=1, description="Share of the noise that is drawn anew.")


class HealthyScheduler(Scheduler):
    name = "healthy-sampler"
    Config = SamplerConfig

    def __init__(self, config: SamplerConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.schedule = schedule

    def levels(self) -> NoiseLevels:
        low, high = self.schedule.time_range
        level = self.schedule.level(torch.linspace(high, low, self.config.steps, dtype=torch.float64))
        end = NoiseLevel.at(torch.tensor([math.inf]), self.schedule.scaling)
        return NoiseLevels(torch.cat([level.alpha, end.alpha]), torch.cat([level.sigma, end.sigma]))

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        levels, keep = self.levels(), (1 - self.config.churn**2) ** 0.5
        for index in range(len(levels) - 1):
            x0 = denoise(z, levels[index]).x0
            fresh = randn(z.shape, generator, device=z.device, dtype=z.dtype)
            noise = to_epsilon(x0, z, levels[index])
            if generator is not None:
                noise = keep * noise + self.config.churn * fresh
            z = levels[index + 1].add_noise(x0, noise)
            yield Step(index, levels[index + 1], z, x0)


class ConditionerConfig(ComponentConfig):
    width: int = Field(5, ge=1, description="Channels of the embedding.")


class HealthyConditioner(Conditioner):
    name = "healthy-texts"
    Config = ConditionerConfig

    def __init__(self, config: ConditionerConfig, tokenizer: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.inputs = ("prompt", "style")
        self.outputs = {
            "text_embedding": Conditioning((None, config.width), torch.float32),
            "text_mask": Conditioning((8,), torch.bool),
        }
        self.embed = nn.Embedding(128, config.width)

    def ids(self, texts: Mapping[str, Sequence[str]]) -> Tensor:
        joined = [f"{prompt[:4]:4}{style[:4]:4}" for prompt, style in zip(*texts.values(), strict=True)]
        return torch.tensor([[ord(letter) % 128 for letter in text] for text in joined])

    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        ids = self.ids(texts).to(self.embed.weight.device)
        return {"text_embedding": self.embed(ids), "text_mask": ids != ord(" ")}


class HealthyModifier(Modifier):
    name = "healthy-change"
    Config = ConditionerConfig

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.config = config
        self.modifies = (Kind.DECODER,)

    def modify(self, part: Component) -> Component:
        return part


HEALTHY: dict[Kind, type[Component]] = {
    interface.kind: final(type(interface.__name__, (interface,), {"__module__": __name__}))
    for interface in (
        HealthyEncoder,
        HealthyDenoiser,
        HealthyScheduler,
        HealthyDecoder,
        HealthySchedule,
        HealthyConditioner,
        HealthyModifier,
    )
}


class TestHealthyEncoder(ComponentSuite):
    component = HEALTHY[Kind.ENCODER]
    config = CodecConfig(latent_channels=3)
    skip = NOT_INSTALLED


class TestHealthyDenoiser(ComponentSuite):
    component = HEALTHY[Kind.DENOISER]
    skip = NOT_INSTALLED


@pytest.mark.parametrize("kind", Kind)
def test_a_healthy_component_passes_every_check_also_on_a_second_device(kind: Kind) -> None:
    report = check_component(HEALTHY[kind], skip=NOT_INSTALLED, devices=("cpu", "meta"))
    assert report.passed, report.failures
    assert {result.name for result in report.results} == set(check_names(kind))
    not_tried = [
        result
        for result in report.results
        if result.status is not Status.PASSED and result.detail != "no checkpoint was given"
    ]
    assert [result.name for result in not_tried] == list(NOT_INSTALLED)


def broken(of: type[Component], **changes: Any) -> type[Component]:
    """A healthy component with something replaced."""
    return final(type("Broken", (of,), {"__module__": __name__, **changes}))


def output_of(of: type[Component], change: Callable[[Tensor], Tensor]) -> type[Component]:
    """A healthy component with something done to what it puts out."""
    if issubclass(of, Encoder):
        return broken(
            of, encode=lambda self, image, generator=None: change(of.encode(self, image, generator))
        )
    if issubclass(of, Decoder):
        return broken(of, decode=lambda self, latent: change(of.decode(self, latent)))
    assert issubclass(of, Denoiser)

    def forward(self: Any, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        return DenoiserOutput(change(of.forward(self, z, level, condition).prediction))

    return broken(of, forward=forward)


def with_config(**namespace: Any) -> type[Component]:
    """A healthy encoder whose config class has something added."""
    return broken(
        HealthyEncoder, Config=type("Config", (CodecConfig,), {"__module__": __name__, **namespace})
    )


def constructed(of: type[Component], then: Callable[[Any], object]) -> type[Component]:
    """A healthy component with something done at the end of its constructor."""

    def __init__(self: Any, *arguments: Any) -> None:  # noqa: N807  # it becomes a method
        of.__init__(self, *arguments)
        then(self)

    return broken(of, __init__=__init__)


def before_encoding(act: Callable[[Any, Tensor], object]) -> type[Component]:
    """A healthy encoder that does something else first."""

    def encode(self: Any, image: Tensor, generator: Generators | None = None) -> Tensor:
        act(self, image)
        return HealthyEncoder.encode(self, image, generator)

    return broken(HealthyEncoder, encode=encode)


def relabelled(change: Callable[[Any, Condition], Condition]) -> type[Component]:
    """A healthy denoiser that makes something else of its condition."""

    def label(self: Any, z: Tensor, condition: Condition) -> Tensor:
        return HealthyDenoiser.label(self, z, change(self, condition))

    return broken(HealthyDenoiser, label=label)


def encoding(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> type[Component]:
    """A healthy conditioner with something done to what it gives."""
    return broken(
        HealthyConditioner,
        encode=lambda self, texts, size: change(HealthyConditioner.encode(self, texts, size)),
    )


def modifying(change: Callable[[Any], Any]) -> type[Component]:
    """A modifier of decoders that does this."""
    return broken(HealthyModifier, modify=lambda self, part: change(part))


def fresh_encoder() -> Component:
    return HEALTHY[Kind.ENCODER](CodecConfig())


def _claims_another_stride(part: Any) -> Component:
    part.latent_space = LatentSpace(part.latent_space.channels, 7)
    return part


def _grows(part: Any) -> Component:
    part.convolution = nn.ConvTranspose2d(4, 3, 4, 4)
    return part


def _shaken(part: Any, by: Tensor) -> Component:
    part.convolution.weight.add_(by)
    return part


def sampling(trajectory: Callable[..., Any]) -> type[Component]:
    return broken(HealthyScheduler, trajectory=trajectory)


def levelled(change: Callable[[NoiseLevels], NoiseLevels]) -> type[Component]:
    return broken(HealthyScheduler, levels=lambda self: change(HealthyScheduler.levels(self)))


def _eager(self: Any, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
    return iter(list(HealthyScheduler.trajectory(self, denoise, z, generator)))


def _with_history(
    self: Any, denoise: Denoise, z: Tensor, generator: Generators | None = None
) -> Iterator[Step]:
    for step in HealthyScheduler.trajectory(self, denoise, z, generator):
        self.previous = 0.5 * (getattr(self, "previous", step.x0) + step.x0)
        yield Step(step.index, step.level, step.z + 0.1 * self.previous, step.x0)


def _stale_level(
    self: Any, denoise: Denoise, z: Tensor, generator: Generators | None = None
) -> Iterator[Step]:
    levels = self.levels()
    for step in HealthyScheduler.trajectory(self, denoise, z, generator):
        yield Step(step.index, levels[step.index], step.z, step.x0)


def _left_over(self: Any, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
    for step in HealthyScheduler.trajectory(self, denoise, z, generator):
        yield Step(step.index, step.level, step.z + 0.01 * z, step.x0)


def _coarse(self: Any, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
    for step in HealthyScheduler.trajectory(self, denoise, z, generator):
        rounded = step.z.bfloat16().float() if step.z.dtype == torch.float32 else step.z
        yield Step(step.index, step.level, rounded, step.x0)


def _at_first_level_only(self: Any, z: Tensor, level: NoiseLevel) -> Tensor:
    first = NoiseLevel(level.alpha.reshape(-1)[:1], level.sigma.reshape(-1)[:1])
    return (
        HealthyDenoiser.time(self, z, level if level.alpha.ndim else NoiseLevel.of(0.6, 0.8))
        + 0 * first.alpha
    )


def _tensor_of_level(self: Any, z: Tensor, level: NoiseLevel) -> Tensor:
    if level.alpha.ndim:
        return HealthyDenoiser.time(self, z, level)
    return level.alpha.expand(z.shape)  # float64, on the CPU


def _cropped(self: Any, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
    height, width = (side // 2 * 2 for side in z.shape[2:])
    return HealthyDenoiser.forward(self, z[..., :height, :width], level, condition)


def _refuse_odd(self: Any, image: Tensor) -> None:
    if image.shape[-2] // self.config.stride % 2:
        raise ValueError("an odd number of rows")


def _only_a_list(self: Any, image: Tensor, generator: Any = None) -> Tensor:
    return HealthyEncoder.encode(self, image, None if generator is None else list(generator))


def _shifted_mode(self: Any, image: Tensor, generator: Generators | None = None) -> Tensor:
    return HealthyEncoder.encode(self, image, generator) + (1.0 if generator is None else 0.0)


def _crop_to_stride(self: Any, image: Tensor, generator: Generators | None = None) -> Tensor:
    height, width = (side // self.config.stride * self.config.stride for side in image.shape[2:])
    return HealthyEncoder.encode(self, image[..., :height, :width], generator)


def _with_seams(self: Any, latent: Tensor) -> Tensor:
    image = HealthyDecoder.decode(self, latent)
    if self.tile_pixels is not None:
        image[..., :: self.tile_pixels] *= 0.99
    return image


def _drawn_table(self: Any) -> None:
    self.register_buffer("std", torch.rand(2, 1, 1, device="cpu"), persistent=False)
    self.convolution.bias = nn.Parameter(self.std.flatten()[: self.config.latent_channels].clone())
    self.shift = torch.rand((), device="cpu")


def _plus_shift(self: Any, image: Tensor, generator: Generators | None = None) -> Tensor:
    return HealthyEncoder.encode(self, image, generator) + self.shift.to(image)


class Unserialised(CodecConfig):
    stride: int = Field(4, ge=1, exclude=True, description="Left out when it is written.")


class Bare(CodecConfig):
    extra: int = 3


class Nested(CodecConfig):
    extra: dict[str, int] = Field({"a": 1}, description="A mapping.")


BROKEN: list[tuple[str, type[Component]]] = [
    ("is_concrete_and_final", HealthyEncoder),
    ("is_concrete_and_final", broken(Encoder, name="abstract", Config=CodecConfig)),
    ("kind_name_and_config_are_declared", broken(HealthyEncoder, name="My Codec")),
    ("kind_name_and_config_are_declared", broken(HealthySchedule, name="my-schedule")),
    ("kind_name_and_config_are_declared", broken(HealthyDecoder, kind=Kind.ENCODER)),
    ("config_is_frozen", with_config(model_config=ConfigDict(frozen=False))),
    ("config_forbids_unknown_keys", with_config(model_config=ConfigDict(extra="ignore"))),
    ("config_fields_are_described", broken(HealthyEncoder, Config=Bare)),
    ("config_holds_scalars_and_tuples", broken(HealthyEncoder, Config=Nested)),
    ("config_survives_json", broken(HealthyEncoder, Config=Unserialised)),
    ("component_keeps_its_config", constructed(HealthyEncoder, lambda self: delattr(self, "config"))),
    ("an_installed_distribution_declares_it", HEALTHY[Kind.ENCODER]),
    (
        "latent_space_is_as_declared",
        constructed(HealthyEncoder, lambda self: setattr(self, "latent_space", LatentSpace(2, 2))),
    ),
    (
        "latent_space_is_as_declared",
        constructed(HealthyDecoder, lambda self: setattr(self, "image_channels", 1)),
    ),
    ("odd_sizes_work", before_encoding(_refuse_odd)),
    ("without_a_generator_it_takes_the_mode", broken(HealthyEncoder, encode=_shifted_mode)),
    ("a_size_off_the_stride_is_refused", broken(HealthyEncoder, encode=_crop_to_stride)),
    ("tiles_give_what_the_whole_gives", broken(HealthyDecoder, decode=_with_seams)),
    ("tiles_give_what_the_whole_gives", broken(HealthyEncoder, working_memory=lambda *_: None)),
    (
        "training_is_as_declared",
        constructed(HealthyDenoiser, lambda self: setattr(self, "prediction", Prediction.V)),
    ),
    (
        "training_is_as_declared",
        constructed(
            HealthyDenoiser,
            lambda self: setattr(self, "training_schedule", HealthySchedule(ScheduleConfig())),
        ),
    ),
    ("output_has_the_shape_of_its_input", output_of(HealthyDenoiser, lambda p: torch.cat([p, p], 1))),
    ("output_has_the_shape_of_its_input", broken(HealthyDenoiser, size_multiple=1, forward=_cropped)),
    ("other_sizes_are_refused_or_kept", broken(HealthyDenoiser, forward=_cropped)),
    ("other_sizes_are_refused_or_kept", broken(HealthyDenoiser, latent_size=(4, 6))),
    ("one_level_serves_a_whole_batch", broken(HealthyDenoiser, time=_at_first_level_only)),
    ("output_depends_on_the_level", broken(HealthyDenoiser, time=lambda self, z, level: 0.5)),
    ("conditions_are_as_declared", relabelled(lambda self, condition: {})),
    (
        "conditions_are_as_declared",
        relabelled(lambda self, condition: condition or {"class_label": torch.tensor([0])}),
    ),
    (
        "labels_out_of_range_are_refused",
        relabelled(lambda self, condition: {name: label.clamp_max(3) for name, label in condition.items()}),
    ),
    (
        "levels_keep_the_identity_of_their_scaling",
        constructed(
            HealthySchedule,
            lambda self: setattr(
                self, "level", lambda time: NoiseLevel.at(8 - 16 * time.double() / 99, Scaling.FLOW)
            ),
        ),
    ),
    (
        "noise_grows_with_time",
        broken(
            HealthySchedule,
            level=lambda self, time: HealthySchedule.level(self, self.config.steps - 1 - time),
        ),
    ),
    (
        "time_range_is_as_declared",
        constructed(HealthySchedule, lambda self: setattr(self, "time_range", (0.0, 100.0))),
    ),
    (
        "time_range_is_as_declared",
        broken(HealthySchedule, time=lambda self, level: (8 - level.log_snr) / 16 * 99),
    ),
    (
        "time_inverts_level",
        broken(HealthySchedule, time=lambda self, level: HealthySchedule.time(self, level) * (1 + 1e-12)),
    ),
    (
        "time_inverts_level",
        broken(
            HealthySchedule,
            time=lambda self, level: HealthySchedule.time(self, NoiseLevel(level.alpha, 1.01 * level.sigma)),
        ),
    ),
    (
        "levels_are_double_and_of_the_shape_of_time",
        broken(HealthySchedule, time=lambda self, level: HealthySchedule.time(self, level).float()),
    ),
    (
        "between_steps_the_level_is_interpolated",
        broken(HealthySchedule, level=lambda self, time: HealthySchedule.level(self, time.floor())),
    ),
    (
        "inputs_and_outputs_are_named",
        constructed(HealthyConditioner, lambda self: setattr(self, "inputs", ["prompt", "style"])),
    ),
    (
        "inputs_and_outputs_are_named",
        constructed(HealthyConditioner, lambda self: setattr(self, "outputs", {})),
    ),
    ("outputs_are_as_declared", encoding(lambda given: {"text_embedding": given["text_embedding"]})),
    (
        "outputs_are_as_declared",
        encoding(lambda given: {**given, "text_embedding": given["text_embedding"].mean(1)}),
    ),
    ("outputs_are_as_declared", encoding(lambda given: {**given, "text_mask": given["text_mask"].long()})),
    (
        "output_depends_on_each_text",
        broken(
            HealthyConditioner,
            ids=lambda self, texts: HealthyConditioner.ids(
                self, {**texts, "style": [""] * len(texts["style"])}
            ),
        ),
    ),
    (
        "samples_do_not_depend_on_their_batch",
        encoding(
            lambda given: {**given, "text_mask": given["text_mask"].any(0, keepdim=True) | given["text_mask"]}
        ),
    ),
    (
        "saved_and_loaded_it_is_the_same",
        constructed(
            HealthyConditioner,
            lambda self: setattr(self, "config", ConditionerConfig(width=6)),
        ),
    ),
    ("modifies_names_kinds", constructed(HealthyModifier, lambda self: setattr(self, "modifies", ()))),
    (
        "modifies_names_kinds",
        constructed(HealthyModifier, lambda self: setattr(self, "modifies", ["decoder"])),
    ),
    ("a_modified_part_is_of_its_kind", modifying(lambda part: fresh_encoder())),
    ("a_modified_part_is_of_its_kind", modifying(_claims_another_stride)),
    ("a_modified_part_is_of_its_kind", modifying(_grows)),
    ("two_modifications_agree", modifying(lambda part: _shaken(part, torch.rand(())))),
    ("modifying_leaves_global_state_alone", modifying(lambda part: _shaken(part, torch.rand(())))),
    ("levels_run_from_noise_to_data", levelled(lambda n: NoiseLevels(n.alpha.flip(0), n.sigma.flip(0)))),
    ("levels_run_from_noise_to_data", levelled(lambda n: NoiseLevels(n.alpha.float(), n.sigma.float()))),
    (
        "starting_noise_has_the_std_of_the_first_level",
        levelled(lambda n: NoiseLevels(n.alpha, n.sigma, prior_std=14.6)),
    ),
    ("each_step_lands_on_the_next_level", sampling(_stale_level)),
    ("a_point_mass_is_returned", sampling(_left_over)),
    ("runs_do_not_leak_into_one_another", sampling(_with_history)),
    ("nothing_happens_before_it_is_pulled", sampling(_eager)),
    ("single_precision_agrees_with_double", sampling(_coarse)),
    ("runs_in_float32", output_of(HealthyDecoder, lambda image: image.double())),
    ("runs_in_float64", output_of(HealthyDecoder, lambda image: image.float())),
    ("runs_in_bfloat16", before_encoding(lambda self, image: self.convolution(image.float()))),
    ("runs_in_bfloat16", output_of(HealthyDecoder, lambda image: image / (image - image))),
    (
        "output_follows_input_to_every_device",
        output_of(HealthyDecoder, lambda image: torch.zeros(image.shape)),
    ),
    ("output_follows_input_to_every_device", broken(HealthyDenoiser, time=_tensor_of_level)),
    ("runs_in_float32", broken(HealthyDenoiser, time=_tensor_of_level)),
    ("two_calls_agree", output_of(HealthyDecoder, lambda image: image + torch.rand(()))),
    ("one_generator_serves_a_whole_batch", broken(HealthyEncoder, encode=_only_a_list)),
    ("samples_do_not_depend_on_their_batch", output_of(HealthyDenoiser, lambda p: p - p.mean(0))),
    (
        "samples_do_not_depend_on_their_batch",
        broken(
            HealthyEncoder,
            encode=lambda self, image, generator=None: HealthyEncoder.encode(
                self, image, generator and generator[::-1]
            ),
        ),
    ),
    ("inputs_and_weights_are_left_alone", before_encoding(lambda self, image: image.mul_(0.5))),
    ("inputs_and_weights_are_left_alone", before_encoding(lambda self, image: self.convolution.bias.add_(1))),
    ("global_state_is_left_alone", before_encoding(lambda self, image: torch.manual_seed(0))),
    ("global_state_is_left_alone", before_encoding(lambda self, image: np.random.rand())),
    ("global_state_is_left_alone", before_encoding(lambda self, image: warnings.simplefilter("ignore"))),
    ("global_state_is_left_alone", before_encoding(lambda self, image: torch.set_num_threads(3))),
    (
        "global_state_is_left_alone",
        constructed(HealthyEncoder, lambda self: torch.set_float32_matmul_precision("medium")),
    ),
    (
        "gradients_are_finite",
        output_of(HealthyDecoder, lambda image: image + (image - image.detach()).abs().sqrt()),
    ),
    ("gradients_are_finite", output_of(HealthyDecoder, torch.detach)),
    (
        "gradients_are_finite",
        constructed(HealthyDecoder, lambda self: setattr(self, "unused", nn.Linear(2, 2))),
    ),
    (
        "builds_on_the_meta_device",
        constructed(
            HealthyEncoder,
            lambda self: self.register_buffer("std", torch.full((2, 1, 1), 0.1), persistent=False),
        ),
    ),
    (
        "builds_on_the_meta_device",
        constructed(
            HealthyEncoder, lambda self: self.register_buffer("std", torch.full((2, 1, 1), 0.1, device="cpu"))
        ),
    ),
    (
        "saved_and_loaded_it_is_the_same",
        broken(constructed(HealthyEncoder, _drawn_table), encode=_plus_shift),
    ),
    (
        "saved_and_loaded_it_is_the_same",
        constructed(HealthyEncoder, lambda self: setattr(self, "config", CodecConfig(latent_channels=5))),
    ),
]


@pytest.mark.parametrize(("name", "component"), BROKEN, ids=[name for name, _ in BROKEN])
def test_a_component_with_one_fault_fails_the_check_named_for_it(
    name: str, component: type[Component]
) -> None:
    config = Unserialised(stride=2) if component.Config is Unserialised else None
    before = snapshot()
    report = check_component(component, config, devices=("cpu", "meta"))
    assert name in {failure.name for failure in report.failures}
    assert all(failure.detail for failure in report.failures)
    assert snapshot() == before, "a broken component spoils what is run after it"


def test_no_check_is_without_a_component_that_fails_it() -> None:
    checks = {name for kind in Kind for name in check_names(kind)}
    elsewhere = {check.name for check in promises.CHECKS}  # tests/authoring/test_promises.py
    elsewhere.add("listing_imports_neither_it_nor_torch")  # below
    assert checks - {name for name, _ in BROKEN} == elsewhere


def test_a_distribution_that_imports_torch_at_listing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    report = check_component(HEALTHY[Kind.ENCODER])
    details = {failure.name: failure.detail for failure in report.failures}
    assert details["listing_imports_neither_it_nor_torch"] == "listing imports torch"


def test_every_check_says_in_one_line_what_holds() -> None:
    for kind in Kind:
        assert all(about.endswith(".") for about in check_names(kind).values())


def test_all_failed_checks_come_at_once_with_what_was_got() -> None:
    component = broken(HealthyEncoder, name="My Codec", encode=_crop_to_stride)
    report = check_component(component, skip=NOT_INSTALLED)
    with pytest.raises(
        PluginError, match=r"encoder\.My Codec does not conform \(2 of \d+ checks failed\)"
    ) as caught:
        report.raise_if_failed()
    first, second = caught.value.problems
    assert first.startswith("kind_name_and_config_are_declared: name is 'My Codec'")
    assert second == "a_size_off_the_stride_is_refused: width 11 with stride 4 gave a latent of width 2"
    document = report.to_dict()
    assert document["passed"] is False
    assert {row["status"] for row in document["results"]} == set(Status)


def test_a_skipped_check_does_not_fail_and_keeps_its_reason() -> None:
    component = broken(HealthyEncoder, encode=_crop_to_stride)
    reasons = {**NOT_INSTALLED, "a_size_off_the_stride_is_refused": "it crops, as its paper says"}
    report = check_component(component, skip=reasons)
    assert report.passed
    assert {row.name: row.detail for row in report.results if row.status is Status.SKIPPED} == reasons
    report.raise_if_failed()


def test_what_a_class_is_exempt_from_is_left_out_wherever_it_is_tested() -> None:
    component = broken(
        HealthyEncoder,
        encode=_crop_to_stride,
        exempt_from={"a_size_off_the_stride_is_refused": "it crops, as its paper says"},
        conformance_config={"stride": 3},
    )
    report = check_component(component, skip=NOT_INSTALLED)
    assert report.passed
    reasons = {row.name: row.detail for row in report.results if row.status is Status.SKIPPED}
    assert reasons == {**NOT_INSTALLED, **component.exempt_from}
    suite: Any = type("Suite", (ComponentSuite,), {"component": component, "skip": NOT_INSTALLED})()
    with pytest.raises(SkipTest, match="as its paper says"):
        suite.test_a_size_off_the_stride_is_refused()
    suite.test_component_keeps_its_config()
    broken_off = broken(HealthyEncoder, exempt_from={"two_calls_agree": ""})
    with pytest.raises(SpecError, match="not valid"):
        check_component(broken_off)


def test_a_failure_says_where_the_component_raised() -> None:
    report = check_component(broken(HealthyEncoder, encode=_refuse_odd_sizes), skip=NOT_INSTALLED)
    (failure,) = (one for one in report.failures if one.name == "odd_sizes_work")
    line = _refuse_odd_sizes.__code__.co_firstlineno
    assert failure.where == f"{__file__}:{line + 2}"


def _refuse_odd_sizes(self: Any, image: Tensor, generator: Any = None) -> Tensor:
    if image.shape[-2] // self.config.stride % 2:
        raise ValueError("an odd number of rows")
    return HealthyEncoder.encode(self, image, generator)


def test_a_skip_needs_a_known_check_and_a_reason() -> None:
    with pytest.raises(SpecError) as caught:
        check_component(HEALTHY[Kind.ENCODER], skip={"odd_size_works": "why", "two_calls_agree": " "})
    unknown, silent = caught.value.problems
    assert "did you mean 'odd_sizes_work'" in unknown
    assert silent == "'two_calls_agree' has no reason"


def test_a_check_of_another_kind_cannot_be_skipped() -> None:
    with pytest.raises(SpecError, match="noise_grows_with_time"):
        check_component(HEALTHY[Kind.ENCODER], skip={"noise_grows_with_time": "it has no time"})


def test_a_config_without_defaults_has_to_be_given() -> None:
    class Needy(CodecConfig):
        depth: int = Field(description="Layers.")

    with pytest.raises(SpecError, match="give a small `config`"):
        check_component(broken(HealthyEncoder, Config=Needy))


def test_the_test_class_has_a_test_for_each_check_which_skips_and_fails_like_it() -> None:
    class Suite(ComponentSuite):
        component = broken(HealthyEncoder, encode=_crop_to_stride)
        skip = NOT_INSTALLED

    tests = {name.removeprefix("test_") for name in dir(Suite) if name.startswith("test_")}
    assert tests == set(check_names(Kind.ENCODER))
    suite: Any = Suite()
    suite.test_odd_sizes_work()
    with pytest.raises(SkipTest, match="defined in this test"):
        suite.test_an_installed_distribution_declares_it()
    with pytest.raises(AssertionError, match="width 11 with stride 4"):
        suite.test_a_size_off_the_stride_is_refused()


def test_a_test_class_with_an_invalid_skip_is_refused_when_it_is_defined() -> None:
    with pytest.raises(SpecError, match="no reason"):
        type(
            "Suite", (ComponentSuite,), {"component": HEALTHY[Kind.ENCODER], "skip": {"two_calls_agree": ""}}
        )
