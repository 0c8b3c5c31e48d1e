"""What a node runs, and how that differs from what we run: a task has to mean the same everywhere."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

from ldm_registry.errors import PluginError

GROUP = "ldm_registry"
"""Entry points by which a distribution says that it is a plugin."""
LIBRARIES = ("ldm-registry", "torch", "ray")


def node_report() -> Mapping[str, str]:
    """Versions of Python, of this package, of torch, of Ray and of every plugin, as this process finds them."""
    plugins = {
        point.dist.name: point.dist.version for point in metadata.entry_points(group=GROUP) if point.dist
    }
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in LIBRARIES},
        **dict(sorted(plugins.items())),
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """How two reports differ, a line for each library.

    Args:
        ours: Of the process that hands out tasks.
        theirs: Of a node.
    """
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        f"{name} is {ours.get(name, 'not installed')} here, {theirs.get(name, 'not installed')} there"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def check_nodes(ours: Mapping[str, str], nodes: Mapping[str, Mapping[str, str] | str]) -> None:
    """Refuse a cluster where a task would not mean the same everywhere.

    Args:
        ours: Of the process that hands out tasks.
        nodes: Their reports by address, or why there is none.

    Raises:
        PluginError: Says what differs, node by node.
    """
    problems = []
    for address, report in nodes.items():
        lines = [report] if isinstance(report, str) else differences(ours, report)
        problems += [f"node {address}: {line}" for line in lines]
    if problems:
        raise PluginError(
            "the nodes of the Ray cluster do not run what this process runs",
            problems,
            hint="install the same versions of ldm-registry, its plugins and torch everywhere",
        )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
