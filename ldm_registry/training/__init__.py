"""Training of codecs and denoisers from a spec: resumable to the bit, and without pickles.

The names are resolved lazily: importing this package, or its `settings`, does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_registry.training.progress import Progress as Progress
    from ldm_registry.training.settings import CodecTraining as CodecTraining
    from ldm_registry.training.settings import DenoiserTraining as DenoiserTraining
    from ldm_registry.training.settings import TrainSpec as TrainSpec
    from ldm_registry.training.stage import train as train

_HOMES = {
    "CodecTraining": "settings",
    "DenoiserTraining": "settings",
    "Progress": "progress",
    "TrainSpec": "settings",
    "train": "stage",
}

__all__ = ["CodecTraining", "DenoiserTraining", "Progress", "TrainSpec", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ldm_registry.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
