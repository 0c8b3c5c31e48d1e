"""A healthy codec, and wrappers that do one thing wrong: what the measurements of encoder and decoder are tried on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import ldm_registry as ldm
from ldm_registry.data import read_images, to_unit
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.interfaces import ComponentConfig, Decoder, Encoder, Generators
from ldm_registry.pipeline import Pipeline
from ldm_registry.vocabulary import Kind

Change = Callable[[Tensor], Tensor]


def unchanged(values: Tensor) -> Tensor:
    return values


class InjuredEncoder(Encoder):
    name = "injured"
    Config = ComponentConfig

    def __init__(self, inner: Encoder, before: Change = unchanged, after: Change = unchanged) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        return self.after(self.inner.encode(self.before(image), generator))


class InjuredDecoder(Decoder):
    name = "injured"
    Config = ComponentConfig

    def __init__(self, inner: Decoder, before: Change = unchanged, after: Change = unchanged) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def decode(self, latent: Tensor) -> Tensor:
        return self.after(self.inner.decode(self.before(latent)))


class TilingDecoder(Decoder):
    """Decodes tiles by themselves and lays them side by side."""

    name = "tiling"
    Config = ComponentConfig

    def __init__(self, inner: Decoder, cells: int) -> None:
        super().__init__()
        self.inner, self.cells = inner, cells
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def decode(self, latent: Tensor) -> Tensor:
        rows = [
            torch.cat([self.inner.decode(tile) for tile in row.split(self.cells, -1)], -1)
            for row in latent.split(self.cells, -2)
        ]
        return torch.cat(rows, -2)


@cache
def bundled(name: str) -> Pipeline:
    return ldm.assemble(ldm.load_spec(name))


@cache
def emoji(count: int = 48) -> Tensor:
    data = bundled("emoji-kl-dit").spec.data
    assert data is not None
    return to_unit(read_images(data.images).images)[:: 256 // count][:count]


def subject_of(
    encoder: Encoder | None = None,
    decoder: Decoder | None = None,
    name: str = "emoji-kl-dit",
    quick: bool = False,
    **changes: Any,
) -> Subject:
    pipe = bundled(name)
    pipe = dataclasses.replace(
        pipe, encoder=encoder or pipe.encoder, decoder=decoder or pipe.decoder, **changes
    )
    images = emoji()
    return Subject(pipe, images, {"class_label": torch.zeros(len(images), dtype=torch.int64)}, 0, quick)


def scaled(factor: float, values: Tensor) -> Tensor:
    return values * factor


def moved(by: float, values: Tensor) -> Tensor:
    return values + by


def half(values: Tensor) -> Tensor:
    return (values + 1.0) / 2.0


def permuted(values: Tensor) -> Tensor:
    return values.roll(1, 1)


def reversed_channels(values: Tensor) -> Tensor:
    return values.flip(1)


def mixed(values: Tensor) -> Tensor:
    channels = values.shape[1]
    matrix = 0.5 * torch.eye(channels) + 0.5 * torch.eye(channels).roll(1, 0)
    return torch.einsum("ij,bjhw->bihw", matrix.to(values), values)


def without_channel(values: Tensor) -> Tensor:
    keep = torch.ones(values.shape[1], dtype=values.dtype)
    keep[1] = 0.0
    return values * keep[:, None, None]


def mirrored(values: Tensor) -> Tensor:
    return values.flip(-1)


def transposed(values: Tensor) -> Tensor:
    return values.mT


def rolled(cells: int, values: Tensor) -> Tensor:
    return values.roll(cells, -1)


def quantised(step: float, values: Tensor) -> Tensor:
    return (values / step).round() * step


def blurred(values: Tensor) -> Tensor:
    padded = functional.pad(values, (2, 2, 2, 2), mode="replicate")
    return functional.avg_pool2d(padded, 5, 1)


def meshed(period: int, values: Tensor) -> Tensor:
    """A faint mesh: one row and one column of each period is brighter."""
    mesh = torch.zeros(values.shape[-2:])
    mesh[::period] += 0.12
    mesh[:, ::period] += 0.12
    return values + mesh


def toned(cells: int, values: Tensor) -> Tensor:
    """Every tile with a tone of its own."""
    rows = torch.arange(values.shape[-2]) // cells
    columns = torch.arange(values.shape[-1]) // cells
    return values + 0.12 * ((rows[:, None] + columns) % 2 * 2.0 - 1.0)


def framed(values: Tensor) -> Tensor:
    """Spoilt along the border."""
    damage = torch.zeros(values.shape[-2:])
    damage[:4], damage[-4:], damage[:, :4], damage[:, -4:] = 0.6, 0.6, 0.6, 0.6
    return values - damage


def noisy(strength: float, values: Tensor) -> Tensor:
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(5))
    return values + strength * noise.to(values)


def shaken(part: Any, strength: float) -> Any:
    """The same network with noise in its weights: a file that was corrupted in transit."""
    import copy

    twin = copy.deepcopy(part)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in twin.parameters():
            scale = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter.add_(strength * scale * torch.randn(parameter.shape, generator=generator))
    return twin


ENCODER_INJURIES: dict[str, Callable[[Encoder], Encoder]] = {
    "fed pixels in [0, 1]": partial(InjuredEncoder, before=half),
    "latents scaled by 1.4": partial(InjuredEncoder, after=partial(scaled, 1.4)),
    "latents scaled by 0.5": partial(InjuredEncoder, after=partial(scaled, 0.5)),
    "latents shifted": partial(InjuredEncoder, after=partial(moved, 0.6)),
    "latent channels permuted": partial(InjuredEncoder, after=permuted),
    "latent channels mixed": partial(InjuredEncoder, after=mixed),
    "latent channel dropped": partial(InjuredEncoder, after=without_channel),
    "latents mirrored": partial(InjuredEncoder, after=mirrored),
    "latents transposed": partial(InjuredEncoder, after=transposed),
    "latents rolled by a cell": partial(InjuredEncoder, after=partial(rolled, 1)),
    "latents quantised": partial(InjuredEncoder, after=partial(quantised, 1.0)),
    "noise on the latents": partial(InjuredEncoder, after=partial(noisy, 0.7)),
    "fed blue as red": partial(InjuredEncoder, before=reversed_channels),
    "fed blurred images": partial(InjuredEncoder, before=blurred),
    "corrupt weights": partial(shaken, strength=0.15),
}

DECODER_INJURIES: dict[str, Callable[[Decoder], Decoder]] = {
    "output left in [0, 1]": partial(InjuredDecoder, after=half),
    "latents scaled by 1.4": partial(InjuredDecoder, before=partial(scaled, 1.4)),
    "latents scaled by 0.5": partial(InjuredDecoder, before=partial(scaled, 0.5)),
    "latents shifted": partial(InjuredDecoder, before=partial(moved, 0.6)),
    "latent channels permuted": partial(InjuredDecoder, before=permuted),
    "latent channels mixed": partial(InjuredDecoder, before=mixed),
    "latent channel dropped": partial(InjuredDecoder, before=without_channel),
    "image mirrored": partial(InjuredDecoder, after=mirrored),
    "image transposed": partial(InjuredDecoder, after=transposed),
    "image rolled by a pixel": partial(InjuredDecoder, after=partial(rolled, 1)),
    "latents quantised": partial(InjuredDecoder, before=partial(quantised, 1.0)),
    "noise on the image": partial(InjuredDecoder, after=partial(noisy, 0.3)),
    "blue as red": partial(InjuredDecoder, after=reversed_channels),
    "blurred": partial(InjuredDecoder, after=blurred),
    "tiles of 32 px": partial(TilingDecoder, cells=4),
    "a tone of its own for each tile": partial(InjuredDecoder, after=partial(toned, 16)),
    "mesh of 8 px": partial(InjuredDecoder, after=partial(meshed, 8)),
    "border damaged": partial(InjuredDecoder, after=framed),
    "corrupt weights": partial(shaken, strength=0.15),
}


def injured(kind: Kind, injury: str, name: str = "emoji-kl-dit", quick: bool = False) -> Subject:
    pipe = bundled(name)
    if kind is Kind.ENCODER:
        return subject_of(encoder=ENCODER_INJURIES[injury](pipe.encoder), name=name, quick=quick)
    return subject_of(decoder=DECODER_INJURIES[injury](pipe.decoder), name=name, quick=quick)


EVERY = [
    *((Kind.ENCODER, name) for name in ENCODER_INJURIES),
    *((Kind.DECODER, name) for name in DECODER_INJURIES),
]
