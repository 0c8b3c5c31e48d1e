"""Watch activations inside a component, by module name, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from ldm_registry.errors import NotFoundError, SpecError, did_you_mean
from ldm_registry.interfaces import Component
from ldm_registry.runtime.compiled import runs_compiled

Taps = dict[str, list[Tensor]]
"""Module name to the tensors that it put out, in order of the calls; detached, not copied."""


def tap_names(module: nn.Module) -> list[str]:
    """The names of all submodules that can be tapped."""
    return [name for name, _ in module.named_modules() if name]


@contextmanager
def observe(module: nn.Module, *patterns: str) -> Iterator[Taps]:
    """Record what the named submodules put out while the block runs.

    Args:
        module: A component.
        patterns: Names as `tap_names` gives them; `*` matches any run of characters.

    Yields:
        A mapping that fills up as the module is called.

    Raises:
        NotFoundError: A pattern matches nothing.
        SpecError: The module was compiled: hooks that are added after `torch.compile` record nothing.
    """
    compiled = [name or _called(module) for name, part in module.named_modules() if is_compiled(part)]
    if compiled:
        raise SpecError(
            f"cannot observe a compiled module: {', '.join(compiled)}",
            hint="assemble the pipeline without `compile` in the `runtime:` of that stage to record activations",
        )
    names = tap_names(module)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise NotFoundError(
                f"no module of {type(module).__name__} matches {pattern!r}", hint=did_you_mean(pattern, names)
            )
    taps: Taps = {}
    hooks = [
        part.register_forward_hook(_recorder(taps, name))
        for name, part in module.named_modules()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    try:
        yield taps
    finally:
        for hook in hooks:
            hook.remove()


def is_compiled(module: nn.Module) -> bool:
    """Whether this very module runs compiled: by `torch.compile`, in place or as a wrapper, or as its spec says."""
    by_torch = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return by_torch or runs_compiled(module)


def _called(module: nn.Module) -> str:
    return f"{module.kind} {module.name!r}" if isinstance(module, Component) else type(module).__name__


def _recorder(taps: Taps, name: str) -> Any:
    def record(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            taps.setdefault(name, []).append(output.detach())

    return record
