"""The bundled pipelines with images of the validation set, as a diagnosis sees them; built once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ldm_registry.assembly import assemble
from ldm_registry.data import read_images, to_unit
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.spec import load_spec

VALIDATION = Path(__file__).parents[2] / "specs" / "data" / "noto-emoji-64-val.tar"


@cache
def emoji_subject(name: str, count: int = 32, *, quick: bool = True, seed: int = 0) -> Subject:
    """A bundled spec with its first validation images and their labels."""
    images = read_images(VALIDATION, count)
    return Subject(
        assemble(load_spec(name)), to_unit(images.images), {"class_label": images.labels}, seed, quick
    )
