"""Open a single file: a pickle is refused with the way to convert it, and a header is checked before it is believed."""

from __future__ import annotations

import shlex
from pathlib import Path

from ldm_registry.errors import IntegrityError, NotFoundError, did_you_mean
from ldm_registry.safetensors_header import TensorEntry, read_header
from ldm_registry.weight_files import PICKLES

_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
"""Beginnings of what `torch.save` writes now, and wrote before 1.6. As the length of a header both are too much."""


def open_header(path: Path) -> dict[str, TensorEntry]:
    """The checked header of a safetensors file.

    Args:
        path: A file.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a pickle, which can run code and is not opened.
        CheckpointError: Its header is broken or not believable.
    """
    if not path.is_file():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise NotFoundError(f"there is no file {path}", hint=did_you_mean(path.name, near))
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() in PICKLES or start in _MAGIC:
        raise IntegrityError(
            f"{path} is a pickle; a pickle can run code and is not opened", hint=_way_out(path.name)
        )
    return read_header(path)


def _way_out(name: str) -> str:
    # Trainers wrap the weights: Lightning as state_dict, DiT's training script as ema beside model.
    code = (
        "import sys, torch, safetensors.torch as s; "
        'w = torch.load(sys.argv[1], map_location="cpu", weights_only=True); '
        'w = w.get("state_dict", w.get("ema", w)); '
        "s.save_file({k: v.contiguous().clone() for k, v in w.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    target = f"{Path(name).stem}.safetensors"
    command = shlex.join(["python", "-c", code, name, target])
    return f"convert it where you trust it: {command}"
