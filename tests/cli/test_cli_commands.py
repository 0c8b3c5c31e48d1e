from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ldm_registry.cli.commands.inspecting as inspecting
from ldm_registry.cli.app import app
from ldm_registry.cli.outcome import Result, conclude
from ldm_registry.errors import CheckpointError, LdmError, NetworkError, PluginError
from ldm_registry.spec import load_spec, swap

COMMANDS = {
    "statistics",
    "export",
    "import",
    "list",
    "show",
    "check",
    "run",
    "swap",
    "compare",
    "trace",
    "train",
    "schema",
    "inject",
    "diagnose",
    "bench",
    "benchmark-verdict",
    "search",
    "pull",
    "lock",
    "push",
}


def test_the_commands_are_those_of_the_design() -> None:
    names = {(info.name or "").strip() for info in app.registered_commands}
    assert names == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(ldm: Any, command: str) -> None:
    ended = ldm(command, "--help")
    assert ended.code == 0
    assert f"Usage: ldm {command}" in ended.out
    assert "--json" in ended.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["frobnicate"], 2),
        (["run"], 2),
        (["run", "x.yaml", "-o", "x", "-n", "0"], 2),
        (["train", "scheduler", "x.yaml"], 2),
        (["show", "no-such-part"], 3),
        (["check", "no-such-spec"], 3),
        (["run", "no-such-spec", "-o", "nowhere"], 3),
        (["swap", "no-such-spec", "denoiser=x"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failed_command_prints_one_document_with_its_exit_code(
    ldm: Any, words: list[str], code: int
) -> None:
    ended = ldm(*words, "--json")
    assert ended.code == code
    assert ended.document["exit_code"] == code
    assert ended.document["summary"]
    plain = ldm(*words)
    assert plain.code == code
    assert plain.out == ""
    assert plain.err


@pytest.mark.parametrize("error", [CheckpointError, NetworkError, PluginError])
def test_an_error_of_ours_ends_with_its_own_exit_code(
    error: type[LdmError], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Result:
        raise error("it failed", ["because of this"], "do that")

    assert conclude(fail, as_json=True) == error.exit_code
    assert json.loads(capsys.readouterr().out)["problems"] == ["because of this"]


def test_a_bug_is_one_line_and_exit_code_70(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Result:
        raise ZeroDivisionError("by nothing")

    assert conclude(fail, as_json=False) == 70
    assert capsys.readouterr().err.startswith("ZeroDivisionError: by nothing\n")


def test_a_bug_shows_its_traceback_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Result:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setenv("LDM_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        conclude(fail, as_json=False)


def test_what_a_plugin_prints_is_kept_out_of_the_document(ldm: Any, install: Any) -> None:
    code = "print('hello from a plugin')\nimport toy_plugin\nregister_components = toy_plugin.register_components\n"
    install("loud", {"denoiser.loud": "loud_plugin"}, code)
    ended = ldm("list", "--check", "--json")
    assert ended.document["components"]
    assert "hello from a plugin" in ended.err


def test_show_lists_every_config_field_with_its_default_and_meaning(ldm: Any, toy_spec: Path) -> None:
    cards = ldm("show", "toy-codec", "--json").document["components"]
    assert [card["kind"] for card in cards] == ["decoder", "encoder"]
    assert cards[0]["config"][2] == {
        "key": "stride",
        "type": "int",
        "required": False,
        "default": 4,
        "description": "Pixels per latent cell.",
    }
    assert "Pixels per latent cell." in ldm("show", "encoder/toy-codec").out


def test_check_describes_what_fits(ldm: Any, toy_spec: Path) -> None:
    document = ldm("check", toy_spec, "--json").document
    assert document["latent_shape"] == [4, 4, 4]
    assert document["stages"]["denoiser"]["component"] == "toy-denoiser"
    assert "fits: 3 steps over latents of 4 x 4 x 4" in ldm("check", toy_spec).out


def test_check_reports_all_that_does_not_fit(ldm: Any, toy_spec: Path) -> None:
    text = (
        toy_spec.read_text()
        .replace("size: 16", "size: 18")
        .replace("checkpoints/denoiser", "checkpoints/wide")
    )
    toy_spec.write_text(text)
    ended = ldm("check", toy_spec, "--json")
    assert ended.code == 1
    assert len(ended.document["problems"]) >= 2


def test_run_writes_images_grid_record_and_spec(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = ldm("run", toy_spec, "-o", out, "-n", "3", "--json")
    assert ended.code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "grid.png", "image-00000.png", "image-00001.png", "image-00002.png", "run.json", "spec.yaml",
    ]  # fmt: skip
    with Image.open(out / "image-00002.png") as image:
        assert image.size == (16, 16)
    document = json.loads((out / "run.json").read_text())
    assert document["seeds"] == [5, 6, 7]
    assert {"python", "torch", "ldm-registry", "toy"} <= set(document["versions"])
    assert set(document["timings_ms"]) == {"assembly", "denoiser", "scheduler", "decoder"}
    assert load_spec(out / "spec.yaml") == load_spec(toy_spec)


def test_a_run_makes_each_condition_equally_often(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    assert ldm("run", toy_spec, "-o", tmp_path / "out", "--json").document["n"] == 18


def test_the_record_of_a_run_repeats_it_to_the_bit(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    ldm("run", toy_spec, "-o", tmp_path / "one", "-n", "3", "--seed", "40", "--batch", "2")
    ended = ldm("run", tmp_path / "one" / "run.json", "-o", tmp_path / "two", "--json")
    assert ended.code == 0
    assert ended.document["repeats"]
    assert ended.document["seeds"] == [40, 41, 42]
    assert ended.document["differing"] == []


def test_a_repetition_that_differs_in_a_pixel_is_a_finding(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    ldm("run", toy_spec, "-o", tmp_path / "one", "-n", "2")
    record = tmp_path / "one" / "run.json"
    document = json.loads(record.read_text())
    document["images"][1]["pixels_sha256"] = "0" * 64
    record.write_text(json.dumps(document))
    ended = ldm("run", record, "-o", tmp_path / "two", "--json")
    assert ended.code == 1
    assert ended.document["differing"] == ["image-00001.png (seed 6) differs from the earlier run"]


def test_an_image_depends_on_its_own_seed_alone(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    # One class for all, so that seed 6 means the same condition as second image as it does as first.
    toy_spec.write_text(toy_spec.read_text().replace("[0, 2, 1]", "[1]"))
    both = ldm("run", toy_spec, "-o", tmp_path / "both", "-n", "2", "--batch", "1", "--json").document
    alone = ldm("run", toy_spec, "-o", tmp_path / "alone", "-n", "1", "--seed", "6", "--json").document
    assert both["images"][1]["pixels_sha256"] == alone["images"][0]["pixels_sha256"]


def test_a_run_replaces_an_earlier_run_but_nothing_else(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ldm("run", toy_spec, "-o", out, "-n", "3")
    assert ldm("run", toy_spec, "-o", out, "-n", "1").code == 0
    assert not (out / "image-00002.png").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    refused = ldm("run", toy_spec, "-o", other, "-n", "1")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert ldm("run", toy_spec, "-o", other, "-n", "1", "--overwrite").code == 0
    assert (other / "thesis.txt").read_text() == "precious"


def test_trace_reports_every_event_in_order(ldm: Any, toy_spec: Path) -> None:
    events = ldm("trace", toy_spec, "--json").document["events"]
    assert [event["stage"] for event in events] == ["noise", *["denoiser", "scheduler"] * 3, "decoder"]
    assert events[1]["log_snr"] == pytest.approx(-8.0)
    assert events[-2]["log_snr"] is None, "the last step leaves no noise"
    assert ldm("trace", toy_spec).out.splitlines()[0].split() == [
        "stage", "step", "log-SNR", "[nats]", "z", "rms", "x0", "rms", "ms",
    ]  # fmt: skip


@pytest.mark.slow
def test_compare_measures_each_spec_and_draws_them(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    longer = toy_spec.with_name("longer.yaml")
    longer.write_text("extends: toy.yaml\nscheduler: {use: toy-scheduler, config: {steps: 6}}\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])
    command = [
        sys.executable,
        "-m",
        "ldm_registry",
        "compare",
        str(toy_spec),
        str(longer),
        "-n",
        "2",
        "--json",
    ]
    ended = subprocess.run(
        [*command, "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert [spec["steps"] for spec in document["specs"]] == [3, 6]
    assert [spec["values_per_image"] for spec in document["specs"]] == [64, 64]
    assert document["first_over_each"]["steps"] == [1.0, 0.5]
    assert all(spec["peak_memory_mib"] > 0 for spec in document["specs"])
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.width > 2 * 96
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == document


def test_swap_changes_one_part_and_keeps_the_rest(ldm: Any, toy_spec: Path) -> None:
    new = toy_spec.with_name("new.yaml")
    ended = ldm("swap", toy_spec, "scheduler=toy-scheduler", "scheduler.steps=7", "-o", new)
    assert ended.code == 0
    assert load_spec(new) == swap(load_spec(toy_spec), scheduler_config={"steps": 7})
    assert ldm("check", new).code == 0


def test_swap_finds_the_one_checkpoint_that_fits(ldm: Any, toy_spec: Path) -> None:
    toy_spec.write_text(toy_spec.read_text().replace("checkpoints/denoiser", "checkpoints/wide"))
    document = ldm("swap", toy_spec, "denoiser=toy-denoiser", "--json").document
    assert document["stages"]["denoiser"]["checkpoint"].endswith("checkpoints/denoiser")


def test_swap_takes_a_checkpoint_in_place_of_a_name(ldm: Any, toy_spec: Path) -> None:
    ended = ldm("swap", toy_spec, "denoiser=checkpoints/denoiser", "--json")
    assert ended.document["stages"]["denoiser"]["component"] == "toy-denoiser"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("denoiser=toy-denoisr", 3),
        ("denoiser=toy-denoiser:checkpoints/wide", 1),
        ("denoiser=checkpoints/wide", 1),
    ],
)
def test_swap_to_what_does_not_fit_says_what_would(ldm: Any, toy_spec: Path, change: str, code: int) -> None:
    ended = ldm("swap", toy_spec, change, "-o", toy_spec.with_name("new.yaml"))
    assert ended.code == code
    assert "what fits as denoiser: toy-denoiser" in ended.err
    assert not toy_spec.with_name("new.yaml").exists()


@pytest.mark.parametrize(
    "change", ["denoiser", "denoiser=", "denoser=x", "denoiser.=x", "=x", "scheduler.steps=["]
)
def test_swap_refuses_words_that_say_nothing(ldm: Any, toy_spec: Path, change: str) -> None:
    assert ldm("swap", toy_spec, change).code == 2


def test_swap_replaces_no_file_unasked(ldm: Any, toy_spec: Path) -> None:
    before = toy_spec.read_text()
    assert ldm("swap", toy_spec, "scheduler.steps=7", "-o", toy_spec).code == 2
    assert toy_spec.read_text() == before
    assert ldm("swap", toy_spec, "scheduler.steps=7", "-o", toy_spec, "--overwrite").code == 0


def test_schema_is_one_document(ldm: Any) -> None:
    assert ldm("schema").out == ldm("schema", "--json").out
    assert "scheduler" in ldm("schema").document["properties"]


def test_train_without_images_says_what_is_missing(ldm: Any, toy_spec: Path) -> None:
    ended = ldm("train", "denoiser", toy_spec)
    assert ended.code == 2
    assert "images" in ended.err


def test_an_interrupted_command_says_so(ldm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspecting, "resolve", interrupt)
    ended = ldm("check", "any", "--json")
    assert ended.code == 130
    assert ended.document["error"] == "Interrupted"
