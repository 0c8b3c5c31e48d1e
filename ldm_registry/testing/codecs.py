"""What encoders and decoders declare, against what comes out of them."""

from __future__ import annotations

from typing import cast

import torch

from ldm_registry.interfaces import Component, Decoder, Encoder
from ldm_registry.testing.check import NotApplicableError, asked_of, require
from ldm_registry.testing.subject import Subject, run, seeded
from ldm_registry.vocabulary import Kind

ODD_SIZES = ((3, 5), (5, 3), (7, 4))
"""(H, W) in latent cells: odd multiples of the stride, neither square nor a power of two."""


@asked_of(Kind.ENCODER, Kind.DECODER)
def latent_space_is_as_declared(subject: Subject) -> None:
    """Channels and stride that `latent_space` declares are those of what comes out."""
    component = subject.build()
    _require_shape(subject, component, None)


@asked_of(Kind.ENCODER, Kind.DECODER)
def odd_sizes_work(subject: Subject) -> None:
    """Images whose sides are odd multiples of the stride, and not square, keep their shape."""
    component = subject.build()
    for size in ODD_SIZES:
        _require_shape(subject, component, size)


@asked_of(Kind.ENCODER)
def without_a_generator_it_takes_the_mode(subject: Subject) -> None:
    """Samples scatter around what `encode` gives without a generator; they are not all shifted off it."""
    encoder = cast(Encoder, subject.build().double())
    image = subject.inputs(encoder, batch=1).main
    with torch.no_grad():
        mode = encoder.encode(image)
        samples = encoder.encode(image.expand(64, *image.shape[1:]), seeded(64))
    error, spread = (samples.mean(0) - mode[0]).square().mean().sqrt(), samples.std(0).square().mean().sqrt()
    # The mean of 64 samples lies off the mode by an eighth of their spread.
    require(
        float(error) <= 0.25 * float(spread) + 1e-9,
        f"the mean of 64 samples lies {float(error):.3g} off the mode; their spread is {float(spread):.3g}",
    )


@asked_of(Kind.ENCODER)
def a_size_off_the_stride_is_refused(subject: Subject) -> None:
    """An image whose side is no multiple of the stride raises, in place of losing its border."""
    encoder = cast(Encoder, subject.build())
    stride = encoder.latent_space.stride
    if stride == 1:
        raise NotApplicableError("every size is a multiple of stride 1")
    image = subject.inputs(encoder).to(dtype=torch.float32).main[..., :-1]
    try:
        with torch.no_grad():
            latent = encoder.encode(image)
    except Exception:
        return
    require(False, f"width {image.shape[-1]} with stride {stride} gave a latent of width {latent.shape[-1]}")


@asked_of(Kind.ENCODER, Kind.DECODER)
def tiles_give_what_the_whole_gives(subject: Subject) -> None:
    """A codec that is `tileable` gives the same in tiles, without seams, and states its memory beforehand."""
    codec = cast(Encoder | Decoder, subject.build().double())
    if not codec.tileable:
        raise NotApplicableError("it is not tileable")
    inputs = subject.inputs(codec, size=(5, 3))
    ((_, whole),) = run(codec, inputs).items()
    stride = codec.latent_space.stride
    codec.tile_pixels = 2 * stride
    stated = codec.working_memory(1, 5 * stride, 3 * stride)
    require(stated is not None and stated > 0, f"working_memory states {stated} bytes")
    ((name, tiled),) = run(codec, inputs).items()
    error = float((tiled - whole).abs().max() / whole.abs().max())
    require(error < 1e-9, f"{name} in tiles of {2 * stride} pixels is {error:.3g} off that of the whole")


def _require_shape(subject: Subject, component: Component, size: tuple[int, int] | None) -> None:
    codec = cast(Encoder | Decoder, component)
    space = codec.latent_space
    inputs = subject.inputs(component, size).to(dtype=torch.float32)
    batch, _, height, width = inputs.main.shape
    ((name, output),) = run(component, inputs).items()
    if isinstance(codec, Encoder):
        expected = (batch, space.channels, height // space.stride, width // space.stride)
    else:
        expected = (batch, codec.image_channels, height * space.stride, width * space.stride)
    require(
        tuple(output.shape) == expected,
        f"{name} has shape {list(output.shape)}, declared are {list(expected)} for input {list(inputs.main.shape)}",
    )
    require(bool(output.isfinite().all()), f"{name} has values that are not finite")


CHECKS = (
    latent_space_is_as_declared,
    odd_sizes_work,
    without_a_generator_it_takes_the_mode,
    a_size_off_the_stride_is_refused,
    tiles_give_what_the_whole_gives,
)
