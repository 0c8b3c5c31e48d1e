"""Many images from one pipeline, as WebDataset shards that are whole or absent, in a run that goes on where it stopped.

::

    plan        which images a shard holds, and which of them are made together: by index alone
    batch_size  how many at once, from time and memory measured on the machine
    identity    what has to be the same for a run to go on: spec, weights
    shard_file  one shard: bit for bit the same however often it is made
    writing     shards written beside the sampling
    manifest    which shards are finished, with their digests
    folder      one session at a time
    resuming    what a session starts from
    session     sampling of what is missing
    run         `stream`

The names are resolved lazily: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_registry.streaming.progress import Progress as Progress
    from ldm_registry.streaming.run import stream as stream

_HOMES = {"Progress": "progress", "stream": "run"}

__all__ = ["Progress", "stream"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ldm_registry.streaming.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
