"""The method that everybody calls of a part, and what can stand in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ldm_registry.interfaces import Component
from ldm_registry.vocabulary import Kind

Call = Callable[..., Any]

ENTRY: Mapping[Kind, str] = {
    Kind.ENCODER: "encode",
    Kind.DENOISER: "forward",
    Kind.DECODER: "decode",
    Kind.CONDITIONER: "encode",
}
"""Name of the method by kind."""


def own_call(part: Component) -> Call:
    """The method as the part's class has it, whatever stands in its place now."""
    method: Call = getattr(type(part), ENTRY[part.kind]).__get__(part)
    return method


def stand_in(part: nn.Module) -> Call | None:
    """What stands in the place of the method; None where nothing does, and for a module that is no part."""
    if not isinstance(part, Component) or part.kind not in ENTRY:
        return None
    found: Call | None = part.__dict__.get(ENTRY[part.kind])
    return found


def put_in(part: Component, call: Call | None) -> None:
    """Let something stand in the place of the method.

    Args:
        part: Changed in place. Its modules and tensors stay as they are.
        call: Takes what the method takes; None takes away what stands there.
    """
    part.__dict__.pop(ENTRY[part.kind], None)
    if call is not None:
        part.__dict__[ENTRY[part.kind]] = call


@contextmanager
def own_calls(*parts: Component) -> Iterator[None]:
    """Meanwhile every part runs the method of its class; afterwards all is as it was.

    Args:
        parts: Those in whose place nothing stands are left alone.
    """
    with ExitStack() as stack:
        for part in parts:
            call = stand_in(part)
            if call is not None:
                put_in(part, None)
                stack.callback(put_in, part, call)
        yield
