from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ldm_registry.errors import SpecError
from ldm_registry.registry import Registry
from ldm_registry.report.change import changed
from ldm_registry.spec import CodecRuntimeSpec, PipelineSpec, RuntimeSpec, dump_spec, load_spec, swap


@pytest.fixture
def spec() -> PipelineSpec:
    return load_spec("emoji-kl-dit")


def problems(spec: PipelineSpec, **changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        swap(spec, **changes)
    (problem,) = caught.value.problems
    return problem


def test_a_stage_is_run_plainly_unless_the_spec_says_otherwise(spec: PipelineSpec) -> None:
    assert spec.denoiser.runtime == RuntimeSpec(compile=False, cuda_graphs=False, offload=False)
    assert spec.decoder.runtime == CodecRuntimeSpec(tile=None)
    assert "runtime" not in dump_spec(spec)


def test_what_a_spec_says_of_the_runtime_survives_a_dump(spec: PipelineSpec, tmp_path: Path) -> None:
    changed = swap(spec, decoder_runtime={"tile": 512}, denoiser_runtime={"offload": True})
    assert changed.decoder.runtime == CodecRuntimeSpec(tile=512)
    text = dump_spec(changed)
    assert "runtime: {offload: true}" in text
    (tmp_path / "changed.yaml").write_text(text)
    assert load_spec(tmp_path / "changed.yaml") == changed


def test_a_child_changes_one_setting_and_null_takes_one_away(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(
        "extends: emoji-kl-dit\ndecoder: {runtime: {offload: true, tile: 512}}\n"
    )
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\ndecoder: {runtime: {tile: null}}\n")
    assert load_spec(tmp_path / "child.yaml").decoder.runtime == CodecRuntimeSpec(offload=True)


def test_a_stage_keeps_how_it_is_run_when_its_component_changes(spec: PipelineSpec) -> None:
    compiled = swap(spec, denoiser_runtime={"compile": True})
    assert swap(compiled, denoiser="gaussian").denoiser.runtime.compile


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"denoiser_runtime": {"tile": 64}}, "denoiser.runtime.tile: unknown key; choose from compile,"),
        ({"decoder_runtime": {"tile": 4}}, "decoder.runtime.tile: got 4; expected at least 8"),
        ({"decoder_runtime": {"compile": 1}}, "decoder.runtime.compile: got 1; expected true or false"),
        ({"decoder_runtime": {"cuda_graph": True}}, "did you mean 'cuda_graphs'?"),
        ({"decoder_runtime": {"compile": True, "tile": 64}}, "`compile` and `tile` exclude one another"),
        ({"decoder_runtime": {"cuda_graphs": True}}, "add `compile: true`"),
        (
            {"denoiser_runtime": {"compile": True, "cuda_graphs": True, "offload": True}},
            "`cuda_graphs` and `offload` exclude one another",
        ),
        ({"scheduler_runtime": {"compile": True}}, "scheduler_runtime: unknown key"),
    ],
)
def test_a_wrong_setting_is_named(spec: PipelineSpec, change: dict[str, Any], expected: str) -> None:
    assert expected in problems(spec, **change)


@pytest.mark.plugins
def test_a_swap_on_the_command_line_reaches_the_codec_itself(spec: PipelineSpec) -> None:
    pipe = changed(spec, ["decoder.runtime.tile=64"], Registry.discover())
    assert pipe.spec.decoder.runtime.tile == 64
    assert (pipe.decoder.tile_pixels, pipe.encoder.tile_pixels) == (64, None)
