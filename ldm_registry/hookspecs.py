"""The one hook that a plugin implements.

A plugin's module holds::

    @ldm_registry.hookimpl
    def register_components():
        return [MyEncoder, MyDecoder]

and its `pyproject.toml` declares each of them::

    [project.entry-points.ldm_registry]
    "encoder.my-vae" = "my_plugin"
    "decoder.my-vae" = "my_plugin"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ldm_registry.interfaces import Component

PROJECT = "ldm_registry"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_components() -> Sequence[type[Component]]:
    """The component classes that this plugin supplies: exactly those that its entry points declare."""
    raise NotImplementedError("a hook specification has no body; plugins implement it")
