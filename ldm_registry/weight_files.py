"""Which files of a folder hold its weights: one file or shards, of the plain set or of a variant such as fp16.

The names are those that diffusers (`diffusion_pytorch_model`) and transformers (`model`) write::

    STEM[.VARIANT].safetensors
    STEM.safetensors.index[.VARIANT].json and the shards that it names
    STEM.safetensors.VARIANT.index.json, as older versions of diffusers had it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, did_you_mean
from ldm_registry.json_files import what_is_there
from ldm_registry.links import contained
from ldm_registry.safetensors_header import TensorEntry, read_header
from ldm_registry.shard_index import read_shards

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

_STEM = r"(?:diffusion_pytorch_model|model)"
_VARIANT = r"(?P<variant>[\w-]+)"
_NAMES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        # A shard of a variant, `model.fp16-00001-of-00002.safetensors`, is no set by itself.
        rf"(?!.*-\d+-of-\d+\.){_STEM}(?:\.{_VARIANT})?\.safetensors",
        rf"{_STEM}\.safetensors\.index(?:\.{_VARIANT})?\.json",
        rf"{_STEM}\.safetensors\.{_VARIANT}\.index\.json",
    )
)


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """One set of weights, its headers read and checked.

    Attributes:
        path: The file, or the index of its shards.
        tensors: By the name that they are stored under.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the set, the index among them."""
        return tuple(sorted({self.path, *(entry.file for entry in self.tensors.values())}))


def read_weights(folder: Path, variant: str | None = None) -> StoredWeights:
    """Find a set of weights and read what its headers say.

    Args:
        folder: The checkpoint.
        variant: Of the set; None takes the plain one, or the only one that there is.

    Raises:
        NotFoundError: The folder has no such set; says which ones it has.
        IntegrityError: All that it has is a pickle, or a file is a link out of the folder.
        CheckpointError: Two sets have the same claim, or a file is broken; all problems of all shards at once.
    """
    path = contained(_chosen(folder, variant))
    return StoredWeights(path, read_shards(path) if path.suffix == ".json" else read_header(path))


def variants(folder: Path) -> tuple[str | None, ...]:
    """The variants that a folder has weights of; None among them stands for the plain set."""
    return tuple(_sets(folder))


def _sets(folder: Path) -> dict[str | None, list[Path]]:
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        matches = [match for pattern in _NAMES if (match := pattern.fullmatch(path.name))]
        if matches and path.is_file():
            found.setdefault(matches[0]["variant"], []).append(path)
    return found


def _chosen(folder: Path, variant: str | None) -> Path:
    sets = _sets(folder)
    if not sets:
        _refuse_pickles(folder)
        raise NotFoundError(f"{folder} has no {WEIGHTS}", hint=what_is_there(folder))
    if variant is None and None not in sets and len(sets) == 1:
        (variant,) = sets
    if variant not in sets:
        names = [name for name in sets if name is not None]
        wanted = f"weights of variant {variant!r}" if variant is not None else "weights without a variant"
        plain = " or leave out `variant:`" if None in sets else ""
        hint = f"{did_you_mean(variant or '', names)}{plain}" if names else "leave out `variant:`"
        raise NotFoundError(
            f"{folder} has no {wanted}", [path.name for paths in sets.values() for path in paths], hint
        )
    if len(sets[variant]) > 1:
        raise CheckpointError(
            f"{folder} holds several sets of weights that could be meant",
            [path.name for path in sets[variant]],
            hint="keep one of them",
        )
    return sets[variant][0]


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if pickles:
        raise IntegrityError(
            f"{folder} has no safetensors; a pickle can run code and is not opened",
            pickles,
            hint=(
                "convert it where you trust it: python -c 'import torch, safetensors.torch as s; "
                f's.save_file(torch.load("{pickles[0]}", weights_only=True), "{WEIGHTS}")\''
            ),
        )
