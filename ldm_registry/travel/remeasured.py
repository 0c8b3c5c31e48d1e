"""The self-test of a checkpoint once more, before it is published; and the pictures for its card."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, final

import torch
from PIL import Image
from torch import Tensor

from ldm_registry.assembly import assemble, load_component
from ldm_registry.contracts import Contract, LatentStatistics, SelfTest
from ldm_registry.data import ImageSet, read_images, to_uint8, to_unit
from ldm_registry.digests import sha256
from ldm_registry.errors import ContractError
from ldm_registry.golden import golden_codec, golden_denoiser
from ldm_registry.interfaces import Condition, Decoder, Denoiser, Encoder, NoiseLevel, randn
from ldm_registry.pipeline import Pipeline
from ldm_registry.prediction import to_x0
from ldm_registry.registry import Registry
from ldm_registry.report.grid import grid
from ldm_registry.spec import PipelineSpec, swap
from ldm_registry.testing.promises import MOST_IMAGES, PSNR_TOLERANCE_DB, STATISTICS_TOLERANCE
from ldm_registry.training.seeds import seeded
from ldm_registry.training.self_test import BATCH, encoded, latent_statistics, mean_psnr_db, round_trip
from ldm_registry.travel.model_card import Picture
from ldm_registry.vocabulary import Kind, Scaling

CODEC = (Kind.ENCODER, Kind.DECODER)
LABEL = "class_label"
DENOISING_TOLERANCE = 0.02
"""Relative: of an error that is measured with the same images and the same noise."""
MOST_SHOWN = 9
LARGEST_SHOWN = 256
"""Pixels along the longer side of one image in a picture; fewer images are shown where they are larger."""
CPU = torch.device("cpu")


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One number, as recorded and as found.

    Attributes:
        name: What was measured, with its unit.
        recorded: None where the contract says nothing.
        found: Just now.
        tolerance: How far they may be apart.
    """

    name: str
    recorded: float | None
    found: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether both say the same; also where nothing was recorded."""
        return self.recorded is None or abs(self.found - self.recorded) <= self.tolerance


@final
@dataclass(frozen=True, slots=True)
class Remeasured:
    """What was measured before a publication.

    Attributes:
        contract: With what it lacked.
        figures: Recorded and found.
        pictures: For the card.
        latent_stride: Pixels per latent cell, where that is known.
        codec: Address on the Hub of the codec that a denoiser was measured with, if it has one.
        notes: What could not be measured, and what would make it possible.
    """

    contract: Contract
    figures: tuple[Figure, ...] = ()
    pictures: tuple[Picture, ...] = ()
    latent_stride: int | None = None
    codec: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def disagreements(self) -> list[str]:
        """Figures that are not those that were recorded."""
        return [
            f"{figure.name}: recorded {figure.recorded:.6g}, found {figure.found:.6g}, allowed is a difference "
            f"of {figure.tolerance:.2g}"
            for figure in self.figures
            if not figure.agrees
        ]


def remeasure(
    folder: Path,
    contract: Contract,
    *,
    spec: PipelineSpec | None = None,
    images: Path | None = None,
    registry: Registry | None = None,
) -> Remeasured:
    """Measure a checkpoint as it was measured when it was saved, as far as it is known how.

    Args:
        folder: The checkpoint.
        contract: Its own.
        spec: A pipeline to measure a denoiser in; its images serve where no others are given.
        images: Image set for a codec, and for a denoiser in place of the spec's.
        registry: Where the components come from; None discovers what is installed.

    Raises:
        LdmError: The parts cannot be loaded or do not fit; ContractError where a spec has another codec.
    """
    if images is None and spec is not None and spec.data is not None:
        images = spec.data.images
    if all(kind in contract.components for kind in CODEC):
        return _codec(folder, contract, images, registry)
    if Kind.DENOISER in contract.components:
        return _denoiser(folder, contract, spec, images, registry)
    return Remeasured(contract, notes=("nothing is measured of a checkpoint of this kind",))


def _codec(folder: Path, contract: Contract, images: Path | None, registry: Registry | None) -> Remeasured:
    encoder = cast(Encoder, load_component(Kind.ENCODER, folder, registry=registry))
    decoder = cast(Decoder, load_component(Kind.DECODER, folder, registry=registry))
    if images is None:
        return Remeasured(contract, notes=("no round trip and no picture: name images with --images TAR",))
    data, held = _data(images, contract)
    latents = encoded(encoder, held.images, CPU)
    pixels = to_unit(held.images)
    made = round_trip(encoder, decoder, pixels, CPU)
    found, psnr = latent_statistics(latents), mean_psnr_db(made, pixels)
    test = contract.self_test or SelfTest(data=data)
    same = test.data == data
    figures = [
        Figure(
            "round-trip PSNR (dB)",
            test.round_trip_psnr_db if same else None,
            psnr,
            PSNR_TOLERANCE_DB,
        ),
        *_statistics(contract.latent_measured if same else None, found),
    ]
    height, width = pixels.shape[-2:]
    if same:
        test = test.model_copy(
            update={
                "round_trip_psnr_db": psnr if test.round_trip_psnr_db is None else test.round_trip_psnr_db,
                "golden_outputs": test.golden_outputs or golden_codec(encoder, decoder, (height, width)),
            }
        )
    filled = contract.model_copy(
        update={"self_test": test, "latent_measured": contract.latent_measured or found}
    )
    shown = _shown(height, width)
    picture = _picture(
        "round-trip.png",
        torch.cat([pixels[:shown], made[:shown]]),
        "Round trip",
        f"Above: images of `{images.name}`. Below: the same encoded and decoded, {psnr:.1f} dB (mean over "
        f"{len(held)} images).",
        columns=min(shown, len(held)),
        rows=("original", "decoded"),
    )
    return Remeasured(filled, tuple(figures), (picture,), encoder.latent_space.stride)


def _statistics(recorded: LatentStatistics | None, found: LatentStatistics) -> Iterator[Figure]:
    for what in ("mean", "std"):
        values = getattr(found, what)
        held = getattr(recorded, what) if recorded is not None else (None,) * len(values)
        for channel, (was, now) in enumerate(zip(held, values, strict=True)):
            yield Figure(f"latent {what}, channel {channel}", was, now, STATISTICS_TOLERANCE)


def _denoiser(
    folder: Path,
    contract: Contract,
    spec: PipelineSpec | None,
    images: Path | None,
    registry: Registry | None,
) -> Remeasured:
    name = contract.components[Kind.DENOISER]
    denoiser = cast(Denoiser, load_component(Kind.DENOISER, folder, registry=registry))
    test = contract.self_test or SelfTest()
    if not test.golden_outputs and contract.latent_sizes:
        shape = (denoiser.latent_space.channels, *contract.latent_sizes[0])
        test = test.model_copy(update={"golden_outputs": golden_denoiser(denoiser, shape)})
        contract = contract.model_copy(update={"self_test": test})
    if spec is None:
        return Remeasured(
            contract, notes=("no denoising error and no picture: name a pipeline with --spec SPEC",)
        )
    changed = swap(spec, denoiser=name, denoiser_checkpoint=str(folder.resolve()))
    pipe = assemble(changed, registry)
    _require_its_codec(contract, pipe, spec)
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    if images is not None and test.denoising_error:
        figures, notes = _errors(pipe, contract, test, images)
    picture = _samples(pipe, folder.name)
    codec = spec.encoder.checkpoint or ""
    return Remeasured(
        contract,
        figures,
        (picture,),
        pipe.encoder.latent_space.stride,
        codec if codec.startswith("hf://") else None,
        notes,
    )


def _require_its_codec(contract: Contract, pipe: Pipeline, spec: PipelineSpec) -> None:
    held = pipe.contracts.get(Kind.ENCODER)
    if contract.codec_sha256 is None or held is None:
        return
    digests = [file.sha256 for file in held.files.values()]
    if contract.codec_sha256 not in digests:
        raise ContractError(
            f"{spec.source.name if spec.source else 'the spec'} has another codec than the one that the "
            "denoiser was trained with",
            [
                f"expected weights of sha256 {contract.codec_sha256}",
                f"the spec has {spec.encoder.checkpoint}",
            ],
            hint="name a spec with its own codec",
        )


def _errors(
    pipe: Pipeline, contract: Contract, test: SelfTest, images: Path
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    data, held = _data(images, contract)
    if test.data != data:
        return (), (f"the recorded errors are of {test.data}, and are not measured with {images.name}",)
    latents = encoded(pipe.encoder, held.images, CPU)
    condition = {LABEL: held.labels} if LABEL in pipe.denoiser.conditioning else {}
    noise = randn(latents.shape, seeded(0, "self-test"))
    figures = []
    for one in test.denoising_error:
        level = NoiseLevel.at(torch.tensor(one.log_snr, dtype=torch.float64), Scaling.VP)
        found = _error(pipe.denoiser, latents, level.add_noise(latents, noise), level, condition)
        # An oracle that remembers its images has errors of nothing but rounding.
        tolerance = max(DENOISING_TOLERANCE * one.x0_mse, 1e-5)
        figures.append(Figure(f"x0 error at log-SNR {one.log_snr:+.0f}", one.x0_mse, found, tolerance))
    return tuple(figures), ()


@torch.inference_mode()
def _error(
    denoiser: Denoiser, latents: Tensor, z: Tensor, level: NoiseLevel, condition: Mapping[str, Tensor]
) -> float:
    total = 0.0
    for start in range(0, len(z), BATCH):
        rows = slice(start, start + BATCH)
        given: Condition = {name: values[rows] for name, values in condition.items()}
        prediction = denoiser(z[rows], level, given).prediction.float()
        x0 = to_x0(denoiser.prediction, prediction, z[rows], level)
        total += float((x0.double() - latents[rows].double()).square().sum())
    return total / latents.numel()


def _samples(pipe: Pipeline, name: str) -> Picture:
    """Samples as the spec makes them, each image from its own seed."""
    values = max((len(given) for given in pipe.spec.condition.values()), default=MOST_SHOWN)
    count = min(values, _shown(pipe.spec.image.height, pipe.spec.image.width))
    made = pipe.sample(count)
    spec = pipe.spec
    scale = f", guidance {spec.guidance.scale:g}" if spec.guidance.scale != 1.0 else ""
    caption = (
        f"Not picked: seeds {spec.seed} to {spec.seed + count - 1}, scheduler `{spec.scheduler.use}`"
        f"{_steps(pipe)}{scale}, decoder `{spec.decoder.use}`."
    )
    return _picture("samples.png", made, "Samples", caption)


def _steps(pipe: Pipeline) -> str:
    steps = len(pipe.scheduler.levels()) - 1
    return f" in {steps} step{'s' if steps != 1 else ''}"


def _shown(height: int, width: int) -> int:
    return MOST_SHOWN if max(height, width) <= LARGEST_SHOWN // 2 else 4


def _picture(
    name: str,
    pixels: Tensor,
    title: str,
    caption: str,
    *,
    columns: int | None = None,
    rows: tuple[str, ...] = (),
) -> Picture:
    shrink = max(pixels.shape[-2:]) / LARGEST_SHOWN
    if shrink > 1:
        size = tuple(round(side / shrink) for side in pixels.shape[-2:])
        pixels = torch.nn.functional.interpolate(pixels, size, mode="area")
    sheet = grid(to_uint8(pixels).permute(0, 2, 3, 1), columns=columns, row_labels=rows)
    return Picture(name, _png(sheet), title, caption)


def _png(sheet: Image.Image) -> bytes:
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _data(images: Path, contract: Contract) -> tuple[str, ImageSet]:
    """An image set, called as a self-test calls it, and as many of its images as were measured."""
    everything = None if Kind.DENOISER in contract.components else MOST_IMAGES
    measured = contract.latent_measured.images if contract.latent_measured else everything
    return f"{images.name} sha256:{sha256(images)}", read_images(images, measured)
