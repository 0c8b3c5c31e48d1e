"""SUB: replace every subset of the stages by something that is right, and share the lost quality among them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ldm_registry.diagnostics.evidence import Picture, Stages
from ldm_registry.diagnostics.oracles import (
    HIGHEST_LOG_SNR,
    KnownLatents,
    KnownPairs,
    reference_levels,
    reference_sample,
)
from ldm_registry.diagnostics.probe import affordable, mse_per_image, trained_range, vp_level
from ldm_registry.diagnostics.reference_latents import Reference, least_psnr_db, references
from ldm_registry.diagnostics.report import Substitution
from ldm_registry.diagnostics.shapley import shapley_values, subsets
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.wiener import Wiener
from ldm_registry.interfaces import Denoise, Denoised, NoiseLevel
from ldm_registry.vocabulary import STAGES, Kind

LOG_SNR = -0.5
"""Where known latents are noised to, nats: half of what makes the image is left for the denoiser to find."""
SPREAD = 0.3
"""Of the oracle denoiser; its errors stay below those of a trained one."""
LARGEST_RATIO = 1e3
NOTICEABLE_DB = 1.0
"""Healthy pipelines of the bundled specs lose nothing at all against the allowance, under any of their samplers."""
POSTERIOR_SAMPLE = 2.0
"""The squared error of a sample of the posterior is twice that of its mean."""
STREAM = 61
REFERENCE_STEPS = 16
METRIC = "quality lost against a healthy pipeline on known images, round trip and regeneration together (dB of PSNR)"


def substitute(subject: Subject) -> Substitution:
    """Score the pipeline with each of the 16 subsets of its stages replaced.

    Two tasks with a known answer: the round trip of images through the codec, and their regeneration (encode, noise
    to a medium level, sample from there, decode). A run loses what its squared error exceeds that of a healthy
    pipeline by, as the contracts record it (Wiener filter where they record nothing), in dB.

    The encoder is replaced by latents that were judged right (`references`), the denoiser by the exact posterior mean
    around the latents that entered it, the scheduler by a reference sampler from the medium level on, and the decoder
    by known pairs with a linear response around them.
    """
    begin = time.perf_counter()
    count = min(affordable(subject, 24, least=6, share=4.0), len(subject.images))
    images = subject.images[:count]
    found = references(subject, images)
    trials = [_Trial(subject, images, reference) for reference in found]
    tables = [trial.losses() for trial in trials]
    losses = {
        stages: sum(table[stages] for table in tables) / len(tables) for stages in subsets(tuple(STAGES))
    }
    notes = [f"reference latents: {reference.about}" for reference in found]
    if len(found) > 1:
        notes.append(
            "encoder and decoder cannot be told apart by substitution; their shares are halves of one"
        )
    return Substitution(
        METRIC,
        losses,
        shapley_values(tuple(STAGES), {stages: -loss for stages, loss in losses.items()}),
        NOTICEABLE_DB,
        trials[0].pictures(),
        tuple(notes),
        time.perf_counter() - begin,
    )


@dataclass(frozen=True)
class _Trial:
    """All runs against one answer to what the latents of the images are."""

    subject: Subject
    images: Tensor
    reference: Reference

    @cached_property
    def latents(self) -> dict[bool, Tensor]:
        """What comes out of the encoder, by whether it was replaced."""
        return {False: self.subject.encode(self.images), True: self.reference.latents}

    @cached_property
    def is_same_encoder(self) -> bool:
        gap = (self.latents[False] - self.latents[True]).abs().max()
        return bool(gap <= 1e-3)

    @cached_property
    def pairs(self) -> KnownPairs:
        return KnownPairs.of(self.reference.latents, self.images)

    @cached_property
    def noise(self) -> Tensor:
        return self.subject.noise(self.reference.latents, STREAM)

    @cached_property
    def condition(self) -> Mapping[str, Tensor]:
        return {name: values[: len(self.images)] for name, values in self.subject.condition.items()}

    @cached_property
    def regenerated(self) -> dict[Stages, Tensor]:
        """Latents after sampling, by which of encoder, denoiser and scheduler were replaced."""
        found: dict[Stages, Tensor] = {}
        for replaced in subsets((Kind.ENCODER, Kind.DENOISER, Kind.SCHEDULER)):
            twin = replaced - {Kind.ENCODER}
            known = self.is_same_encoder and twin in found
            found[replaced] = found[twin] if known else self._regenerate(replaced)
        return found

    @cached_property
    def codec_floor(self) -> Tensor:
        """Squared error [N] in pixels that a healthy codec may have."""
        floor = torch.full((len(self.images),), 1e-4, dtype=torch.float64)
        if not self._is_identity:
            floor = floor.clamp(min=4.0 / 10.0 ** (least_psnr_db(self.subject, self.images) / 10.0))
        return floor

    @cached_property
    def regeneration_floors(self) -> dict[bool, Tensor]:
        """Squared errors [N] in pixels that a healthy regeneration may have, by whether an oracle denoises.

        The oracle errs less than a network does, so less is allowed to what runs with it: otherwise its head room would
        hide what the other stages lose, and all of them would seem to restore the quality.
        """
        level = vp_level(LOG_SNR)
        latents = self.reference.latents
        wiener = Wiener.of(latents)
        error = wiener.denoise(level.add_noise(latents, self.noise), level) - latents
        recorded = self._recorded_mse
        network = wiener.expected_mse(level) if recorded is None else recorded
        floors: dict[bool, Tensor] = {}
        for is_oracle in (False, True):
            allowed = POSTERIOR_SAMPLE * max(0.0 if is_oracle else network, SPREAD**2)
            scale = (allowed / max(float(error.square().mean()), 1e-12)) ** 0.5
            changed = self.pairs.decode(latents + scale * error).clamp(-1, 1)
            floors[is_oracle] = self.codec_floor + mse_per_image(changed, self.images)
        return floors

    @property
    def _is_identity(self) -> bool:
        return self.subject.pipe.decoder.latent_space.stride == 1

    @property
    def _recorded_mse(self) -> float | None:
        """Recorded error of x0 at the medium level, interpolated in log."""
        test = self.subject.recorded(Kind.DENOISER)
        points = sorted((one.log_snr, one.x0_mse) for one in test.denoising_error) if test else []
        for (low, before), (high, after) in pairwise(points):
            if low <= LOG_SNR <= high:
                part = (LOG_SNR - low) / (high - low)
                return math.exp((1 - part) * math.log(max(before, 1e-9)) + part * math.log(max(after, 1e-9)))
        return None

    def losses(self) -> dict[Stages, float]:
        """In dB, by which stages were replaced."""
        found: dict[Stages, float] = {}
        for replaced in subsets(tuple(STAGES)):
            returned, regenerated = self._made(replaced)
            floor = self.regeneration_floors[Kind.DENOISER in replaced]
            found[replaced] = _loss_db(returned, self.images, self.codec_floor)
            found[replaced] += _loss_db(regenerated, self.images, floor)
        return found

    @cached_property
    def _decoded(self) -> dict[tuple[str, Stages], Tensor]:
        return {}

    def _made(self, replaced: Stages) -> tuple[Tensor, Tensor]:
        """Images of the round trip, and of regeneration."""
        before = replaced - {Kind.DECODER}
        has_oracle = Kind.DECODER in replaced
        return (
            self._decode("latents", replaced & {Kind.ENCODER}, has_oracle),
            self._decode("regenerated", before, has_oracle),
        )

    def _decode(self, task: str, before: Stages, has_oracle: bool) -> Tensor:
        is_codec = task == "latents"
        latents = self.latents[Kind.ENCODER in before] if is_codec else self.regenerated[before]
        if has_oracle:
            return self.pairs.decode(latents)
        if self.is_same_encoder:
            before = before - {Kind.ENCODER}
        known = self._decoded.get((task, before))
        if known is None:
            known = self._decoded[task, before] = self.subject.decode(latents)
        return known

    @torch.inference_mode()
    def _regenerate(self, replaced: Stages) -> Tensor:
        start = self.latents[Kind.ENCODER in replaced]
        oracle = KnownLatents(start, SPREAD)
        denoise: Denoise = oracle if Kind.DENOISER in replaced else self._denoise
        if Kind.SCHEDULER in replaced:
            high = min(HIGHEST_LOG_SNR, trained_range(self.subject)[1])
            steps = REFERENCE_STEPS // 2 if self.subject.quick else REFERENCE_STEPS
            levels = reference_levels(LOG_SNR, high, steps)
            return reference_sample(denoise, levels[0].add_noise(start, self.noise), levels)
        return self._sampled(start, oracle, denoise)

    def _denoise(self, z: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(self.subject.clean(z, level, self.condition))

    def _sampled(self, start: Tensor, oracle: KnownLatents, denoise: Denoise) -> Tensor:
        """The scheduler's own walk, from its first level; down to the medium level the oracle leads it."""
        scheduler = self.subject.pipe.scheduler
        levels = scheduler.levels()
        first = levels[0]
        z = levels.prior(first.add_noise(start, self.noise) / float(first.std))

        def led(z: Tensor, level: NoiseLevel) -> Denoised:
            is_early = float(level.log_snr.min()) < LOG_SNR - 1e-6
            return (oracle if is_early else denoise)(z, level)

        generators = [torch.Generator().manual_seed(self.subject.seed + row) for row in range(len(start))]
        for step in scheduler.trajectory(led, z, generators):
            z = step.z
        return z.float()

    def pictures(self) -> tuple[Picture, ...]:
        """Known images, the same regenerated as it is, and with one stage replaced in turn: a row for each."""
        rows = [("known images", self.images), ("as it is", self._made(frozenset())[1])]
        rows += [(f"{stage} replaced", self._made(frozenset({stage}))[1]) for stage in STAGES]
        return tuple(
            Picture(title, f"{title}: {min(len(made), 8)} images in a row", _strip(made))
            for title, made in rows
        )


def _strip(images: Tensor, count: int = 8) -> Tensor:
    shown = images[:count].nan_to_num().clamp(-1, 1)
    shown = shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown[:, :3]
    return torch.cat(list(shown), dim=2).float().cpu()


def _loss_db(made: Tensor, true: Tensor, floor: Tensor) -> float:
    """By how much the squared error exceeds what is allowed, mean over images; at least 0, and bounded."""
    ratio = mse_per_image(made.clamp(-1, 1), true) / floor
    return max(0.0, float((10.0 * torch.log10(ratio.clamp(1e-4, LARGEST_RATIO))).mean()))
