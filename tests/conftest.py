"""What every test shares: a bounded number of threads, and skips for what a machine lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    # Read when torch is imported, here and in whatever a test starts: threads of two workers wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no counterexample, and a run that fails has to fail again.
settings.register_profile("ldm", deadline=None, derandomize=True)
settings.load_profile("ldm")

# Tests of how the plugins work together, and of diagnoses, which take their subjects from the bundled pipelines; a
# tree from which the plugins were removed has nothing there to test.
collect_ignore = [] if (ROOT / "plugins").is_dir() else ["plugins", "diagnostics"]
# Projects of their own, with tests that run where they are installed; tests/authoring runs them.
collect_ignore.append("third_party")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    installed = bool(metadata.entry_points(group="ldm_registry"))
    for item in items:
        if item.get_closest_marker("plugins") and not installed:
            item.add_marker(pytest.mark.skip(reason="no plugin is installed"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    import torch

    torch.set_num_threads(1 if IS_WORKER else min(2, torch.get_num_threads()))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of one machine with two cores, whose workers import what tests import; `engine("ray")` uses it."""
    ray = pytest.importorskip("ray")
    from ldm_registry.engines.ray_cluster import connected

    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else runs on the machine goes first
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(workers=2):
            yield
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
