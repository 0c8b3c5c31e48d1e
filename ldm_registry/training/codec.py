"""Training an encoder and a decoder as one autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ldm_registry.data import to_unit
from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import Decoder, Encoder
from ldm_registry.trainable import TrainableDecoder, TrainableEncoder, has_training_view
from ldm_registry.training.adversarial import PatchDiscriminator, adaptive_weight, hinge_loss, layers_for
from ldm_registry.training.images import pixels_of_step
from ldm_registry.training.loop import StepResult, autocast, finish_step, new_state, paced, reseed_dropout
from ldm_registry.training.optimizers import adamw, set_learning_rate
from ldm_registry.training.progress import Progress
from ldm_registry.training.seeds import seeded
from ldm_registry.training.self_test import mean_psnr_db, round_trip
from ldm_registry.training.settings import CodecTraining
from ldm_registry.training.state import TrainingState, load_state

DISCRIMINATOR_BETAS = (0.5, 0.9)


def train_codec(
    encoder: Encoder,
    decoder: Decoder,
    settings: CodecTraining,
    images: Tensor,
    *,
    validation: Tensor,
    folder: Path,
    identity: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = True,
) -> Iterator[Progress]:
    """Train the two halves of a codec, in place; afterwards they carry the averaged weights.

    Args:
        encoder: Its `forward` is the training view (`TrainableEncoder`).
        decoder: Its `forward` is the training view (`TrainableDecoder`).
        settings: Of the run.
        images: uint8 [N, C, H, W], to train on.
        validation: uint8 [M, C, H, W], for the figures.
        folder: Of the training state.
        identity: What a resumed run must agree with.
        device: To train on; the halves are moved there.
        resume: Go on from the state in the folder, if there is one.

    Yields:
        Reports, the last one with `stopped` set.

    Raises:
        ContractError: A half has no training view.
        SpecError: A loss has no weight, or the training diverged.
        CheckpointError: The state in the folder is of another training.
    """
    trainable = isinstance(encoder, TrainableEncoder) and has_training_view(encoder)
    if not trainable or not has_training_view(decoder):
        lacking = decoder if trainable else encoder
        raise ContractError(
            f"{lacking.kind} {lacking.name!r} cannot be trained: it has no training view `forward`"
        )
    device = torch.device(device)
    modules: dict[str, nn.Module] = {"encoder": encoder, "decoder": decoder}
    for module in modules.values():
        module.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's stubs
    state = new_state(modules, settings, identity or {}, device)
    if settings.adversarial:
        state = _with_discriminator(state, settings, images, device)
    if resume:
        load_state(state, folder)
    if settings.compile:
        encoder.compile()
        decoder.compile()
    steps = _steps(state, settings, images.to(device), validation[: settings.validation_images], device)
    yield from paced(state, steps, folder)
    encoder.eval()
    decoder.eval()
    state.average.keep()


def _with_discriminator(
    state: TrainingState, settings: CodecTraining, images: Tensor, device: torch.device
) -> TrainingState:
    """The same state with a discriminator, which is neither averaged nor given to muon."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        discriminator = PatchDiscriminator(
            images.shape[1], settings.adversarial_width, layers_for(min(images.shape[2:]))
        )
    discriminator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    optimizer = adamw(list(discriminator.parameters()), settings, DISCRIMINATOR_BETAS)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return TrainingState(
        {**state.modules, "discriminator": discriminator},
        {**state.optimizers, "discriminator": optimizer},
        state.average,
        state.scaler,
        state.identity,
        settings,
    )


def _steps(
    state: TrainingState, settings: CodecTraining, images: Tensor, validation: Tensor, device: torch.device
) -> Iterator[StepResult]:
    parameters = [one for name in ("encoder", "decoder") for one in state.modules[name].parameters()]
    while True:
        step = state.step
        set_learning_rate(state.optimizers, settings, step)
        reseed_dropout(state.modules, settings, step)
        pixels = pixels_of_step(images, settings, step, device)
        seeds = [seeded(settings.seed, "posterior", step, index) for index in range(len(pixels))]
        losses: dict[str, Tensor | float] = {}
        for part in range(settings.accumulate):
            rows = slice(part * settings.batch, (part + 1) * settings.batch)
            losses = _pass(state, settings, pixels[rows], seeds[rows], device)
        finish_step(state, parameters)
        due = settings.validate_every and state.step % settings.validate_every == 0
        yield StepResult(losses, _validate(state, validation, device) if due else {})


@dataclass(frozen=True, slots=True)
class _Reconstructed:
    image: Tensor
    reconstruction: Tensor
    loss: Tensor
    losses: dict[str, Tensor | float]


def _pass(
    state: TrainingState,
    settings: CodecTraining,
    pixels: Tensor,
    generators: list[torch.Generator],
    device: torch.device,
) -> dict[str, Tensor | float]:
    """One forward and backward pass: gradients add up, nothing is stepped."""
    made = _reconstruct(state, settings, pixels, generators, device)
    total, losses = made.loss, made.losses
    critic = state.modules.get("discriminator")
    playing = critic is not None and state.step >= settings.adversarial_start
    if playing:
        critic = cast(nn.Module, critic).requires_grad_(False)
        with autocast(settings, device):
            fooling = -critic(made.image).float().mean()
        weight = (
            adaptive_weight(made.reconstruction, fooling, made.image)
            if settings.adversarial_adaptive
            else 1.0
        )
        total = total + settings.adversarial * weight * fooling
        losses["adversarial"] = fooling.detach()
    state.scaler.scale(total / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch's stubs
    if playing:
        critic = cast(nn.Module, critic).requires_grad_(True)
        with autocast(settings, device):
            telling = hinge_loss(critic(pixels).float(), critic(made.image.detach()).float())
        state.scaler.scale(telling / settings.accumulate).backward()  # type: ignore[no-untyped-call]  # torch's stubs
        losses["discriminator"] = telling.detach()
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in losses.items()}


def _reconstruct(
    state: TrainingState,
    settings: CodecTraining,
    pixels: Tensor,
    generators: list[torch.Generator],
    device: torch.device,
) -> _Reconstructed:
    encoder = cast(TrainableEncoder, state.modules["encoder"])
    decoder = cast(TrainableDecoder, state.modules["decoder"])
    with autocast(settings, device):
        encoded = cast(nn.Module, encoder)(pixels, generators)
        decoded = cast(nn.Module, decoder)(encoded.latent)
    difference = decoded.image.float() - pixels
    reconstruction = (
        difference.abs().mean() if settings.reconstruction == "l1" else difference.square().mean()
    )
    regularisers: dict[str, Tensor] = {**encoded.losses, **decoded.losses}
    weights = _weights(settings, regularisers)
    total = reconstruction + sum(weights[name] * loss.float() for name, loss in regularisers.items())
    losses = {"reconstruction": reconstruction, **regularisers, **decoded.statistics}
    return _Reconstructed(decoded.image, reconstruction, total, losses)


def _weights(settings: CodecTraining, regularisers: Mapping[str, Tensor]) -> dict[str, float]:
    known = {
        "kl_nats": settings.kl,
        "commitment": settings.commitment,
        "codebook": settings.codebook,
        **settings.weights,
    }
    unknown = [name for name in regularisers if name not in known]
    if unknown:
        raise SpecError(
            "the codec reports losses that have no weight",
            unknown,
            hint=f"add them to the training's `weights:`, for example `weights: {{{unknown[0]}: 1.0}}`",
        )
    return known


def _validate(state: TrainingState, validation: Tensor, device: torch.device) -> dict[str, float]:
    encoder, decoder = cast(Encoder, state.modules["encoder"]), cast(Decoder, state.modules["decoder"])
    with state.average.applied():
        encoder.eval()
        decoder.eval()
        made = round_trip(encoder, decoder, to_unit(validation), device)
    encoder.train()
    decoder.train()
    return {"psnr_db": mean_psnr_db(made, to_unit(validation))}
