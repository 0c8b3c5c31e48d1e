"""The interfaces that plugins implement, and the values that cross them.

Shapes: B batch, C channels, H and W height and width (of the image or of the latent, as the argument
says), N steps. `z_t = alpha * x0 + sigma * epsilon` throughout, with `x0` in denoiser space: unit variance
per channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ldm_registry.noise import Generators as Generators
from ldm_registry.noise import NoiseLevel as NoiseLevel
from ldm_registry.noise import NoiseLevels as NoiseLevels
from ldm_registry.noise import broadcast as broadcast
from ldm_registry.noise import randn as randn
from ldm_registry.vocabulary import Kind, Prediction, Scaling

Condition = Mapping[str, Tensor]
"""Conditioning inputs by name, each with a leading batch dimension B."""


class ComponentConfig(BaseModel):
    """Base of every component's config: frozen, strict about keys, made of scalars and tuples.

    The same object is the spec's `config:` block, the checkpoint's `config.json` and what `ldm show` prints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """Where a codec's latents live.

    Attributes:
        channels: Channels of the latent.
        stride: Pixels along one side of the image for each latent cell.
    """

    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class Conditioning:
    """One input that a denoiser accepts beside `z`.

    Attributes:
        shape: Shape of one sample's value; () for a class label. None where any length is accepted.
        dtype: Of the tensor.
        classes: Number of classes, for a label.
        null: The label that stands for "no condition"; None where there is none.
        optional: Whether the denoiser runs without it.
    """

    shape: tuple[int | None, ...] = ()
    dtype: torch.dtype = torch.int64
    classes: int | None = None
    null: int | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class DenoiserOutput:
    """What a denoiser puts out.

    Attributes:
        prediction: [B, C, H, W], of the denoiser's declared prediction type.
        variance: [B, C, H, W] in [-1, 1], the interpolation between the two bounds of the reverse variance
            (Eq. 15, Nichol and Dhariwal 2021), where the network learned one.
    """

    prediction: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Denoised:
    """What a sampler gets back when it asks for a clean sample.

    Attributes:
        x0: [B, C, H, W], the estimate of the clean latent.
        variance: As in `DenoiserOutput`.
    """

    x0: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step that a sampler has taken.

    Attributes:
        index: 0 for the first step, N - 1 for the last.
        level: The level that `z` has now, after the step.
        z: [B, C, H, W] at that level.
        x0: [B, C, H, W], the estimate of the clean latent that the step used.
    """

    index: int
    level: NoiseLevel
    z: Tensor
    x0: Tensor


Denoise = Callable[[Tensor, NoiseLevel], Denoised]
"""`(z [B, C, H, W], level) -> Denoised`; all that a sampler ever sees of a network."""


class Component(nn.Module, ABC):
    """Something that a plugin registers under (kind, name). Concrete classes are final.

    Attributes:
        kind: Which interface it implements.
        name: Lower-case words joined by hyphens (schedules: by underscores, as the field writes them).
        Config: The class of its config.
        sibling_prefixes: Prefixes of the tensors in its checkpoint that belong to the other half of a codec.
        diffusers_class: The class of diffusers (or transformers) whose config keys and tensor names these are, if any.
        also_reads: Further classes whose checkpoints it reads: other names of that class, or classes that differ
            from it in nothing that matters here.
        renamed_tensors: (pattern, replacement) pairs for `re.sub`, tried on the name of every stored tensor that the
            component does not know: the names that older versions of the library wrote. A 1x1 convolution under
            an old name fits a linear layer.
        ignored_tensors: Patterns, matched in full, of stored tensors that hold nothing which is not in the config.
        conformance_config: Keys and values of `Config` that the conformance suite tries it with, where it is given no
            config: small, so that the suite takes seconds.
        exempt_from: Checks of the conformance suite that cannot hold, each with the reason, which is shown.
        config: What it was built from.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    Config: ClassVar[type[ComponentConfig]]
    sibling_prefixes: ClassVar[tuple[str, ...]] = ()
    diffusers_class: ClassVar[str | None] = None
    also_reads: ClassVar[tuple[str, ...]] = ()
    renamed_tensors: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignored_tensors: ClassVar[tuple[str, ...]] = ()
    conformance_config: ClassVar[Mapping[str, Any]] = {}
    exempt_from: ClassVar[Mapping[str, str]] = {}
    config: ComponentConfig

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a stored config in the keys of `Config`; for configs that other versions or classes wrote.

        Args:
            values: A `config.json` without the keys that start with `_` and are not the component's own.

        Raises:
            SpecError: A key has a value that the component cannot honour; all of them.
        """
        return values


class NoiseSchedule(Component):
    """How much noise there is at each time. Holds no parameters; computes in float64 on the CPU.

    Time runs from data to noise. A discrete schedule counts steps 0 ... T - 1, a continuous one runs over an
    interval. `level` and `time` are each other's inverse; between the steps of a discrete schedule both
    interpolate linearly in `log(sigma / alpha)`, and a level that came from an integer step gives exactly
    that integer back.

    Attributes:
        scaling: The units of the levels.
        steps: T, or None for a continuous schedule.
        time_range: (cleanest, noisiest) time; (0, T - 1) for a discrete schedule.
    """

    kind = Kind.SCHEDULE
    scaling: Scaling
    steps: int | None
    time_range: tuple[float, float]

    @abstractmethod
    def level(self, time: Tensor) -> NoiseLevel:
        """The level at a time (any shape), in float64."""

    @abstractmethod
    def time(self, level: NoiseLevel) -> Tensor:
        """The time of a level in any scaling, float64, clamped to `time_range`."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How a denoiser was trained: what its network puts out, and which noise it saw.

    Attributes:
        prediction: What the network puts out.
        schedule: The noise schedule of the training.
        time_scale: What the network is fed is `time_scale * schedule.time(level)`.
    """

    prediction: Prediction
    schedule: NoiseSchedule
    time_scale: float = 1.0
    _known: dict[tuple[float, float], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def network_time(self, level: NoiseLevel) -> Tensor:
        """The number that the network's time embedding takes, float64 on the CPU, shape of the level.

        That of a single level is kept: every run of a sampler visits the same ones, and to look one up in the table of
        a discrete schedule takes as long as a small network.
        """
        if not level.is_single:
            return self.time_scale * self.schedule.time(level)
        if level.numbers not in self._known:
            # What is kept may outlive an inference mode, and be differentiated through elsewhere.
            with torch.inference_mode(False):
                self._known[level.numbers] = self.time_scale * self.schedule.time(level)
        return self._known[level.numbers]


class Encoder(Component):
    """Pixels to latents. Owns every normalisation between the two. Built as `cls(config)`.

    Attributes:
        latent_space: Where its latents live.
        image_channels: Channels of the image.
        tileable: Whether it can be computed in tiles, exactly; an instance says False where its config rules that out.
        tile_pixels: Side of a tile in pixels of the image; None for the whole image at once. Larger images are then
            computed tile by tile, except where a gradient is wanted.
    """

    kind = Kind.ENCODER
    latent_space: LatentSpace
    image_channels: int
    tileable: bool = False
    tile_pixels: int | None = None

    @abstractmethod
    def encode(
        self, image: Float[Tensor, "b c h w"], generator: Generators | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Encode images in [-1, 1] of shape [B, C, H, W] to latents [B, channels, H / stride, W / stride].

        Args:
            image: Pixels in [-1, 1]; H and W are multiples of the stride.
            generator: Samples the posterior when given; without one the mode is taken.

        Returns:
            Latents of mean 0 and variance 1 per channel over the training set.
        """

    def working_memory(self, batch: int, height: int, width: int) -> int | None:
        """Bytes that encoding takes at its peak with the present `tile_pixels` and dtype, or None where it cannot say.

        Pixels and latents are counted, weights are not.

        Args:
            batch: Images.
            height: Of an image in pixels.
            width: Of an image in pixels.
        """
        return None


class Decoder(Component):
    """Latents to pixels, the inverse of an encoder. Built as `cls(config)`.

    Attributes:
        latent_space: Where its latents live.
        image_channels: Channels of the image.
        tileable: Whether it can be computed in tiles, exactly; an instance says False where its config rules that out.
        tile_pixels: Side of a tile in pixels of the image; None for the whole image at once. Larger images are then
            computed tile by tile, except where a gradient is wanted.
    """

    kind = Kind.DECODER
    latent_space: LatentSpace
    image_channels: int
    tileable: bool = False
    tile_pixels: int | None = None

    @abstractmethod
    def decode(self, latent: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Decode latents to images nominally in [-1, 1], unclamped, of shape [B, C, H, W]."""

    def working_memory(self, batch: int, height: int, width: int) -> int | None:
        """Bytes that decoding takes at its peak with the present `tile_pixels` and dtype, or None where it cannot say.

        Pixels and latents are counted, weights are not.

        Args:
            batch: Images.
            height: Of an image in pixels.
            width: Of an image in pixels.
        """
        return None


class Denoiser(Component):
    """The network (or formula) that tells signal from noise. Built as `cls(config, trained)`.

    It owns how it was trained: a network of discrete steps, of VE sigmas or of EDM preconditioning maps the
    level to its own input itself, so that any denoiser runs under any scheduler.

    Attributes:
        prediction: What `forward` puts out.
        training_schedule: The noise that it was trained on; None when it is right at every level (an oracle).
        conditioning: The inputs that it accepts beside `z`, by name.
        latent_space: Channels that it works on; the stride is of no account to it.
        size_multiple: H and W of `z` have to be multiples of this (patch size, or 2**levels of a UNet).
        latent_size: The only (H, W) that it accepts, where a position embedding or a reference set fixes it.
    """

    kind = Kind.DENOISER
    prediction: Prediction
    training_schedule: NoiseSchedule | None
    conditioning: Mapping[str, Conditioning]
    latent_space: LatentSpace
    size_multiple: int
    latent_size: tuple[int, int] | None = None

    @abstractmethod
    def forward(self, z: Float[Tensor, "b c h w"], level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """Predict from a noisy latent.

        Args:
            z: `z_t / sqrt(alpha**2 + sigma**2)`, [B, C, H, W].
            level: Normalised to `alpha**2 + sigma**2 = 1`, shape [] or [B].
            condition: An entry for each name in `conditioning`; a missing one means null.
        """


class Scheduler(Component):
    """Which levels to visit and how to step between them: a sampler. Built as `cls(config, schedule, tokens)`.

    `schedule` is the noise schedule that it steps through (the denoiser's own unless the spec says otherwise)
    and `tokens` the number of patches that the denoiser sees, which resolution-dependent shifts need; None
    when it is unknown.
    """

    kind = Kind.SCHEDULER

    @abstractmethod
    def levels(self) -> NoiseLevels:
        """The N + 1 levels, noisiest first, in the schedule's own scaling."""

    @abstractmethod
    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        """Walk from noise to data.

        A generator: nothing happens before the first `next`, and multi-step history lives in its local
        variables, so no run leaks into the next.

        Args:
            denoise: Gives the clean estimate for `z` at a level; `z` is not normalised.
            z: [B, C, H, W] at `levels()[0]`, made with `levels().prior(noise)`.
            generator: Needed by stochastic samplers.

        Yields:
            N steps.
        """


class Conditioner(Component):
    """What people write to what a denoiser takes: prompts to embeddings. Built as `cls(config, tokenizer)`.

    `tokenizer` is the folder of the tokenizer's files, for a conditioner of text; None where there is none.

    Attributes:
        inputs: The names in a spec's `condition` that it reads, all of them texts.
        outputs: What it gives the denoiser, by name. Where several conditioners of a pipeline give one name,
            their tensors are joined along the last axis, in the order of the spec.
    """

    kind = Kind.CONDITIONER
    inputs: tuple[str, ...]
    outputs: Mapping[str, Conditioning]

    @abstractmethod
    def encode(self, texts: Mapping[str, Sequence[str]], size: tuple[int, int]) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            texts: For each of `inputs`, B texts. Classifier-free guidance encodes the negative texts in the same
                way, by default empty ones.
            size: (height, width) of the image in pixels.

        Returns:
            A tensor [B, ...] for each of `outputs`; [1, ...] where there is no input.
        """


class Modifier(Component):
    """Changes a finished part: its weights, its attributes, or what goes in and comes out. Built as `cls(config)`.

    Attributes:
        modifies: The kinds that it can be applied to.
    """

    kind = Kind.MODIFIER
    modifies: tuple[Kind, ...]

    @abstractmethod
    def modify(self, part: Component) -> Component:
        """The changed part.

        Args:
            part: With its weights, where it will run. It belongs to the modifier, which may change it in place.

        Returns:
            The same part, or another one that implements the same interface around it.

        Raises:
            SpecError: It cannot be applied to this part; says why.
        """
