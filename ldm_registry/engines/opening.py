"""An engine by the words of a command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ldm_registry.engines.extras import missing_extra
from ldm_registry.engines.here import Here
from ldm_registry.engines.outcome import Engine
from ldm_registry.errors import SpecError, did_you_mean

HERE, RAY = "here", "ray"


@contextmanager
def engine(
    on: str | None = None, *, address: str | None = None, workers: int | None = None
) -> Iterator[Engine]:
    """Somebody to do tasks; what was started for it ends with the block.

    Args:
        on: None or "here": this process, one task after the other. "ray": workers on Ray.
        address: Of the head of a Ray cluster, `HOST:PORT`, or `auto` for the one that this machine belongs to. None is
            that of the environment (RAY_ADDRESS), else Ray is started on this machine.
        workers: Tasks at once; None is as many as the cluster has cores, or GPUs where tasks want one.

    Raises:
        SpecError: There is no such engine, or Ray is not installed.
        NetworkError: Nobody answers at the address.
        PluginError: The nodes of the cluster run other versions.
        ResourceError: Ray cannot be started.
    """
    if not runs_on_ray(on, address=address, workers=workers):
        yield Here()
        return
    from ldm_registry.engines.ray_cluster import connected

    with connected(address, workers=workers):
        from ldm_registry.engines.ray_engine import RayEngine

        yield RayEngine(workers)


def runs_on_ray(on: str | None, *, address: str | None = None, workers: int | None = None) -> bool:
    """Whether Ray is asked for, which has to be installed then.

    Args:
        on: As `engine`.
        address: As `engine`.
        workers: As `engine`.

    Raises:
        SpecError: There is no such engine, options of Ray are given without it, or Ray is not installed.
    """
    if on not in (None, HERE, RAY):
        raise SpecError(f"there is no engine {on!r} to run on; {did_you_mean(str(on), (HERE, RAY))}")
    if on != RAY and (address is not None or workers is not None):
        option = "an address" if address is not None else "a number of workers"
        raise SpecError(f"{option} is given, but work is to be done in this process", hint="add --on ray")
    if workers is not None and workers < 1:
        raise SpecError(f"{workers} workers do nothing; expected 1 or more")
    if on == RAY and find_spec("ray") is None:
        raise missing_extra("ray", "Ray")
    return on == RAY
