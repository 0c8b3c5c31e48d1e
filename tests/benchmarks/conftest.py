"""Options, fixtures and the table of the benchmarks: `pytest tests/benchmarks -m benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from typing import Any

import pytest
import torch
from race import Race
from result import Result
from table import as_text

from ldm_registry.costs.machine import machine

PACKAGES = ("torch", "diffusers", "transformers", "pytest-benchmark")
RESULTS = pytest.StashKey[dict[str, list[Result]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the command line of the suite takes beside pytest-benchmark's own options."""
    group = parser.getgroup("benchmarks of ldm_registry")
    group.addoption("--device", default="cpu", help="cpu (default) or cuda: the cases for that device")
    group.addoption("--smoke", action="store_true", help="one turn of every case on tiny sizes: does it run?")
    group.addoption("--poster", action="store_true", help="also decode 4096 x 4096 px: half an hour or more")
    group.addoption("--ray", action="store_true", help="also make shards with 1, 2 and 4 workers on Ray")
    group.addoption("--turns-s", type=float, default=7.0, help="seconds for the turns of a case (default 7)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Our table takes the place of pytest-benchmark's, which knows no pairs."""
    config.stash[RESULTS] = {}
    if hasattr(config.option, "benchmark_quiet"):
        config.option.benchmark_quiet = True


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the figures depend on; without the name of the machine, which is nobody's business."""
    machine_info.pop("node", None)
    machine_info["ldm_registry"] = {
        **asdict(machine([torch.device(config.getoption("--device", "cpu"))])),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "smoke": config.getoption("--smoke", False),
    }


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table."""
    results = config.stash[RESULTS]
    if not results:
        return
    smoke = config.getoption("--smoke", False)
    terminalreporter.section("benchmarks" + (": smoke, the figures mean nothing" if smoke else ""))
    for line in as_text(results):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def smoke(pytestconfig: pytest.Config) -> bool:
    """Whether sizes have to be tiny."""
    return bool(pytestconfig.getoption("--smoke"))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """What the command line asks for."""
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture
def race(request: pytest.FixtureRequest, device: torch.device) -> Iterator[Race]:
    """Compares two sides, times them by turns, and writes the line of the table; for the cases of the CPU."""
    if device.type != "cpu":
        pytest.skip("a case for --device cpu")
    yield from _race(request, device)


@pytest.fixture
def gpu_race(request: pytest.FixtureRequest, device: torch.device, smoke: bool) -> Iterator[Race]:
    """Likewise for the cases of an accelerator; in smoke mode they run on the CPU, so that they cannot rot."""
    if device.type == "cpu" and not smoke:
        pytest.skip("a case for --device cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here: run this on a machine that has one")
    yield from _race(request, device)


def _race(request: pytest.FixtureRequest, device: torch.device) -> Iterator[Race]:
    options, benchmark = request.config.option, request.getfixturevalue("benchmark")
    runner = Race(benchmark, device, options.smoke, options.turns_s)
    yield runner
    if not runner.results:
        return
    lines = request.config.stash[RESULTS].setdefault(benchmark.group, [])
    lines.extend(Result.load(stored) for stored in runner.results)
