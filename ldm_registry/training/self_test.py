"""What is measured when a checkpoint is saved, so that a later measurement has something to match."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ldm_registry.contracts import DenoisingError, LatentStatistics
from ldm_registry.data import to_unit
from ldm_registry.interfaces import Condition, Decoder, Denoiser, Encoder, NoiseLevel, randn
from ldm_registry.prediction import to_x0
from ldm_registry.trainable import DecoderOutput, has_training_view
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.seeds import seeded
from ldm_registry.vocabulary import Scaling

BATCH = 64
LOG_SNRS = tuple(float(value) for value in range(-4, 5))
"""Where a denoiser is measured, nats."""
SMALLEST_MSE = 1e-10
GOLDEN_VALUES = 16
GOLDEN_DECIMALS = 3


@torch.inference_mode()
def encoded(encoder: Encoder, images: Tensor, device: torch.device, *, seed: int | None = None) -> Tensor:
    """Latents of uint8 images, float32 on the CPU.

    Args:
        encoder: Already on the device.
        images: uint8 [N, C, H, W].
        device: To encode on.
        seed: Samples the posterior, each image by its own stream; None takes the mode.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = to_unit(images[start : start + BATCH]).to(device)
        streams = (
            None if seed is None else [seeded(seed, "latent", start + row) for row in range(len(pixels))]
        )
        parts.append(encoder.encode(pixels, streams).float().cpu())
    return torch.cat(parts).contiguous()


@torch.inference_mode()
def round_trip(encoder: Encoder, decoder: Decoder, pixels: Tensor, device: torch.device) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] through the codec and back, clamped, float32 on the CPU."""
    parts = [
        decoder.decode(encoder.encode(batch.to(device))).float().clamp(-1.0, 1.0).cpu()
        for batch in torch.split(pixels, BATCH)
    ]
    return torch.cat(parts)


def mean_psnr_db(made: Tensor, true: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio, for images [N, C, H, W] in [-1, 1]."""
    mse = (made - true).double().square().flatten(1).mean(1).clamp(min=SMALLEST_MSE)
    return float((10.0 * torch.log10(4.0 / mse)).mean())


def latent_statistics(latents: Tensor) -> LatentStatistics:
    """Mean and standard deviation per channel of latents [N, C, H, W]."""
    values = latents.double()
    std, mean = torch.std_mean(values, dim=(0, 2, 3), correction=0)
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()), images=len(latents))


@torch.inference_mode()
def decoder_statistics(decoder: Decoder, latents: Tensor, device: torch.device) -> Mapping[str, float]:
    """What a decoder's training view reports of latents [N, C, H, W] taken as one batch: `perplexity`, `dead_codes`.

    Empty for a decoder without a training view.
    """
    if not has_training_view(decoder):
        return {}
    output = decoder(latents.to(device))
    return output.statistics if isinstance(output, DecoderOutput) else {}


def denoising_errors(
    denoiser: Denoiser,
    latents: Tensor,
    condition: Condition,
    gaussian: GaussianFit,
    device: torch.device,
    *,
    seed: int = 0,
) -> tuple[DenoisingError, ...]:
    """Mean squared error of x0 at each of `LOG_SNRS`, beside that of the Gaussian-optimal denoiser.

    Args:
        denoiser: Already on the device.
        latents: [N, C, H, W] of the validation set, in denoiser space.
        condition: Of the latents.
        gaussian: Fitted to the training set's latents.
        device: To run on.
        seed: Of the noise; the same noise at every level and for both denoisers.
    """
    noise = randn(latents.shape, seeded(seed, "self-test"))
    found = []
    for log_snr in LOG_SNRS:
        level = NoiseLevel.at(torch.tensor(log_snr, dtype=torch.float64), Scaling.VP)
        z = level.add_noise(latents, noise)
        ours = torch.cat([x0.cpu() for x0 in _clean(denoiser, z, level, condition, device)])
        found.append(
            DenoisingError(
                log_snr=log_snr,
                x0_mse=_mse(ours, latents),
                gaussian_x0_mse=_mse(gaussian.denoise(z, level), latents),
            )
        )
    return tuple(found)


def gaussian_ratio(errors: Sequence[DenoisingError]) -> float:
    """Mean over levels of our error divided by the Gaussian-optimal denoiser's; below 1 beats it."""
    return sum(one.x0_mse / one.gaussian_x0_mse for one in errors) / len(errors)


def golden(outputs: Tensor) -> tuple[str, tuple[float, ...]]:
    """SHA-256 of rounded values, and the first few of them."""
    rounded = outputs.detach().double().cpu().round(decimals=GOLDEN_DECIMALS) + 0.0
    return hashlib.sha256(rounded.numpy().tobytes()).hexdigest(), tuple(
        rounded.flatten()[:GOLDEN_VALUES].tolist()
    )


@torch.inference_mode()
def _clean(
    denoiser: Denoiser, z: Tensor, level: NoiseLevel, condition: Condition, device: torch.device
) -> Iterator[Tensor]:
    for start in range(0, len(z), BATCH):
        batch = z[start : start + BATCH].to(device)
        given: Mapping[str, Tensor] = {
            name: values[start : start + BATCH].to(device) for name, values in condition.items()
        }
        yield to_x0(denoiser.prediction, denoiser(batch, level, given).prediction.float(), batch, level)


def _mse(made: Tensor, true: Tensor) -> float:
    return float((made.double() - true.double()).square().mean())
