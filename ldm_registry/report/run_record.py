"""A folder that holds a run: its images, and all that it takes to make them again to the bit."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.registry import Registry
from ldm_registry.report.grid import grid, to_picture
from ldm_registry.report.timing import TimedRun
from ldm_registry.spec import dump_spec, spec_digest
from ldm_registry.vocabulary import STAGES

RECORD, SPEC, GRID = "run.json", "spec.yaml", "grid.png"
FORMAT = 1


def claim_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Make a folder for a run, or take that of an earlier run over and remove what it wrote.

    Args:
        folder: Where to.
        overwrite: Also take a folder that holds other things; those stay.

    Raises:
        SpecError: It is a file, or holds something that no run wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; a run is written into a folder")
    earlier = (folder / RECORD).is_file()
    if folder.is_dir() and any(folder.iterdir()) and not earlier and not overwrite:
        raise SpecError(
            f"{folder} is not empty and holds no earlier run", hint="name another folder, or add --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if earlier:
        for path in (*folder.glob("image-[0-9]*.png"), folder / GRID, folder / SPEC, folder / RECORD):
            path.unlink(missing_ok=True)


def record(
    pipe: Pipeline, run: TimedRun, folder: Path, *, batch: int | None, assembly_ms: float
) -> dict[str, Any]:
    """Everything about a run that is worth keeping, as a JSON document.

    Args:
        pipe: What ran; its spec is the resolved one.
        run: What it made.
        folder: Where it will be written; the paths of the resolved spec are relative to it.
        batch: Images at once; None for all of them.
        assembly_ms: Wall time of building the pipeline.
    """
    text = dump_spec(pipe.spec, relative_to=folder)
    return {
        "format": FORMAT,
        "n": len(run.images),
        "batch": batch,
        "seeds": list(run.seeds),
        "spec": text,
        "spec_sha256": spec_digest(pipe.spec),
        "warnings": list(pipe.warnings),
        "images": [
            {"file": _name(index), "seed": seed, "pixels_sha256": pixels_sha256(image)}
            for index, (seed, image) in enumerate(zip(run.seeds, run.images, strict=True))
        ],
        "timings_ms": {"assembly": assembly_ms, **run.stages_ms},
        "denoiser_calls": len(run.denoiser_ms),
        "steps": len(run.step_ms),
        "placement": {
            **{stage: _placement(getattr(pipe, stage)) for stage in STAGES},
            **{label: _placement(part) for label, part in pipe.conditioners.items()},
        },
        "machine": machine(),
        "versions": versions(),
    }


def write(folder: Path, run: TimedRun, document: Mapping[str, Any]) -> None:
    """Write the images, their grid, the resolved spec, and last the record.

    Args:
        folder: As `claim_folder` left it.
        run: The images.
        document: What `record` returned.
    """
    for index, image in enumerate(run.images):
        to_picture(image).save(folder / _name(index))
    grid(run.images).save(folder / GRID)
    (folder / SPEC).write_text(document["spec"], encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """The record of an earlier run.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not the record of a run.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except (ValueError, RecursionError, OSError) as error:
        raise SpecError(f"{path} cannot be read", [str(error)]) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SpecError(f"{path} is not the record of a run of format {FORMAT}")
    return document


def differing_images(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> list[str]:
    """The files whose pixels a repetition did not reproduce, with their seeds."""
    before = {image["seed"]: image["pixels_sha256"] for image in earlier["images"]}
    return [
        f"{image['file']} (seed {image['seed']}) differs from the earlier run"
        for image in later["images"]
        if before.get(image["seed"]) != image["pixels_sha256"]
    ]


def pixels_sha256(pixels: Tensor) -> str:
    """Digest of one image: uint8 [H, W, C], row by row. Says nothing of how a PNG packs them."""
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Python, torch, this package, and every installed plugin."""
    plugins = {entry.distribution: entry.version for entry in Registry.discover().entries() if entry.version}
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "ldm-registry": metadata.version("ldm-registry"),
        **dict(sorted(plugins.items())),
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the software."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
    }


def summary(
    document: Mapping[str, Any], folder: Path, earlier: Mapping[str, Any] | None, differing: Sequence[str]
) -> str:
    """A run in a few lines for a terminal.

    Args:
        document: What `record` returned.
        folder: Where it was written.
        earlier: The run that it repeated, if it did.
        differing: What `differing_images` returned.
    """
    timings = ", ".join(f"{stage} {ms / 1e3:.2f}" for stage, ms in document["timings_ms"].items())
    lines = [
        f"{document['n']} images, seeds {document['seeds'][0]} to {document['seeds'][-1]}: {folder / GRID}",
        f"seconds: {timings}",
        *(f"warning: {warning}" for warning in document["warnings"]),
    ]
    if earlier is None:
        lines.append(f"repeat:  ldm run {folder / RECORD} -o ANOTHER_FOLDER")
    elif differing:
        changed = [
            f"{name}: {earlier['versions'].get(name)} then, {version} now"
            for name, version in document["versions"].items()
            if earlier["versions"].get(name) != version
        ]
        lines += [*differing, *changed]
    else:
        lines.append("every pixel equals that of the earlier run")
    return "\n".join(lines)


def _name(index: int) -> str:
    return f"image-{index:05d}.png"


def _placement(component: torch.nn.Module) -> dict[str, str]:
    device, dtype = placement(component)
    return {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
