from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ldm = Callable[..., Any]


@pytest.mark.plugins
def test_one_stage_is_diagnosed_by_itself(ldm: Ldm) -> None:
    ended = ldm("diagnose", "emoji-kl-dit", "scheduler", "--quick", "--json")
    assert ended.code == 0
    assert ended.document["stage"] == "scheduler"
    assert ended.document["verdict"]["stage"] == "healthy"
    assert ended.document["substitution"] is None
    assert "1 of 2" in ended.err


@pytest.mark.plugins
def test_seed_and_precision_are_those_that_the_options_say(ldm: Ldm) -> None:
    ended = ldm(
        "diagnose", "emoji-kl-dit", "scheduler", "--quick", "--seed", "7", "--dtype", "float64", "--json"
    )
    assert ended.document["seed"] == 7
    assert ended.document["placements"]["denoiser"] == "cpu, float64"


def test_a_stage_that_does_not_exist_is_refused_with_the_nearest_word(ldm: Ldm) -> None:
    ended = ldm("diagnose", "emoji-kl-dit", "denoisr", "--json")
    assert ended.code == 2
    assert "denoiser" in ended.document["hint"]


def test_a_page_is_not_written_over_another_file(ldm: Ldm, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert ldm("diagnose", "emoji-kl-dit", "scheduler", "-o", page).code == 2
    assert page.read_text() == "mine"
    assert ldm("diagnose", "emoji-kl-dit", "scheduler", "-o", tmp_path / "none" / "page.html").code == 3


@pytest.mark.plugins
def test_the_page_is_written_where_it_was_asked_for(ldm: Ldm, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert ldm("diagnose", "emoji-kl-dit", "scheduler", "--quick", "-o", page).code == 0
    assert page.read_text("utf-8").lstrip().lower().startswith("<!doctype html>")


@pytest.mark.plugins
def test_a_fault_that_is_not_installed_is_not_scored(ldm: Ldm, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    words = ("benchmark-verdict", "emoji-kl-ideal", "--fault", "none-such", "--no-controls", "-o", scores)
    assert ldm(*words, "--json").code == 3
    assert not scores.exists()
