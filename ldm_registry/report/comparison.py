"""Specs side by side on the same seeds: one picture and one table. A spec that fails is a row with its error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm_registry.engines.outcome import Engine
from ldm_registry.errors import SpecError
from ldm_registry.matrix import Failed, failure, outcomes
from ldm_registry.report.grid import grid
from ldm_registry.report.measurement import ANSWER, PIXELS, Measurement
from ldm_registry.spec import PipelineSpec, dump_spec
from ldm_registry.travel.in_specs import lock_path
from ldm_registry.travel.lock import LOCK

RECORD, PICTURE = "compare.json", "compare.png"
STDERR = 2
"""Its file descriptor: standard output is for the result alone."""
RATIOS = (
    "values_per_image",
    "denoiser_parameters",
    "codec_parameters",
    "steps",
    "step_ms",
    "image_ms",
    "decoder_ms",
    "peak_memory_mib",
)
"""Figures that are also given as multiples: of the first spec, over each."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One spec's figures with what it made.

    Attributes:
        figures: What it cost.
        images: uint8 [N, H, W, C].
        seeds: One for each image.
    """

    figures: Measurement
    images: Tensor
    seeds: tuple[int, ...]


Row = Compared | Failed


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure.

    Attributes:
        name: That the spec is reported under.
        spec: What to run.
        n: Images, made at once.
        seed: Of image 0.
    """

    name: str
    spec: PipelineSpec
    n: int
    seed: int


def ask(specs: Sequence[tuple[str, PipelineSpec] | Failed], n: int, seed: int | None) -> list[Asked | Failed]:
    """What there is to measure, in the order of the specs.

    Args:
        specs: Each with the name that it is reported under, or why it could not be read.
        n: Images of each.
        seed: Of image 0; None takes the first spec's for all of them.

    Raises:
        SpecError: Two specs make images of different sizes.
    """
    read = [one for one in specs if not isinstance(one, Failed)]
    if len({(spec.image.height, spec.image.width) for _, spec in read}) > 1:
        sizes = sorted({f"{name}: {spec.image}" for name, spec in read})
        raise SpecError("only specs of one image size can be laid side by side", sizes)
    first = read[0][1].seed if seed is None and read else seed or 0
    return [one if isinstance(one, Failed) else Asked(*one, n, first) for one in specs]


def compare(asked: Sequence[Asked | Failed], workers: Engine) -> Iterator[tuple[int, Row]]:
    """Measure specs, each in a process of its own.

    Args:
        asked: As `ask` returned it.
        workers: Who does it.

    Yields:
        Every row with its place in the order of the specs, as soon as it is known.

    Raises:
        SpecError: As `matrix.outcomes`.
    """
    yield from ((place, one) for place, one in enumerate(asked) if isinstance(one, Failed))
    places = [place for place, one in enumerate(asked) if isinstance(one, Asked)]
    tasks = [one for one in asked if isinstance(one, Asked)]
    for outcome in outcomes(workers, measure_apart, tasks, [one.spec for one in tasks]):
        row = failure(outcome.task.name, outcome) if outcome.result is None else outcome.result
        yield places[outcome.index], row


def measured(rows: Sequence[Row]) -> list[Compared]:
    """The rows with figures."""
    return [row for row in rows if isinstance(row, Compared)]


def failed(rows: Sequence[Row]) -> list[Failed]:
    """The rows without."""
    return [row for row in rows if isinstance(row, Failed)]


def picture(compared: Sequence[Compared]) -> Image.Image:
    """One row for each spec and one column for each seed."""
    images = torch.cat([_colour(one.images) for one in compared])
    return grid(
        images,
        columns=len(compared[0].seeds),
        row_labels=[one.figures.spec for one in compared],
        column_labels=[f"seed {seed}" for seed in compared[0].seeds],
    )


def to_document(rows: Sequence[Row]) -> dict[str, Any]:
    """The comparison as a JSON document, in the order of the specs.

    Args:
        rows: A spec that failed has its error in place of figures, and null for each multiple.
    """
    compared = measured(rows)
    return {
        "specs": [
            {"spec": row.name, **row.to_document()} if isinstance(row, Failed) else asdict(row.figures)
            for row in rows
        ],
        "first_over_each": {
            key: [None if isinstance(row, Failed) else ratio(compared[0], row, key) for row in rows]
            for key in RATIOS
        },
        "seeds": list(compared[0].seeds) if compared else [],
        "failed": len(rows) - len(compared),
    }


def claim(folder: Path, *, overwrite: bool) -> None:
    """Refuse early a folder that a comparison is not to be written into.

    Args:
        folder: May be missing, or hold an earlier comparison.
        overwrite: May hold other things too.

    Raises:
        SpecError: The folder holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; a comparison is written into a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file() and not overwrite:
        raise SpecError(
            f"{folder} is not empty and holds no earlier comparison", hint="name another, or add --overwrite"
        )


def write(folder: Path, rows: Sequence[Row], document: Mapping[str, Any]) -> Path | None:
    """Write the picture and the figures.

    Args:
        folder: Made when it is missing; an earlier comparison in it is replaced.
        rows: What to draw; those that failed are left out of the picture.
        document: What `to_document` returned.

    Returns:
        The path of the picture; None where there is nothing to draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    compared = measured(rows)
    if not compared:
        (folder / PICTURE).unlink(missing_ok=True)
        return None
    picture(compared).save(folder / PICTURE)
    return folder / PICTURE


def ratio(first: Compared, other: Compared, key: str) -> float | None:
    """How many times less one spec takes than the first; None where either takes nothing, or it is not known.

    Args:
        first: To count from.
        other: The other spec.
        key: Of the figure.
    """
    mine, base = getattr(other.figures, key), getattr(first.figures, key)
    return base / mine if mine and base else None


def _colour(images: Tensor) -> Tensor:
    return images if images.shape[-1] == 3 else images.expand(*images.shape[:-1], 3)


def measure_apart(asked: Asked) -> Row:
    """Measure one spec in a process of its own, with as many threads as this one has.

    Args:
        asked: What to measure.
    """
    with tempfile.TemporaryDirectory(prefix="ldm-compare-") as scratch:
        folder = Path(scratch)
        (folder / "spec.yaml").write_text(dump_spec(asked.spec, relative_to=folder), encoding="utf-8")
        lock = lock_path(asked.spec)
        if lock is not None and lock.is_file():
            shutil.copyfile(lock, folder / LOCK)
        request = {"spec": "spec.yaml", "name": asked.name, "n": asked.n, "seed": asked.seed}
        request["threads"] = torch.get_num_threads()
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "ldm_registry.report.measurement", str(folder / "request.json")]
        ended = subprocess.run(command, stdout=STDERR, check=False)
        if not (folder / ANSWER).is_file():
            return _without_answer(asked.name, ended.returncode)
        answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        if "error" in answer:
            return Failed(asked.name, answer["error"], tuple(answer["lines"]))
        pixels = torch.frombuffer(bytearray((folder / PIXELS).read_bytes()), dtype=torch.uint8)
        return Compared(
            Measurement(**answer["figures"]), pixels.reshape(answer["shape"]), tuple(answer["seeds"])
        )


def _without_answer(name: str, returncode: int) -> Failed:
    """The row of a process that ended without saying why."""
    if returncode < 0:
        said = f"ResourceError: the process that measured it was ended by signal {-returncode}"
        return Failed(name, said, ("a system that is short of memory ends processes in this way",))
    return Failed(name, f"RuntimeError: the process that measured it ended with exit code {returncode}")
