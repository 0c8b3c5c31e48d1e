"""Statistics of image sets of any size: computed shard by shard, merged to what one pass over all images would give.

::

    gaussian      `Gaussian`: count, mean and scatter of vectors
    spread        `Spread`: the same of single numbers, with the least and the largest
    pairing       how images of one index differ between two sets
    of_images     `ImageStatistics`: all that is kept of a set
    image_set     which shards a set consists of
    of_shard      one shard measured, by whoever does the task
    in_any_order  shards put together by their places alone
    gathered      `gathering`, `statistics_of`: the shards of one or two sets, here or on Ray

The names are resolved lazily: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_registry.image_statistics.gathered import Gathered as Gathered
    from ldm_registry.image_statistics.gathered import gathering as gathering
    from ldm_registry.image_statistics.gathered import statistics_of as statistics_of
    from ldm_registry.image_statistics.gaussian import Gaussian as Gaussian
    from ldm_registry.image_statistics.of_images import ImageStatistics as ImageStatistics
    from ldm_registry.image_statistics.pairing import Pairing as Pairing
    from ldm_registry.image_statistics.spread import Spread as Spread

_HOMES = {
    "Gathered": "gathered",
    "Gaussian": "gaussian",
    "ImageStatistics": "of_images",
    "Pairing": "pairing",
    "Spread": "spread",
    "gathering": "gathered",
    "statistics_of": "gathered",
}

__all__ = ["Gathered", "Gaussian", "ImageStatistics", "Pairing", "Spread", "gathering", "statistics_of"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ldm_registry.image_statistics.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
