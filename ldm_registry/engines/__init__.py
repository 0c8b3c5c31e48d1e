"""Where tasks that do not depend on one another are done: one after the other in this process, or by workers on Ray.

::

    outcome      `Outcome` of a task, and `Engine`, which does tasks
    here         in this process
    extras       the error for a library that is not installed
    ray_cluster  joining a Ray cluster, or starting one on this machine
    node_report  whether every node of it runs the same versions
    ray_engine   on Ray
    opening      `engine`: by the name of a command's option

    with engine("ray", address="head:6379") as workers:
        for outcome in workers.outcomes(measure, specs):
            print(outcome.task, outcome.error or outcome.result)

Ray is an extra (`ldm-registry[ray]`) and imported only where it is asked for. The names are resolved lazily:
importing this package imports neither torch nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_registry.engines.opening import engine as engine
    from ldm_registry.engines.outcome import Engine as Engine
    from ldm_registry.engines.outcome import Outcome as Outcome

_HOMES = {"Engine": "outcome", "Outcome": "outcome", "engine": "opening"}

__all__ = ["Engine", "Outcome", "engine"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ldm_registry.engines.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
