from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ldm = Callable[..., Any]


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
def test_a_fault_that_is_not_installed_is_not_scored(ldm: Ldm, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    words = ("benchmark-verdict", "emoji-kl-ideal", "--fault", "none-such", "--no-controls", "-o", scores)
    assert ldm(*words, "--json").code == 3
    assert not scores.exists()


def injected(ldm: Ldm, fault: str, folder: Path) -> Path:
    path = folder / f"{fault}.yaml"
    assert ldm("inject", "emoji-kl-ideal", fault, "-o", path).code == 0
    return path


@pytest.mark.plugins
def test_one_stage_is_diagnosed_by_itself_and_the_document_holds_every_number_with_its_range(
    ldm: Ldm,
) -> None:
    ended = ldm("diagnose", "emoji-kl-dit", "scheduler", "--quick", "--json")
    document = ended.document
    assert ended.code == document["exit_code"] == 0
    assert document["stage"] == "scheduler"
    assert document["verdict"]["stage"] == "healthy"
    assert document["substitution"] is None
    assert [line[:6] for line in ended.err.splitlines()] == ["1 of 2", "2 of 2"]
    assert set(document) == {
        *(
            "spec",
            "verdict",
            "measurements",
            "substitution",
            "stage",
            "parts",
            "placements",
            "seed",
            "images",
        ),
        *("quick", "warnings", "seconds", "version", "costs", "exit_code"),
    }
    assert document["quick"] is True
    assert [one["code"] for one in document["measurements"]] == ["CON", "ORA"]
    for test in document["measurements"]:
        assert set(test) == {
            *(
                "code",
                "title",
                "stages",
                "healthy",
                "metrics",
                "suspicions",
                "curves",
                "seconds",
                "skipped",
                "notes",
            ),
        }
        assert all(
            set(one) == {"name", "value", "about", "healthy", "range", "source"} for one in test["metrics"]
        )
    probabilities = [one["probability"] for one in document["verdict"]["candidates"]]
    assert sum(probabilities) == pytest.approx(1.0)


@pytest.mark.plugins
def test_a_fault_ends_with_code_one_and_the_name_of_the_stage_and_data_alone_go_to_stdout(
    ldm: Ldm, tmp_path: Path
) -> None:
    ended = ldm("diagnose", injected(ldm, "clipped-x0", tmp_path), "scheduler", "--quick")
    assert ended.code == 1
    assert ended.out.startswith("clipped-x0: the scheduler is at fault")
    assert not re.search(r"\d of \d", ended.out)
    assert [line[:6] for line in ended.err.splitlines()] == ["1 of 2", "2 of 2"]


@pytest.mark.plugins
def test_seed_and_precision_are_those_that_the_options_say_and_a_page_is_written(
    ldm: Ldm, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    words = ("emoji-kl-ideal", "scheduler", "--quick", "--seed", "7", "--dtype", "float64", "-o", page)
    ended = ldm("diagnose", *words, "--json")
    assert ended.document["seed"] == 7
    assert ended.document["placements"]["decoder"] == "cpu, float64"
    assert page.read_text("utf-8").lstrip().lower().startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.plugins
def test_the_same_seed_gives_the_same_document_but_for_its_times(ldm: Ldm) -> None:
    first, second = (
        json.dumps(
            without_times(ldm("diagnose", "emoji-kl-ideal", "scheduler", "--quick", "--json").document)
        )
        for _ in range(2)
    )
    assert first == second


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("no-such-spec",), 3),
        (("emoji-kl-ideal", "scheduler", "--dtype", "float61"), 2),
        (("emoji-kl-ideal", "scheduler", "--seed", "one"), 2),
        (("emoji-kl-ideal", "scheduler", "decoder"), 2),
        ((), 2),
    ],
)
def test_what_cannot_be_diagnosed_ends_with_the_code_of_its_error(
    words: tuple[str, ...], code: int, ldm: Ldm
) -> None:
    ended = ldm("diagnose", *words, "--json")
    assert ended.code == ended.document["exit_code"] == code


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("stage", ["encoder", "denoiser", "decoder"])
def test_every_stage_can_be_looked_at_by_itself(stage: str, ldm: Ldm, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ended = ldm("diagnose", "emoji-kl-dit", stage, "--quick", "--json", "-o", page)
    assert (ended.code, ended.document["stage"]) == (0, stage)
    assert ended.document["seconds"] < 30.0
    assert len(ended.document["measurements"]) >= 4
    assert all(stage in one["stages"] or not one["stages"] for one in ended.document["measurements"])
    assert "<img" in page.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.plugins
def test_a_whole_diagnosis_says_what_each_stage_cost(ldm: Ldm) -> None:
    document = ldm("diagnose", "emoji-kl-ideal", "--json").document
    assert list(document["costs"]["stages"]) == ["encoder", "denoiser", "scheduler", "decoder"]
    assert document["costs"]["clock"] == "wall clock"
    assert all(one["ms"] > 0.0 for one in document["costs"]["stages"].values())


@pytest.mark.slow
@pytest.mark.plugins
def test_a_scored_benchmark_is_shown_again_without_running_anything(ldm: Ldm, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    words = ("benchmark-verdict", "emoji-kl-ideal", "--fault", "clipped-x0", "--fault", "collapsed-codebook")
    rest = ("--strength", "1", "--no-controls", "--quick", "-o", scores)
    first = ldm(*words, *rest)
    assert first.code == 0
    assert "1 faults do not apply" in first.out
    written = scores.read_text()
    assert len(written.splitlines()) == 2
    again = ldm(*words, *rest)
    assert (again.out, again.err) == (first.out, "")
    assert scores.read_text() == written
    assert "| clipped-x0 | scheduler | 1 of 1 |" in ldm(*words, *rest, "--markdown").out


def test_features_are_refused_where_no_samples_are_compared(ldm: Ldm) -> None:
    for others in (("scheduler",), ("--against", "emoji-kl-unet")):
        ended = ldm(
            "diagnose", "emoji-kl-dit", *others, "--features", "specs/checkpoints/emoji-kl-vae", "--json"
        )
        assert ended.code == 2
        assert "--features" in ended.err + json.dumps(ended.document)


@pytest.mark.plugins
def test_features_of_a_folder_that_holds_no_encoder_are_refused(ldm: Ldm) -> None:
    root = Path(__file__).parents[2]
    ended = ldm("diagnose", "emoji-kl-dit", "--features", root / "specs/checkpoints/emoji-kl-dit", "--json")
    assert ended.code == 3
    assert "no encoder" in ended.err + json.dumps(ended.document)


@pytest.mark.plugins
@pytest.mark.slow
def test_an_encoder_gives_features_for_the_quality_of_samples(ldm: Ldm) -> None:
    root = Path(__file__).parents[2]
    words = ("--quick", "--features", root / "specs/checkpoints/emoji-kl-vae", "--json")
    (quality,) = [
        one
        for one in ldm("diagnose", "emoji-pixel-dit", *words).document["measurements"]
        if one["code"] == "QUAL"
    ]
    values = {metric["name"]: metric["value"] for metric in quality["metrics"]}
    assert values["chosen_frechet_distance"] > values["chosen_frechet_distance_of_halves"] > 0
