"""Specs side by side on the same seeds: one picture and one table."""

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

from ldm_registry import errors
from ldm_registry.errors import LdmError, SpecError
from ldm_registry.report.grid import grid
from ldm_registry.report.measurement import ANSWER, PIXELS, Measurement
from ldm_registry.report.tables import number, table
from ldm_registry.spec import PipelineSpec, dump_spec
from ldm_registry.travel.in_specs import lock_path
from ldm_registry.travel.lock import LOCK

RECORD, PICTURE = "compare.json", "compare.png"
ROWS: tuple[tuple[str, str, int], ...] = (
    ("values_per_image", "values processed per image", 0),
    ("denoiser_parameters", "parameters of the denoiser", 0),
    ("codec_parameters", "parameters of the codec", 0),
    ("steps", "steps", 0),
    ("step_ms", "time per step, all images [ms]", 1),
    ("image_ms", "time per image [ms]", 1),
    ("decoder_ms", "of which decoding [ms]", 1),
    ("peak_memory_mib", "peak memory above idle [MiB]", 0),
)


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


def compare(specs: Sequence[tuple[str, PipelineSpec]], n: int, seed: int | None) -> Iterator[Compared]:
    """Measure specs one after the other, each in a process of its own.

    Args:
        specs: Each with the name that it is reported under.
        n: Images of each, made at once.
        seed: Of image 0; None takes the first spec's for all of them.

    Raises:
        SpecError: Two specs make images of different sizes.
        LdmError: As assembling the spec.
    """
    sizes = {f"{name}: {spec.image}" for name, spec in specs}
    if len({(spec.image.height, spec.image.width) for _, spec in specs}) > 1:
        raise SpecError("only specs of one image size can be laid side by side", sorted(sizes))
    first = specs[0][1].seed if seed is None else seed
    for name, spec in specs:
        yield _measure_apart(name, spec, n, first)


def picture(compared: Sequence[Compared]) -> Image.Image:
    """One row for each spec and one column for each seed."""
    images = torch.cat([_colour(one.images) for one in compared])
    return grid(
        images,
        columns=len(compared[0].seeds),
        row_labels=[one.figures.spec for one in compared],
        column_labels=[f"seed {seed}" for seed in compared[0].seeds],
    )


def to_document(compared: Sequence[Compared]) -> dict[str, Any]:
    """The comparison as a JSON document."""
    first = compared[0]
    ratios = {key: [_ratio(first, one, key) for one in compared] for key, _, _ in ROWS}
    return {
        "specs": [asdict(one.figures) for one in compared],
        "first_over_each": ratios,
        "seeds": list(first.seeds),
    }


def write(
    folder: Path, compared: Sequence[Compared], document: Mapping[str, Any], *, overwrite: bool
) -> Path:
    """Write the picture and the figures.

    Args:
        folder: Made when it is missing; an earlier comparison in it is replaced.
        compared: What to draw.
        document: What `to_document` returned.
        overwrite: Also write into a folder that holds other things.

    Returns:
        The path of the picture.

    Raises:
        SpecError: The folder holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; a comparison is written into a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file() and not overwrite:
        raise SpecError(
            f"{folder} is not empty and holds no earlier comparison", hint="name another, or add --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    picture(compared).save(folder / PICTURE)
    (folder / RECORD).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return folder / PICTURE


def render(compared: Sequence[Compared]) -> str:
    """One column for each spec; beside each but the first, how many times less it takes than the first."""
    header = [f"{len(compared[0].seeds)} images at once"]
    for position, one in enumerate(compared):
        header += [one.figures.spec] if position == 0 else [one.figures.spec, "times less"]
    lines = []
    for key, label, digits in ROWS:
        cells = [label]
        for position, one in enumerate(compared):
            cells.append(number(getattr(one.figures, key), digits))
            if position:
                cells.append(number(_ratio(compared[0], one, key), 1))
        lines.append(cells)
    return table(header, lines, right=range(1, len(header)))


def _ratio(first: Compared, other: Compared, key: str) -> float | None:
    mine, base = getattr(other.figures, key), getattr(first.figures, key)
    return base / mine if mine and base else None


def _colour(images: Tensor) -> Tensor:
    return images if images.shape[-1] == 3 else images.expand(*images.shape[:-1], 3)


def _measure_apart(name: str, spec: PipelineSpec, n: int, seed: int) -> Compared:
    with tempfile.TemporaryDirectory(prefix="ldm-compare-") as scratch:
        folder = Path(scratch)
        (folder / "spec.yaml").write_text(dump_spec(spec, relative_to=folder), encoding="utf-8")
        lock = lock_path(spec)
        if lock is not None and lock.is_file():
            shutil.copyfile(lock, folder / LOCK)
        request = folder / "request.json"
        asked = {"spec": "spec.yaml", "name": name, "n": n, "seed": seed, "threads": torch.get_num_threads()}
        request.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-m", "ldm_registry.report.measurement", str(request)]
        ended = subprocess.run(command, stdout=sys.stderr.fileno(), check=False)
        if not (folder / ANSWER).is_file():
            raise RuntimeError(f"measuring {name} ended with exit code {ended.returncode} and no figures")
        answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        if "error" in answer:
            kind: type[LdmError] = getattr(errors, answer["error"])
            raise kind(f"{name}: {answer['summary']}", answer["problems"], answer["hint"])
        pixels = torch.frombuffer(bytearray((folder / PIXELS).read_bytes()), dtype=torch.uint8)
        return Compared(
            Measurement(**answer["figures"]), pixels.reshape(answer["shape"]), tuple(answer["seeds"])
        )
