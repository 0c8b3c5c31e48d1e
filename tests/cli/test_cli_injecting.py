from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.assembly import assemble
from ldm_registry.spec import load_spec

Ldm = Callable[..., Any]

pytestmark = pytest.mark.plugins


def modifiers(path: Path, stage: str) -> list[tuple[str, dict[str, Any]]]:
    return [(one.use, dict(one.config)) for one in getattr(load_spec(path), stage).modify]


def test_the_list_shows_every_fault_with_its_number_and_where_it_goes(ldm: Ldm) -> None:
    document = ldm("inject", "--list", "--json").document
    faults = {one["name"]: one for one in document["faults"]}
    assert len(faults) >= 20
    assert faults["clipped-x0"]["stages"] == ["scheduler"]
    assert faults["edm2-range"]["stages"] == ["encoder", "decoder"]
    assert set(faults["random-weights"]["modifies"]) > set(faults["random-weights"]["stages"])
    text = ldm("inject", "--list").out
    (row,) = [line for line in text.splitlines() if line.startswith("clipped-x0 ")]
    assert row.split()[1:3] == ["F57", "scheduler"]
    assert row.count("F57") == 1


def test_a_spec_with_a_fault_is_written_and_differs_in_the_fault_alone(ldm: Ldm, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    ended = ldm("inject", "emoji-kl-ideal", "clipped-x0", "--strength", "0.5", "-o", new)
    assert (ended.code, ended.err) == (0, "")
    assert str(new) in ended.out
    assert modifiers(new, "scheduler") == [("clipped-x0", {"strength": 0.5})]
    changed, healthy = load_spec(new), load_spec("emoji-kl-ideal")
    assert [changed.encoder.use, changed.denoiser.use, changed.decoder.use] == [
        healthy.encoder.use,
        healthy.denoiser.use,
        healthy.decoder.use,
    ]
    assert not any(getattr(changed, stage).modify for stage in ("encoder", "denoiser", "decoder"))


def test_the_written_spec_runs_from_any_folder_and_lies_in_any(
    ldm: Ldm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, elsewhere = tmp_path / "deep" / "folder" / "new.yaml", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert ldm("inject", "emoji-kl-ideal", "unit-range-input", "-o", new).code == 0
    monkeypatch.chdir(elsewhere)
    relative = os.path.relpath(new, elsewhere)
    pipe = assemble(load_spec(relative))
    assert pipe.spec.data is not None
    assert pipe.spec.data.images.is_file()
    assert ldm("run", relative, "-n", "1", "-o", elsewhere / "out", "--json").code == 0


def test_without_an_output_the_spec_goes_to_the_terminal_and_the_document(ldm: Ldm, tmp_path: Path) -> None:
    printed = ldm("inject", "emoji-kl-ideal", "clipped-x0")
    document = ldm("inject", "emoji-kl-ideal", "clipped-x0", "--json").document
    assert document["yaml"].rstrip("\n") == printed.out.rstrip("\n")
    assert document["file"] is None
    assert document["fault"] == "clipped-x0"


def test_a_fault_goes_to_the_stage_that_is_named_behind_the_faults_that_are_there(
    ldm: Ldm, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    assert ldm("inject", "emoji-kl-ideal", "random-weights", "--stage", "decoder", "-o", first).code == 0
    assert modifiers(first, "denoiser") == []
    assert ldm("inject", first, "dropped-shift", "--strength", "0.25", "-o", second).code == 0
    assert modifiers(second, "decoder") == [("random-weights", {}), ("dropped-shift", {"strength": 0.25})]


def test_a_fault_of_two_stages_goes_into_both(ldm: Ldm, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    assert ldm("inject", "emoji-kl-ideal", "edm2-range", "-o", new).code == 0
    assert modifiers(new, "encoder") == modifiers(new, "decoder") == [("edm2-range", {})]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("emoji-kl-ideal", "clipped-xo"), 3, "did you mean 'clipped-x0'"),
        (("emoji-kl-idel", "clipped-x0"), 3, "did you mean 'emoji-kl-ideal'"),
        (("emoji-kl-ideal", "clipped-x0", "--stage", "decodr"), 2, "did you mean 'decoder'"),
        (("emoji-kl-ideal", "clipped-x0", "--stage", "decoder"), 2, "it is for scheduler"),
        (("emoji-kl-ideal", "clipped-x0", "--strength", "1.5"), 2, "strength"),
        (("emoji-kl-ideal", "clipped-x0", "--strength", "0"), 2, "strength"),
        (("emoji-kl-ideal", "collapsed-codebook"), 2, "no codebook"),
        (("emoji-kl-ideal",), 2, "needs a SPEC and a FAULT"),
        ((), 2, "--list"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    words: tuple[str, ...], code: int, said: str, ldm: Ldm, tmp_path: Path
) -> None:
    new = tmp_path / "new.yaml"
    ended = ldm("inject", *words, "-o", new)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert not new.exists()
    assert ldm("inject", *words, "--json").document["exit_code"] == code


def test_another_file_is_only_replaced_when_told_so(ldm: Ldm, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text("mine")
    ended = ldm("inject", "emoji-kl-ideal", "clipped-x0", "-o", new)
    assert ended.code == 2
    assert "--overwrite" in ended.err
    assert new.read_text() == "mine"
    assert ldm("inject", "emoji-kl-ideal", "clipped-x0", "-o", new, "--overwrite").code == 0
    assert modifiers(new, "scheduler") == [("clipped-x0", {})]
