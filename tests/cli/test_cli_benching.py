from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from costs.toy_bench import HASTY, known_rates


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_registry.costs import bench, series

    monkeypatch.setattr(series, "QUICK", HASTY)
    monkeypatch.setattr(bench, "measured", known_rates)


def test_a_bench_prints_tables_and_draws_a_picture(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    picture = tmp_path / "costs.svg"
    ended = ldm("bench", toy_spec, "--quick", "--plot", picture)
    assert ended.code == 0
    assert ended.out.startswith("toy: 1 image of 16 x 16 px at once")
    assert f"picture: {picture}" in ended.out
    assert picture.read_text("utf-8").startswith("<svg")


def test_a_bench_is_one_document_with_the_sizes_that_were_asked_for(ldm: Any, toy_spec: Path) -> None:
    words = ("--batch", "3", "--sizes", "8, 16x24", "--seed", "5", "--dtype", "float64")
    document = ldm("bench", toy_spec, "--quick", "--json", *words).document
    assert document["case"] == {"batch": 3, "height": 16, "width": 16}
    assert document["seed"] == 5
    assert {part["dtype"] for part in document["parts"]} == {"float64"}
    points = document["parts"][0]["growth"]["pixels"]["points"]
    assert [(one["height"], one["width"]) for one in points] == [(8, 8), (16, 24)]


@pytest.mark.parametrize("sizes", ["", "64,", "0", "64*64", "1e3", "-8"])
def test_a_size_that_is_none_is_refused_before_anything_runs(ldm: Any, toy_spec: Path, sizes: str) -> None:
    ended = ldm("bench", toy_spec, f"--sizes={sizes}")
    assert ended.code == 2
    assert "64,128 or 64x96,128" in ended.err


def test_a_picture_that_could_not_be_written_is_refused_before_anything_runs(
    ldm: Any, toy_spec: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.svg"
    there.write_text("mine")
    refused = {
        tmp_path / "costs.png": (2, "FILE.svg"),
        tmp_path / "nowhere" / "costs.svg": (3, "no folder"),
        there: (2, "--overwrite"),
    }
    for path, (code, said) in refused.items():
        ended = ldm("bench", toy_spec, "--plot", path)
        assert (ended.code, said in ended.err) == (code, True)
    assert there.read_text() == "mine"
