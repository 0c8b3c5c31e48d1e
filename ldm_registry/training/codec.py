"""Training an encoder and a decoder as one autoencoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ldm_registry.data import to_unit
from ldm_registry.errors import ContractError, SpecError
from ldm_registry.interfaces import Decoder, Encoder
from ldm_registry.trainable import TrainableEncoder, has_training_view
from ldm_registry.training.adversarial import PatchDiscriminator, adaptive_weight, hinge_loss, layers_for
from ldm_registry.training.images import pixels_of_step
from ldm_registry.training.loop import StepResult, autocast, finish_step, new_state, paced, reseed_dropout
from ldm_registry.training.optimizers import adamw, set_learning_rate
from ldm_registry.training.processes import Processes, processes
from ldm_registry.training.progress import Progress
from ldm_registry.training.seeds import seeded
from ldm_registry.training.self_test import mean_psnr_db, round_trip
from ldm_registry.training.settings import CodecTraining
from ldm_registry.training.sharding import launcher_shards
from ldm_registry.training.state import Stateful, TrainingState, load_state

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
        SpecError: A loss has no weight, the training diverged, or it cannot be shared by several processes.
        CheckpointError: The state in the folder is of another training.
        ResourceError: Another process of the training has ended.
    """
    trainable = isinstance(encoder, TrainableEncoder) and has_training_view(encoder)
    if not trainable or not has_training_view(decoder):
        lacking = decoder if trainable else encoder
        raise ContractError(
            f"{lacking.kind} {lacking.name!r} cannot be trained: it has no training view `forward`"
        )
    modules: dict[str, nn.Module] = {"encoder": encoder, "decoder": decoder}
    with processes(settings, torch.device(device)) as group:
        _check_shared(modules, settings, group)
        device = group.device
        for module in modules.values():
            module.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's stubs
        state = new_state(modules, settings, identity or {}, device)
        if settings.adversarial:
            state = _with_discriminator(state, settings, images, device)
        if resume:
            load_state(state, folder)
        group.wait()  # until all have read what the first one is going to replace
        if settings.compile:
            encoder.compile()
            decoder.compile()
        halves = _Halves(group.parallel(encoder), group.parallel(decoder), group)
        few = validation[: settings.validation_images]
        steps = _steps(state, settings, halves, images.to(device), few, device)
        yield from paced(state, steps, folder, group)
        state.average.keep()
    encoder.eval()
    decoder.eval()


def _check_shared(modules: Mapping[str, nn.Module], settings: CodecTraining, group: Processes) -> None:
    """Refuse what several processes would do otherwise than one."""
    if group.count == 1:
        return
    group.share(settings.batch)
    problems = [
        f"{name}: it keeps running sums of what it sees (an EMA codebook), of which each process would see a part"
        for name, module in modules.items()
        if isinstance(module, Stateful)
    ]
    if settings.adversarial:
        problems.append("adversarial: the balance of the two losses follows the gradients of a whole batch")
    if settings.sharded or launcher_shards():
        problems.append("sharded: only denoisers are")
    if problems:
        raise SpecError(
            f"this codec cannot be trained in {group.count} processes",
            problems,
            hint="train it in one process",
        )


@dataclass(frozen=True, slots=True)
class _Halves:
    """The two halves as they are called: by one process, or by several, each with its part of a pass."""

    encoder: nn.Module
    decoder: nn.Module
    group: Processes

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """See `Processes.accumulating`."""
        with (
            self.group.accumulating(self.encoder, is_last=is_last),
            self.group.accumulating(self.decoder, is_last=is_last),
        ):
            yield


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
    state: TrainingState,
    settings: CodecTraining,
    halves: _Halves,
    images: Tensor,
    validation: Tensor,
    device: torch.device,
) -> Iterator[StepResult]:
    parameters = [one for name in ("encoder", "decoder") for one in state.modules[name].parameters()]
    while True:
        step = state.step
        set_learning_rate(state.optimizers, settings, step)
        reseed_dropout(state.modules, settings, step, halves.group.rank)
        pixels = pixels_of_step(images, settings, step, device)
        seeds = [seeded(settings.seed, "posterior", step, index) for index in range(len(pixels))]
        losses: dict[str, Tensor | float] = {}
        for part in range(settings.accumulate):
            own, first = halves.group.share(settings.batch), part * settings.batch
            rows = slice(first + own.start, first + own.stop)
            with halves.accumulating(is_last=part == settings.accumulate - 1):
                losses = _pass(state, settings, halves, pixels[rows], seeds[rows], device)
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
    halves: _Halves,
    pixels: Tensor,
    generators: list[torch.Generator],
    device: torch.device,
) -> dict[str, Tensor | float]:
    """One forward and backward pass: gradients add up, nothing is stepped."""
    made = _reconstruct(halves, settings, pixels, generators, device)
    weight = halves.group.weight(settings.batch)
    total, losses = weight * made.loss, {name: weight * value for name, value in made.losses.items()}
    critic = state.modules.get("discriminator")
    playing = critic is not None and state.step >= settings.adversarial_start
    if playing:
        critic = cast(nn.Module, critic).requires_grad_(False)
        with autocast(settings, device):
            fooling = -critic(made.image).float().mean()
        balance = (
            adaptive_weight(made.reconstruction, fooling, made.image)
            if settings.adversarial_adaptive
            else 1.0
        )
        total = total + settings.adversarial * balance * fooling
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
    halves: _Halves,
    settings: CodecTraining,
    pixels: Tensor,
    generators: list[torch.Generator],
    device: torch.device,
) -> _Reconstructed:
    with autocast(settings, device):
        encoded = halves.encoder(pixels, generators)
        decoded = halves.decoder(encoded.latent)
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
