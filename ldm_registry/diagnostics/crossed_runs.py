"""Images of a pipeline with any of its stages taken from another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ldm_registry.conditioning import condition_of
from ldm_registry.contracts import Parts, check
from ldm_registry.diagnostics.evidence import Stages
from ldm_registry.diagnostics.oracles import KnownLatents
from ldm_registry.diagnostics.probe import mse_per_image
from ldm_registry.diagnostics.recorded_run import Recorded, record
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import Denoised, Denoiser, NoiseLevel
from ldm_registry.pipeline import Pipeline
from ldm_registry.spec import PipelineSpec
from ldm_registry.vocabulary import STAGES, Kind

LOG_SNR = -0.5
"""Where known latents are noised to, nats: half of what makes the image is left for the denoiser to find."""
SPREAD = 0.3
"""Of the exact denoiser that leads a sampler down to there."""
STREAM = 83
STEPS_OF_COLOUR = 127.5
"""8-bit steps per unit of pixels in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Images:
    """What one crossing makes, all float32 on the CPU in [-1, 1].

    Attributes:
        made: [B, C, H, W], from noise.
        returned: [N, C, H, W], known images after encoder and decoder.
        regenerated: [N, C, H, W], known images that were noised half way.
    """

    made: Tensor
    returned: Tensor
    regenerated: Tensor

    def difference(self, other: Images) -> float:
        """Root mean square in steps of 8-bit colour, mean over the three."""
        pairs = (
            (self.made, other.made),
            (self.returned, other.returned),
            (self.regenerated, other.regenerated),
        )
        gaps = [float((mine.double() - yours.double()).square().mean().sqrt()) for mine, yours in pairs]
        return STEPS_OF_COLOUR * sum(gaps) / len(gaps)


@dataclass(frozen=True)
class Crossings:
    """Two pipelines, and what both are shown.

    Attributes:
        one: The first: what is not taken from the second is its own.
        other: The second.
        images: [N, C, H, W] in [-1, 1], that both should return.
        condition: Of the images, for the denoiser of the first.
        count: How many images to make from noise.
        seed: Of all noise.
        recorded: A run of the first, of that count and seed.
    """

    one: Pipeline
    other: Pipeline
    images: Tensor
    condition: Mapping[str, Tensor]
    count: int
    seed: int
    recorded: Recorded
    _encoded: dict[bool, Tensor] = field(default_factory=dict, repr=False)
    _sampled: dict[Stages, Tensor] = field(default_factory=dict, repr=False)
    _regenerated: dict[Stages, Tensor] = field(default_factory=dict, repr=False)

    def pipeline(self, taken: Stages) -> Pipeline:
        """The first pipeline with these stages of the second; nothing is checked."""
        if taken == frozenset():
            return self.one
        parts = {kind.value: getattr(self.other, kind.value) for kind in taken}
        contracts = {
            kind: contract
            for kind in STAGES
            if (contract := (self.other if kind in taken else self.one).contracts.get(kind)) is not None
        }
        conditioners = (self.other if Kind.DENOISER in taken else self.one).conditioners
        return replace(
            self.one, spec=self._spec(taken), contracts=contracts, conditioners=conditioners, **parts
        )

    def misfits(self, taken: Stages) -> tuple[str, ...]:
        """Why these stages of the second do not fit the rest of the first; empty where they do.

        What is wrong with one of the two pipelines as it is does not count.
        """
        known = {text for pipe in (self.one, self.other) for text in _errors(pipe)}
        pipe = self.pipeline(taken)
        return tuple(text for text in _errors(pipe) if text not in known)

    @torch.inference_mode()
    def run(self, taken: Stages) -> Images:
        """All images of one crossing; what a stage makes of the same input is made once.

        Args:
            taken: Stages of the second.

        Raises:
            Exception: Whatever a stage raises that cannot deal with what another hands it.
        """
        pipe = self.pipeline(taken)
        subject = Subject(pipe, self.images, self._condition(pipe, taken), self.seed)
        has_encoder = Kind.ENCODER in taken
        if has_encoder not in self._encoded:
            self._encoded[has_encoder] = subject.latents
        middle = taken & {Kind.DENOISER, Kind.SCHEDULER}
        if middle not in self._sampled:
            made = record(pipe, self.count, self.seed) if middle else self.recorded
            self._sampled[middle] = made.latents
        before = taken - {Kind.DECODER}
        if before not in self._regenerated:
            self._regenerated[before] = _regenerated(subject, self._encoded[has_encoder])
        latents = (self._sampled[middle], self._encoded[has_encoder], self._regenerated[before])
        return Images(*(_shown(subject.decode(latent.float().cpu())) for latent in latents))

    def _spec(self, taken: Stages) -> PipelineSpec:
        """The spec of a crossing: image, condition and seed of the first as far as the second's denoiser takes them."""
        mine, yours = self.one.spec, self.other.spec
        changes = {kind.value: getattr(yours, kind.value) for kind in taken}
        if Kind.DENOISER in taken:
            changes |= {"conditioners": yours.conditioners, "guidance": yours.guidance}
            inputs = {name for part in self.other.conditioners.values() for name in part.inputs}
            if not set(mine.condition) <= inputs | set(self.other.denoiser.conditioning):
                changes["condition"] = yours.condition
        return mine.model_copy(update=changes).with_source(mine.source)

    def _condition(self, pipe: Pipeline, taken: Stages) -> Mapping[str, Tensor]:
        """What the denoiser of a crossing is told about the known images."""
        is_own = Kind.DENOISER not in taken
        has_texts = bool(self.one.conditioners or self.other.conditioners)
        if is_own or (not has_texts and _takes(pipe.denoiser, self.condition)):
            return self.condition
        image = pipe.spec.image
        return condition_of(
            pipe.denoiser,
            pipe.conditioners,
            pipe.spec.condition,
            range(len(self.images)),
            (image.height, image.width),
        )


def finest_parts(players: tuple[Kind, ...], runs: Iterable[Stages]) -> tuple[Stages, ...]:
    """The stages in the smallest groups that can be exchanged in every combination.

    Args:
        players: Stages that differ.
        runs: Every combination that can be run and means something.

    Returns:
        Groups in order of their first stage; one of all players where nothing smaller can be exchanged.
    """
    possible = {frozenset(), frozenset(players), *runs}
    found = [
        parts
        for parts in _partitions(players)
        if all(frozenset().union(*chosen) in possible for chosen in _subsets(parts))
    ]
    return max(found, key=len) if found else (frozenset(players),)


def _partitions(players: tuple[Kind, ...]) -> list[tuple[Stages, ...]]:
    if not players:
        return [()]
    first, rest = players[0], players[1:]
    found: list[tuple[Stages, ...]] = []
    for parts in _partitions(rest):
        found.append((frozenset({first}), *parts))
        for index, part in enumerate(parts):
            found.append((part | {first}, *parts[:index], *parts[index + 1 :]))
    return found


def _subsets(parts: tuple[Stages, ...]) -> list[tuple[Stages, ...]]:
    found: list[tuple[Stages, ...]] = [()]
    for part in parts:
        found += [(*chosen, part) for chosen in found]
    return found


def _errors(pipe: Pipeline) -> tuple[str, ...]:
    parts = Parts(
        pipe.encoder, pipe.denoiser, pipe.scheduler, pipe.decoder, pipe.contracts, pipe.conditioners
    )
    try:
        return check(pipe.spec, parts).errors
    except (LdmError, ArithmeticError, RuntimeError, ValueError) as error:
        return (f"{type(error).__name__}: {error}",)


def _takes(denoiser: Denoiser, condition: Mapping[str, Tensor]) -> bool:
    """Whether a denoiser accepts these inputs, classes included."""
    for name, values in condition.items():
        given = denoiser.conditioning.get(name)
        if given is None:
            return False
        if given.classes is not None and int(values.max()) >= max(given.classes, (given.null or 0) + 1):
            return False
    return True


def _regenerated(subject: Subject, latents: Tensor) -> Tensor:
    """Known latents, noised half way and sampled from there; down to the medium level the exact denoiser leads."""
    scheduler = subject.pipe.scheduler
    levels = scheduler.levels()
    first = levels[0]
    oracle = KnownLatents(latents, SPREAD)
    noisy = first.add_noise(latents, subject.noise(latents, STREAM))
    z = levels.prior(noisy / float(first.std))

    def led(z: Tensor, level: NoiseLevel) -> Denoised:
        if float(level.log_snr.min()) < LOG_SNR - 1e-6:
            return oracle(z, level)
        return Denoised(subject.clean(z, level))

    generators = [torch.Generator().manual_seed(subject.seed + row) for row in range(len(latents))]
    for step in scheduler.trajectory(led, z, generators):
        z = step.z
    return z.float()


def _shown(images: Tensor) -> Tensor:
    return images.float().nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0).clamp(-1, 1)


def psnr_db(made: Tensor, true: Tensor) -> float:
    """Mean over images, peak-to-peak range of 2.

    Args:
        made: [N, C, H, W] in [-1, 1].
        true: The same.
    """
    mse = mse_per_image(made, true).clamp(min=1e-10)
    return float((10.0 * torch.log10(4.0 / mse)).mean())
