"""Checks types and array shapes at run time, for the tests alone: an import hook breaks `torch.compile`.

Named by `--jaxtyping-packages`: see `.ci/run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and its result checked.

    A function that says `Self` is left alone: its class would have to be decorated as a whole.
    """
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        return function
