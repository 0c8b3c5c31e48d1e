from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.errors import CheckpointError, NotFoundError, SpecError
from ldm_registry.interchange.pipeline_folder import INDEX, PipelineFolder
from ldm_registry.interchange.recipes import RECIPES

Make = Callable[..., Path]

CLASSES = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "scheduler": "PNDMScheduler",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A folder of Stable Diffusion without weights, with some entries of its index and configs exchanged."""

    def made(index: dict[str, Any] | None = None, configs: dict[str, dict[str, Any]] | None = None) -> Path:
        entries = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.30.0",
            **{
                part: ["transformers" if name.startswith("CLIP") else "diffusers", name]
                for part, name in CLASSES.items()
            },
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": [None, None],
            "requires_safety_checker": True,
            **(index or {}),
        }
        (tmp_path / INDEX).write_text(json.dumps(entries))
        for part, name in CLASSES.items():
            (tmp_path / part).mkdir()
            file = "scheduler_config.json" if part == "scheduler" else "config.json"
            config = {"architectures": [name]} if part == "text_encoder" else {"_class_name": name}
            (tmp_path / part / file).write_text(json.dumps({**config, **(configs or {}).get(part, {})}))
        return tmp_path

    return made


def test_a_whole_folder_is_read_and_its_safety_checker_passed_over(make: Make) -> None:
    folder = PipelineFolder.read(make())
    assert folder.recipe.pipeline == "StableDiffusionPipeline"
    assert folder.classes == CLASSES
    assert folder.settings == {"requires_safety_checker": True}


def test_what_the_constructor_of_the_pipeline_sets_is_set_and_said(make: Make) -> None:
    folder = PipelineFolder.read(make(configs={"scheduler": {"steps_offset": 0}}))
    assert folder.scheduler_config()["steps_offset"] == 1
    assert "clip_sample" not in folder.scheduler_config()
    (note,) = folder.notes()
    assert "steps_offset is 1" in note
    assert "the file says 0" in note


def test_ddim_in_stable_diffusion_does_not_clip(make: Make) -> None:
    index = {"scheduler": ["diffusers", "DDIMScheduler"]}
    folder = PipelineFolder.read(
        make(index, {"scheduler": {"_class_name": "DDIMScheduler", "steps_offset": 1}})
    )
    assert folder.scheduler_config()["clip_sample"] is False
    assert len(folder.notes()) == 1


def test_a_pipeline_that_is_not_known_is_refused_with_those_that_are(make: Make) -> None:
    with pytest.raises(SpecError) as caught:
        PipelineFolder.read(make({"_class_name": "StableDiffusionPipelin"}))
    assert all(name in str(caught.value) for name in RECIPES)
    assert "did you mean 'StableDiffusionPipeline'" in str(caught.value)


@pytest.mark.parametrize("name", [None, 7, ["StableDiffusionPipeline"], {}], ids=str)
def test_a_class_name_of_any_type_is_refused_in_words(make: Make, name: Any) -> None:
    with pytest.raises(SpecError, match="cannot be imported"):
        PipelineFolder.read(make({"_class_name": name}))


def test_code_that_a_folder_brings_is_refused_with_every_such_entry(make: Make) -> None:
    with pytest.raises(SpecError) as caught:
        PipelineFolder.read(make({"unet": ["my_module", "MyUNet"], "vae": ["os", "system"], "extra": [1, 2]}))
    text = str(caught.value)
    assert "unet: comes from 'my_module'" in text
    assert "vae: comes from 'os'" in text
    assert "extra: got [1, 2]" in text
    assert "never run" in text


def test_a_part_that_the_pipeline_does_not_have_is_refused(make: Make) -> None:
    with pytest.raises(SpecError, match=r"\.\./elsewhere: StableDiffusionPipeline has no such part"):
        PipelineFolder.read(make({"../elsewhere": ["diffusers", "AutoencoderKL"]}))


def test_every_missing_part_is_named(make: Make) -> None:
    path = make({"unet": [None, None]})
    (path / "vae" / "config.json").unlink()
    (path / "vae").rmdir()
    with pytest.raises(CheckpointError) as caught:
        PipelineFolder.read(path)
    assert "unet: null in the index" in str(caught.value)
    assert "vae: no such folder" in str(caught.value)


def test_a_tokenizer_may_lie_elsewhere(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, elsewhere = make({"tokenizer": [None, None]}), tmp_path_factory.mktemp("tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer: null in the index"):
        PipelineFolder.read(path)
    folder = PipelineFolder.read(path, {"tokenizer": elsewhere})
    assert folder.folder_of("tokenizer") == elsewhere
    assert folder.folder_of("vae") == path / "vae"


def test_the_config_of_another_class_is_refused(make: Make) -> None:
    configs = {"unet": {"_class_name": "UNet2DModel"}, "text_encoder": {"architectures": ["T5EncoderModel"]}}
    with pytest.raises(CheckpointError) as caught:
        PipelineFolder.read(make(configs=configs))
    assert "unet/config.json is the config of UNet2DModel; model_index.json says UNet2DConditionModel" in str(
        caught.value
    )
    assert "text_encoder/config.json is the config of T5EncoderModel" in str(caught.value)


def test_a_normalisation_that_the_pipeline_passes_over_is_not_guessed_at(make: Make) -> None:
    config = {"_class_name": "AutoencoderKL", "latents_mean": [1.0] * 4, "latents_std": [2.0] * 4}
    with pytest.raises(SpecError) as caught:
        PipelineFolder.read(make(configs={"vae": config}))
    assert "StableDiffusionPipeline passes over" in str(caught.value)
    assert "latents_mean is stated" in str(caught.value)


def test_a_folder_without_an_index_says_what_is_there(make: Make) -> None:
    path = make()
    (path / INDEX).unlink()
    with pytest.raises(NotFoundError, match="unet"):
        PipelineFolder.read(path)


def test_an_index_that_is_no_json_is_refused(make: Make) -> None:
    path = make()
    (path / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        PipelineFolder.read(path)
