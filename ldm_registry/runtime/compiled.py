"""A part through `torch.compile`: one compilation for each size that it meets, and a word about each one."""

from __future__ import annotations

import copy
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ldm_registry.errors import MissingDependencyError, PluginError
from ldm_registry.interfaces import Component, DenoiserOutput, Trained
from ldm_registry.noise import NoiseLevel
from ldm_registry.runtime.entry import own_call, stand_in
from ldm_registry.runtime.offload import OffloadedCall

MAX_SIZES = 8
"""Sizes that one part is compiled for, as many as PyTorch allows by default; what comes after runs uncompiled."""

log = logging.getLogger("ldm_registry.runtime")


@final
class CompiledCall:
    """Stands in for the method of a part and runs it compiled.

    Each size is compiled by itself, with that size as a constant. A gradient is computed by the part's own method, as
    is a call with a random generator, which a compiled graph cannot hold.

    Args:
        part: Compiled as it is when the first call comes.
        cuda_graphs: Record the kernels and replay them.
    """

    def __init__(self, part: Component, *, cuda_graphs: bool = False) -> None:
        self._part, self._cuda_graphs = part, cuda_graphs
        self._own = own_call(part)
        self._compiled = self._own
        self._sizes: list[tuple[str, ...]] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the method gives, within rounding.

        Raises:
            PluginError: PyTorch cannot compile the part.
        """
        if _needs_its_own_method((*args, *options.values())):
            return self._own(*args, **options)
        size = (*_sizes(args), *_sizes(tuple(options.values())))
        if size not in self._sizes:
            self._met(size)
        if size not in self._sizes[:MAX_SIZES]:
            return self._own(*args, **options)
        # One compilation for all callers: inference mode, and tensors made in it, would each ask for one of their own.
        with torch.inference_mode(False), torch.no_grad():
            return self._run(tuple(map(_plain, args)), {name: _plain(one) for name, one in options.items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy is made to be changed or measured; it runs its own method.
        return own_call(copy.deepcopy(self._part, memo))

    def _met(self, size: tuple[str, ...]) -> None:
        """Note a new size and say what it costs."""
        if not self._sizes:
            _keep_times_out_of_graphs()
            mode = "reduce-overhead" if self._cuda_graphs else None
            self._compiled = torch.compile(self._own, dynamic=False, mode=mode)
        else:
            name, number = f"{self._part.kind} {self._part.name!r}", len(self._sizes) + 1
            does = f"is compiled once more, for size {number}" if number <= MAX_SIZES else "runs uncompiled"
            log.warning("%s %s: %s; before: %s", name, does, ", ".join(size), ", ".join(self._sizes[-1]))
        self._sizes.append(size)

    def _run(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's stubs
        try:
            given = self._compiled(*args, **options)
        except Exception as error:
            from torch._dynamo.exc import TorchDynamoException

            if not isinstance(error, TorchDynamoException):
                raise
            raise PluginError(
                f"{self._part.kind} {self._part.name!r} cannot be compiled by PyTorch {torch.__version__}",
                [str(error).strip().partition("\n")[0]],
                hint="leave out `compile` in its `runtime:`",
            ) from error
        # A replayed graph writes its results to the same memory every time.
        return _copied(given) if self._cuda_graphs else given


def runs_compiled(module: nn.Module) -> bool:
    """Whether a module is a part that runs compiled, as its spec says."""
    call = stand_in(module)
    return isinstance(call.call if isinstance(call, OffloadedCall) else call, CompiledCall)


def require_compiler(device: torch.device) -> None:
    """Make sure that there is what `torch.compile` needs on this machine.

    Raises:
        MissingDependencyError: There is no C++ compiler, or no Triton for an accelerator.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    # May name a launcher before the compiler, as in `ccache g++`.
    wanted = next(iter(shlex.split(os.environ.get("CXX", ""))), usual)
    if shutil.which(wanted) is None:
        raise MissingDependencyError(
            f"`compile` needs a C++ compiler, and there is no {wanted!r} on this machine",
            hint="install one (Debian: `apt install g++`), name one in CXX, or leave out `compile`",
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise MissingDependencyError(
            "`compile` on a CUDA device needs Triton, which is not installed",
            hint="`pip install triton`, or leave out `compile`",
        )


def keep_compiled_code(folder: Path) -> None:
    """Let what is compiled from now on be kept in a folder, unless the environment already names one.

    PyTorch finds it again by the graph, the sizes, its own version and the machine.

    Args:
        folder: Made where it is missing, for this user alone: compiled code will be run from it.
    """
    # PyTorch itself writes its temporary folder there where nobody has named one.
    temporary = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", temporary).startswith(temporary):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


@cache
def _keep_times_out_of_graphs() -> None:
    """Leave the float64 arithmetic of times to PyTorch itself: a whole step has to come back exactly."""
    outside = torch.compiler.disable(Trained.network_time)  # type: ignore[no-untyped-call]  # torch's stubs
    Trained.network_time = outside  # type: ignore[method-assign]  # the same function, marked


def _tensors(values: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the arguments, with a name where it has one."""
    for value in values:
        if isinstance(value, Tensor):
            yield "", value
        elif isinstance(value, NoiseLevel):
            yield "level", value.alpha
        elif isinstance(value, Mapping):
            yield from ((str(name), value[name]) for name in sorted(value))


def _sizes(values: tuple[Any, ...]) -> tuple[str, ...]:
    """`("2x4x8x8 float32", "level scalar float64", "class_label 2 int64")`."""
    return tuple(
        f"{name} {'x'.join(map(str, one.shape)) or 'scalar'} {str(one.dtype).removeprefix('torch.')}".strip()
        for name, one in _tensors(values)
    )


def _needs_its_own_method(values: tuple[Any, ...]) -> bool:
    known = (Tensor, NoiseLevel, Mapping, type(None))
    if not all(isinstance(value, known) for value in values):
        return True
    return torch.is_grad_enabled() and any(one.requires_grad for _, one in _tensors(values))


def _plain(value: Any) -> Any:
    """The value with its tensors contiguous and usable outside inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value.contiguous()
    if isinstance(value, NoiseLevel):
        return NoiseLevel(_plain(value.alpha), _plain(value.sigma))
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value


def _copied(given: Any) -> Any:
    """What an encoder, a decoder or a denoiser gave, in memory of its own."""
    if isinstance(given, DenoiserOutput):
        variance = None if given.variance is None else given.variance.clone()
        return DenoiserOutput(given.prediction.clone(), variance)
    return given.clone()
