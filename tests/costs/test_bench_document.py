from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from costs.toy_bench import HASTY, known_rates, toy_pipe

from ldm_registry.costs import bench as bench_module
from ldm_registry.report.bench import to_document

PAGE = Path(__file__).parents[2] / "docs" / "bench-command.md"


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_every_key_of_the_document_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "measured", known_rates)
    found = bench_module.bench(toy_pipe(tmp_path), sizes=[(16, 8), (18, 8)], effort=HASTY)
    document = to_document(found)
    said = set(re.findall(r"`([a-z_]+)(?:\[\])?`", PAGE.read_text("utf-8").partition("## The document")[2]))
    by_name = {"cpu", "growth", "pixels", "batch"}
    assert set(keys(document)) - said - by_name == set()
    assert said - set(keys(document)) <= {
        "plot",
        "encoder",
        "denoiser",
        "scheduler",
        "decoder",
        "call",
        "step",
        "thorough",
        "quick",
    }
