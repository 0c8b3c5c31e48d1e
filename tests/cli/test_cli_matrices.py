from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backward_engine import Backwards

from ldm_registry.diagnostics import benchmark, scoring
from ldm_registry.diagnostics.agreement import Match
from ldm_registry.diagnostics.crossing import Agreement, Crossed, Crossing
from ldm_registry.diagnostics.parity import Parity
from ldm_registry.engines.here import Here
from ldm_registry.errors import CheckpointError, ResourceError
from ldm_registry.matrix import Failed
from ldm_registry.report import against_several, comparison
from ldm_registry.report.against_several import Pair, file_names
from ldm_registry.spec import load_spec
from ldm_registry.vocabulary import Kind

Ldm = Callable[..., Any]
DENOISER = frozenset({Kind.DENOISER})


def crossing(one: str, other: str, agreement: Agreement, stage: Kind | None = None) -> Crossing:
    """What comes of a comparison, without one."""
    differs = agreement is Agreement.STAGE
    crossed = (Crossed(frozenset(), 0.0), Crossed(DENOISER, 9.5 if differs else 0.0))
    match = Match.DIFFERENT if differs else Match.EQUAL
    error, step = (0.25, 2) if differs else (0.0, None)
    parity = Parity(Kind.DENOISER, match, error, 0.0, "float32", step=step)
    equal = frozenset({Kind.ENCODER, Kind.SCHEDULER, Kind.DECODER})
    return Crossing(
        (one, other),
        agreement,
        DENOISER if differs else frozenset(),
        0.9 if differs else 1.0,
        crossed,
        {DENOISER: 9.5} if differs else {},
        (parity,),
        (),
        equal,
        stage,
        (),
        (),
        0,
        3,
        0,
        True,
        1.5,
        "1",
    )


def crossed(pair: Pair) -> against_several.Crossed:
    """In place of a comparison: a second spec with another denoiser differs, and that of pixels cannot be loaded."""
    if "pixel" in pair.name:
        raise CheckpointError("the checkpoint is damaged", ["a tensor is missing"])
    differs = pair.other.denoiser.use != pair.one.denoiser.use
    found = crossing("first", pair.name, Agreement.STAGE if differs else Agreement.EQUAL, pair.stage)
    return against_several.Crossed(pair.name, found, ({}, {}), pair.report)


def scored(healthy: Any, cell: benchmark.Cell, *, quick: bool) -> benchmark.Score | benchmark.Refused:
    """In place of a diagnosis: mild faults crash it."""
    if cell.strength < 1.0:
        raise ZeroDivisionError("nothing to divide")
    return right(healthy, cell, quick=quick)


def right(healthy: Any, cell: benchmark.Cell, *, quick: bool) -> benchmark.Score | benchmark.Refused:
    """In place of a diagnosis: the verdict is right."""
    return benchmark.Score(cell.key, "scheduler", "scheduler", 0.9, "a fault", True, True, 20.0, 1.0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_several, "crossed", crossed)
    monkeypatch.setattr(scoring, "score", scored)


@pytest.mark.plugins
def test_against_several_each_has_a_row_in_the_order_given_and_one_that_fails_says_why(
    ldm: Ldm, fakes: None, tmp_path: Path
) -> None:
    others = ("emoji-kl-unet", "no-such-spec", "emoji-pixel-dit", "emoji-vq-dit")
    words = ("diagnose", "emoji-kl-dit", "denoiser", "--against", *others, "--quick")
    ended = ldm(*words, "-o", tmp_path / "out", "--json")
    assert ended.code == 4
    rows = ended.document["rows"]
    assert [row["second"] for row in rows] == list(others)
    assert [row.get("error", "").partition(":")[0] for row in rows] == [
        "",
        "NotFoundError",
        "CheckpointError",
        "",
    ]
    assert rows[0]["verdict"]["stage"] == "denoiser"
    assert rows[0]["stage"] == "denoiser"
    assert rows[2]["problems"] == ["a tensor is missing"]
    assert (ended.document["differing"], ended.document["failed"]) == (1, 2)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    reports = [f"emoji-{name}.{kind}" for name in ("kl-unet", "vq-dit") for kind in ("html", "json")]
    assert files == ["against.json", *reports, "index.html"]
    assert json.loads((tmp_path / "out" / "against.json").read_text()) == ended.document
    assert json.loads((tmp_path / "out" / "emoji-vq-dit.json").read_text())["second"] == "emoji-vq-dit"
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert page.count('href="emoji-kl-unet.html"') == 1
    assert "the checkpoint is damaged" in page
    text = ldm(*words).out.splitlines()
    assert text[0] == "emoji-kl-dit against 4 others: 1 differ, 2 failed"
    assert text[3].split()[:4] == ["emoji-kl-unet", "denoiser", "90%", "9.50"]
    assert text[3].endswith("denoiser: step 3")
    assert text[4].split() == ["no-such-spec", "failed", "-", "-"]


@pytest.mark.plugins
def test_against_several_the_exit_code_is_zero_one_or_that_of_what_was_refused(ldm: Ldm, fakes: None) -> None:
    words = ("diagnose", "emoji-kl-dit", "--against", "emoji-vq-dit")
    assert ldm(*words, "emoji-kl-dit").code == 0
    assert ldm(*words, "no-such-spec").code == 1
    assert ldm(*words, "emoji-kl-unet").code == 1
    assert ldm(*words, "emoji-pixel-dit").code == 4
    assert ldm("diagnose", "emoji-kl-dit", "--against", "no-such-spec", "none-such").code == 3
    assert ldm("diagnose", "emoji-kl-dit", "--against", "emoji-pixel-dit", "emoji-pixel-unet").code == 4
    assert ldm("diagnose", "none-such", "--against", "emoji-vq-dit", "emoji-kl-unet").code == 3


def test_a_folder_of_other_things_is_not_written_to(ldm: Ldm, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    words = ("diagnose", "emoji-kl-dit", "--against", "emoji-vq-dit", "emoji-kl-unet")
    assert ldm(*words, "-o", tmp_path).code == 2
    assert ldm(*words, "-o", tmp_path / "mine").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diagnose", "emoji-kl-dit", "denoisr", "--against", "emoji-vq-dit"), "denoiser"),
        (("diagnose", "emoji-kl-dit", "emoji-vq-dit"), "stage"),
        (
            ("diagnose", "emoji-kl-dit", "encoder", "decoder", "--against", "emoji-vq-dit"),
            "encoder and decoder",
        ),
        (("diagnose", "emoji-kl-dit", "--on", "ray"), "--against"),
        (("diagnose", "emoji-kl-dit", "--workers", "2"), "--on ray"),
        (("compare", "emoji-kl-dit", "--address", "head:1"), "--on ray"),
        (("benchmark-verdict", "emoji-kl-dit", "--on", "rey"), "'ray'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(ldm: Ldm, words: tuple[str, ...], said: str) -> None:
    ended = ldm(*words, "--json")
    assert ended.code == 2
    assert said in f"{ended.document['summary']} {ended.document['hint']}"


def test_no_two_reports_have_one_name_nor_that_of_the_table() -> None:
    assert file_names(["a", "A", "index", "a", "against"]) == ["a", "A-2", "index-2", "a-3", "against-2"]


def test_rows_of_pairs_keep_their_places_whatever_is_done_first(fakes: None) -> None:
    first, other = load_spec("emoji-kl-dit"), load_spec("emoji-kl-unet")
    pairs = [Pair("a", first, other), Failed("b", "SpecError: no"), Pair("c", first, first)]
    found = list(against_several.compare(pairs, Backwards()))
    assert [place for place, _ in found] == [1, 2, 0]
    assert [row.name for _, row in sorted(found, key=lambda one: one[0])] == ["a", "b", "c"]


@pytest.mark.plugins
def test_a_cell_that_fails_is_a_row_and_is_tried_again_while_the_others_are_not(
    ldm: Ldm, fakes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tmp_path / "scores.jsonl"
    words = ("benchmark-verdict", "emoji-kl-ideal", "--fault", "clipped-x0", "--no-controls", "-o", scores)
    strengths = ("--strength", "0.5", "--strength", "1")
    ended = ldm(*words, *strengths, "--json")
    assert ended.code == 1
    assert ended.document["failed"] == [
        {
            "key": "emoji-kl-ideal clipped-x0 0.5",
            "error": "ZeroDivisionError: nothing to divide",
            "problems": [],
        }
    ]
    assert [one["key"] for one in ended.document["scores"]] == ["emoji-kl-ideal clipped-x0 1"]
    assert ended.document["rates"]["right"] == 1.0
    assert len(scores.read_text().splitlines()) == 1, "what failed is not kept"
    text = ldm(*words, *strengths).out
    assert "failed, and in no figure: 1" in text
    assert text.startswith("1 pipelines: 1 with a fault")
    lone = ldm(*words, "--strength", "0.5")
    assert (lone.code, lone.out.splitlines()[0]) == (70, "failed, and in no figure: 1")
    monkeypatch.setattr(scoring, "score", right)
    again = ldm(*words, *strengths, "--json")
    assert (again.code, len(again.document["scores"])) == (0, 2)
    assert [line[:6] for line in again.err.splitlines()] == ["1 of 2"]
    assert [one["key"][-3:] for one in again.document["scores"]] == ["0.5", "0 1"], "in order"


@pytest.mark.plugins
def test_a_healthy_spec_that_does_not_load_is_a_failure_and_no_fault_that_does_not_apply(
    tmp_path: Path,
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("extends: emoji-kl-dit\ndenoiser: {use: dit, checkpoint: nowhere}\n")
    spec = load_spec(path)
    cell = benchmark.Cell("broken", "as it is", 0.0, (), (), spec)
    rows = list(scoring.scoring([scoring.Planned(0, spec, cell)], [spec], Here(), quick=True))
    ((place, row),) = rows
    assert place == 0
    assert isinstance(row, Failed)
    assert row.error.startswith("NotFoundError: checkpoint")


def test_a_machine_without_memory_is_no_fault_that_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(spec: Any) -> None:
        raise ResourceError("there is not enough memory")

    monkeypatch.setattr(benchmark, "assemble", full)
    spec = load_spec("emoji-kl-dit")
    with pytest.raises(ResourceError):
        benchmark.score(spec, benchmark.Cell("a", "f", 1.0, (), (), spec), quick=True)


@pytest.mark.plugins
@pytest.mark.parametrize(
    "words",
    [
        ("compare", "emoji-kl-dit", "emoji-kl-unet"),
        ("diagnose", "emoji-kl-dit", "--against", "emoji-kl-unet", "emoji-vq-dit"),
        ("diagnose", "emoji-kl-dit", "--against", "emoji-kl-unet"),
        ("benchmark-verdict", "emoji-kl-dit", "--fault", "clipped-x0"),
    ],
)
def test_without_ray_the_command_says_what_to_install_and_does_nothing(
    ldm: Ldm, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(comparison, "measure_apart", pytest.fail)
    ended = ldm(*words, "--on", "ray", "-o", tmp_path / "out", "--json")
    assert ended.code == ended.document["exit_code"] == 2
    assert 'pip install "ldm-registry[ray]"' in ended.document["hint"]
    assert not (tmp_path / "out").exists()
