"""A single file in an original layout to a folder with the layout of diffusers."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.original.components import Part
from ldm_registry.original.drafting import Draft, Wishes, drafted
from ldm_registry.original.families import (
    EMA_PREFIX,
)
from ldm_registry.original.ignored import is_ignored
from ldm_registry.original.layout import detect
from ldm_registry.original.ldm_yaml import LdmYaml
from ldm_registry.original.opening import open_header
from ldm_registry.original.pieces import problems_of, size_of
from ldm_registry.original.streaming import write_pieces
from ldm_registry.safetensors_header import BITS, TensorEntry
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import CONFIG

MAX_GROWTH = 4
"""Only DiT repeats a tensor, and grows by an eighth; a file that would grow by more is no network of that kind."""
ALWAYS_ALLOWED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        folder: Of the pipeline, or of the autoencoder's parent.
        family: sd1, sd2, sdxl, sd3, flux (for an autoencoder) or dit.
        components: The component folders in it.
        missing: Parts that the pipeline needs and the file does not hold, such as tokenizers.
        notes: What was decided without the file saying so, and what was left out.
    """

    folder: Path
    family: str
    components: tuple[Path, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    path: Path,
    folder: Path,
    *,
    family: str | None = None,
    prediction: Prediction | None = None,
    stated: LdmYaml | None = None,
    sample_size: int | None = None,
    heads: int | None = None,
    ema: bool = False,
    ignore: Sequence[str] = (),
) -> Converted:
    """Convert a single file.

    A folder appears whole or not at all. Weights keep their bits and their dtype.

    Args:
        path: A safetensors file in the original layout.
        folder: Made here; it must not exist, or be empty.
        family: sd1, sd2, sdxl or dit, which has to agree with the file; for an autoencoder alone also sd3 and flux,
            and needed there.
        prediction: What the denoiser puts out. Needed for Stable Diffusion 2, whose weights do not say; elsewhere the
            family's by default.
        stated: The YAML that the file was trained with. It decides what shapes do not: heads, prediction, scale.
        sample_size: Side of the latents that the denoiser was trained on, cells. Needed for a DiT without positions.
        heads: Attention heads of the denoiser. Needed where neither family nor YAML say.
        ema: Take the averaged weights of the UNet, in a file that holds both.
        ignore: Patterns (`*`, `?`) of further tensors that shall be left out.

    Returns:
        What was written, and what the pipeline needs besides.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a pickle.
        CheckpointError: It is broken, of no known layout, or has missing, unknown or misshapen tensors; all of them.
        SpecError: Something has to be stated, or contradicts the file; or the folder is not empty.
    """
    header = open_header(path)
    layout = detect(header)
    wishes = Wishes(family, prediction, stated, sample_size, heads, ema)
    draft = drafted(path, header, layout, wishes)
    _check(path, header, draft.parts, ignore)
    _refuse_occupied(folder)
    _write(path, header, draft, folder)
    left_out = sum(name.startswith(EMA_PREFIX) for name in header)
    notes = draft.notes
    if left_out and not ema:
        notes = (
            *notes,
            f"{left_out} averaged tensors ({EMA_PREFIX}*) were left out; ema=True takes them instead",
        )
    return Converted(
        folder=folder,
        family=draft.family,
        components=tuple(folder / part.folder for part in draft.parts),
        missing=draft.missing,
        notes=notes,
    )


def _check(
    path: Path, header: Mapping[str, TensorEntry], parts: Sequence[Part], ignore: Sequence[str]
) -> None:
    """Compare the tables with the file.

    Raises:
        CheckpointError: With everything that is missing, unknown or misshapen.
    """
    pieces = [piece for part in parts for piece in part.pieces]
    used = {piece.source for piece in pieces}
    unused = tuple(start for part in parts for start in part.unused)
    problems = problems_of(pieces, header)
    problems += [
        f"unknown: {name} {list(entry.shape)}"
        for name, entry in header.items()
        if name not in used
        and not is_ignored(name)
        and not name.startswith(unused or ("\0",))
        and not any(fnmatchcase(name, pattern) for pattern in ignore)
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not hold what its layout says ({len(problems)} problems)",
            sorted(problems),
            hint="tensors that are no part of the network can be left out by name: ignore",
        )
    size = sum(math.prod(entry.shape) * BITS[entry.dtype] // 8 for entry in header.values())
    written = sum(size_of(piece, header) for piece in pieces)
    if written > max(MAX_GROWTH * size, ALWAYS_ALLOWED_BYTES):
        raise CheckpointError(f"{path} has {size} bytes of data and would become {written}")


def _refuse_occupied(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} exists already", hint="name a folder that is not there yet")


def _write(path: Path, header: Mapping[str, TensorEntry], draft: Draft, folder: Path) -> None:
    """Write everything into a folder beside its place, and move it there when it is whole."""
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    size = sum(size_of(piece, header) for part in draft.parts for piece in part.pieces)
    free = shutil.disk_usage(parent).free
    if size > free:
        raise SpecError(f"{parent} has {free} bytes left; {size} are needed")
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=parent))
    try:
        for part in draft.parts:
            (partial / part.folder).mkdir()
            write_pieces(path, header, part.pieces, partial / part.folder / part.weights)
            _write_json(partial / part.folder / CONFIG, part.config)
        for name, document in draft.documents.items():
            (partial / name).parent.mkdir(exist_ok=True)
            _write_json(partial / name, document)
        partial.chmod(0o755)  # A temporary folder is the owner's alone.
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
