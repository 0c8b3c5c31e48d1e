"""Golden outputs: what a part puts out for inputs that anybody can make again.

They are recorded in a contract when a checkpoint is saved. A part that puts out the same later is the part that was
saved, whatever lies between: loader, precision, device, or a hand in the code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from ldm_registry.contracts import GoldenOutput
from ldm_registry.interfaces import Decoder, Denoiser, Encoder, NoiseLevel, randn
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind, Scaling

LOG_SNRS = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Where a denoiser is asked, nats."""
VALUES = 64
"""Stored of one output, evenly spread over it."""
DIGITS = 4
"""Of a recorded value, counted from the size of its output or, for a larger output, from 1."""
LABEL = "class_label"
_TOKENS = 8
"""Length of an input whose length is open."""


def golden_codec(encoder: Encoder, decoder: Decoder, size: tuple[int, int]) -> tuple[GoldenOutput, ...]:
    """The golden outputs of the two halves of a codec.

    Args:
        encoder: Ready for inference.
        decoder: Ready for inference.
        size: (height, width) of the image, pixels.
    """
    stride = decoder.latent_space.stride
    image = (encoder.image_channels, *size)
    latent = (decoder.latent_space.channels, size[0] // stride, size[1] // stride)
    questions = [
        *(GoldenOutput(kind=Kind.ENCODER, shape=image, seed=seed) for seed in range(2)),
        *(GoldenOutput(kind=Kind.DECODER, shape=latent, seed=seed) for seed in range(2)),
    ]
    return tuple(
        _answered(question, answer(encoder if question.kind is Kind.ENCODER else decoder, question))
        for question in questions
    )


def golden_denoiser(denoiser: Denoiser, shape: tuple[int, int, int]) -> tuple[GoldenOutput, ...]:
    """The golden outputs of a denoiser over the noise levels that it was trained on.

    Args:
        denoiser: Ready for inference.
        shape: (channels, height, width) of the latent.
    """
    label = denoiser.conditioning.get(LABEL)
    low, high = _trained_range(denoiser)
    questions = [
        GoldenOutput(
            kind=Kind.DENOISER,
            shape=shape,
            seed=seed,
            log_snr=log_snr,
            label=seed % label.classes if label is not None and label.classes else None,
        )
        for seed, log_snr in enumerate(LOG_SNRS)
        if low <= log_snr <= high
    ]
    return tuple(_answered(question, answer(denoiser, question)) for question in questions)


@torch.inference_mode()
def answer(part: Encoder | Denoiser | Decoder, question: GoldenOutput) -> Tensor:
    """What a part puts out now, float64 on the CPU [values]; of a denoiser its estimate, read as v.

    As v (Salimans and Ho 2022) the network has an equal say at all noise levels, and a denoiser whose output is read
    as another prediction than it is gives another v.

    Args:
        part: On its device, in its dtype.
        question: The input; its values are not looked at.

    Raises:
        LdmError: The part refuses the input.
    """
    if isinstance(part, Denoiser):
        return answers_by_gain(part, question, (1.0,))[0]
    z = question_input(question).to(_like(part))
    return spread(part.encode(z) if isinstance(part, Encoder) else part.decode(z))


@torch.inference_mode()
def answers_by_gain(part: Denoiser, question: GoldenOutput, gains: Sequence[float]) -> Tensor:
    """As `answer`, with the input multiplied by each of K gains on its way into the denoiser: [K, values].

    The outputs are read as if the input had not been multiplied.

    Args:
        part: On its device, in its dtype.
        question: The input.
        gains: K of them, one batch.

    Raises:
        LdmError: The part refuses the input.
    """
    like, z = _like(part), question_input(question).expand(len(gains), -1, -1, -1)
    log_snr = torch.tensor(question.log_snr or 0.0, dtype=torch.float64, device="cpu")
    level = NoiseLevel.at(log_snr, Scaling.VP)
    condition = {
        name: value.expand(len(gains), *value.shape[1:])
        for name, value in _condition(part, question, like).items()
    }
    seen = z * torch.tensor(gains, dtype=z.dtype, device="cpu").reshape(-1, 1, 1, 1)
    output = part(seen.to(like), level, condition).prediction
    x0 = to_x0(part.prediction, output.double().cpu(), z.double(), level)
    return torch.stack([spread(one) for one in (level.alpha * z.double() - x0) / level.sigma])


def _like(part: Encoder | Denoiser | Decoder) -> Tensor:
    return next((one for one in part.parameters() if one.is_floating_point()), torch.empty(0))


def difference(found: Tensor, recorded: Sequence[float]) -> float:
    """Root mean square difference over the root mean square of what was recorded; infinite where it is no number.

    Args:
        found: [values].
        recorded: The same number of values.
    """
    golden = torch.tensor(recorded, dtype=torch.float64, device="cpu")
    if len(found) != len(golden):
        return math.inf
    scale = golden.square().mean().sqrt().clamp(min=10.0**-DIGITS)
    distance = float((found - golden).square().mean().sqrt() / scale)
    return distance if math.isfinite(distance) else math.inf


def _answered(question: GoldenOutput, found: Tensor) -> GoldenOutput:
    # An untrained network puts out next to nothing: as many digits of that as of an output of size 1.
    size = float(found.square().mean().sqrt().clamp(10.0**-DIGITS, 1.0))
    decimals = DIGITS - math.floor(math.log10(size)) if math.isfinite(size) else DIGITS
    return question.model_copy(update={"values": tuple((found.round(decimals=decimals) + 0.0).tolist())})


def spread(output: Tensor) -> Tensor:
    """Values from all over an output: [at most `VALUES`]."""
    values = output.detach().double().cpu().flatten()
    # A step that shares no factor with the sizes of an image visits all of its channels, rows and columns.
    rows = torch.arange(min(VALUES, len(values)), device="cpu") * 7919 % len(values)
    return values[rows]


def question_input(question: GoldenOutput) -> Tensor:
    """[1, C, H, W], float32 on the CPU: pixels that vary smoothly within [-1, 1], or standard normal latents."""
    channels, height, width = question.shape
    generator = torch.Generator().manual_seed(question.seed)
    if question.kind is not Kind.ENCODER:
        return randn((1, *question.shape), generator)
    coarse = randn((1, channels, max(2, height // 8), max(2, width // 8)), generator)
    return torch.tanh(functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False))


def _condition(denoiser: Denoiser, question: GoldenOutput, like: Tensor) -> Mapping[str, Tensor]:
    return dict(_conditions(denoiser, question, like))


def _conditions(denoiser: Denoiser, question: GoldenOutput, like: Tensor) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(question.seed + 1)
    for name, accepted in denoiser.conditioning.items():
        shape = (1, *(_TOKENS if length is None else length for length in accepted.shape))
        if name == LABEL and question.label is not None:
            yield name, torch.tensor([question.label], device=like.device)
        elif accepted.dtype.is_floating_point:
            yield name, randn(shape, generator).to(like)
        elif not accepted.optional:
            size = prod(shape)
            yield name, torch.ones(size, device=like.device).reshape(shape).to(accepted.dtype)


def _trained_range(denoiser: Denoiser) -> tuple[float, float]:
    """Log-SNRs, nats."""
    schedule = denoiser.training_schedule
    if schedule is None:
        return -math.inf, math.inf
    ends = torch.tensor(schedule.time_range, dtype=torch.float64, device="cpu")
    low, high = sorted(schedule.level(ends).log_snr.tolist())
    return low, high
