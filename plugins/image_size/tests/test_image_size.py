"""The conditioner `image-size`: the numbers that the pipelines of diffusers hand their denoisers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel, StableDiffusionXLPipeline
from ldm_image_size import ImageSize, ImageSizeConfig
from pydantic import ValidationError
from torch import Tensor

from ldm_registry.errors import SpecError

SIZES = [(1024, 1024), (768, 1344), (1000, 24)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("original", [None, (300, 200)])
@pytest.mark.parametrize("crop", [(0, 0), (5, 70)])
@pytest.mark.parametrize("target", [None, (640, 480)])
def test_size_and_crop_equals_what_sdxl_hands_its_unet(
    size: tuple[int, int],
    original: tuple[int, int] | None,
    crop: tuple[int, int],
    target: tuple[int, int] | None,
) -> None:
    width = 6 * 8 + 32
    unet = SimpleNamespace(
        config=SimpleNamespace(addition_time_embed_dim=8),
        add_embedding=SimpleNamespace(linear_1=SimpleNamespace(in_features=width)),
    )
    expected = StableDiffusionXLPipeline._get_add_time_ids(
        SimpleNamespace(unet=unet), original or size, crop, target or size, torch.float32, 32
    )
    config = ImageSizeConfig(original_size=original, crop=crop, target_size=target)
    got = ImageSize(config).encode({}, size)
    assert list(got) == ["size_and_crop"]
    assert got["size_and_crop"].dtype == torch.float32
    assert torch.equal(got["size_and_crop"], expected)


@pytest.mark.parametrize("size", SIZES)
def test_resolution_and_aspect_ratio_equal_what_pixart_hands_its_transformer(size: tuple[int, int]) -> None:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=8,
        num_layers=1,
        cross_attention_dim=8,
        caption_channels=4,
        sample_size=128,
    )
    given: dict[str, Tensor] = {}

    def record(module: object, arguments: object, keywords: dict[str, Any]) -> None:
        given.update(keywords["added_cond_kwargs"])
        raise InterruptedError

    transformer.register_forward_pre_hook(record, with_kwargs=True)
    pipeline = PixArtAlphaPipeline(None, None, None, transformer, DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    embedding, mask = torch.zeros(1, 2, 4), torch.ones(1, 2)
    with pytest.raises(InterruptedError):
        pipeline(
            height=size[0],
            width=size[1],
            negative_prompt=None,
            prompt_embeds=embedding,
            prompt_attention_mask=mask,
            negative_prompt_embeds=embedding,
            negative_prompt_attention_mask=mask,
            num_inference_steps=1,
            use_resolution_binning=False,
        )
    got = ImageSize(ImageSizeConfig(outputs=("resolution", "aspect_ratio"))).encode({}, size)
    assert given.keys() == got.keys()
    for name, expected in given.items():
        assert torch.equal(got[name], expected[:1]), name
        assert torch.equal(expected[1:], expected[:1]), f"{name} is another one without the prompt"


def test_it_gives_what_its_config_lists_and_declares_it() -> None:
    every = ("aspect_ratio", "size_and_crop", "resolution")
    component = ImageSize(ImageSizeConfig(outputs=every))
    assert component.inputs == ()
    assert tuple(component.outputs) == every
    for name, value in component.encode({}, (48, 32)).items():
        assert value.shape == (1, *component.outputs[name].shape)
        assert value.dtype == component.outputs[name].dtype


def test_resolution_and_aspect_ratio_are_of_the_target_size() -> None:
    config = ImageSizeConfig(outputs=("resolution", "aspect_ratio"), target_size=(30, 20))
    got = ImageSize(config).encode({}, (64, 64))
    assert got["resolution"].tolist() == [[30, 20]]
    assert got["aspect_ratio"].tolist() == [[1.5]]


def test_unknown_and_repeated_outputs_are_refused_at_once() -> None:
    with pytest.raises(SpecError) as refusal:
        ImageSizeConfig(outputs=("resolutions", "aspect_ratio", "aspect_ratio"))
    assert refusal.value.problems == (
        "outputs has 'resolutions'; did you mean 'resolution'?",
        "outputs has 'aspect_ratio' twice",
    )


@pytest.mark.parametrize(
    "wrong",
    [{"outputs": ()}, {"crop": (-1, 0)}, {"target_size": (0, 8)}, {"original_size": (8,)}, {"size": (8, 8)}],
    ids=str,
)
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageSizeConfig.model_validate(wrong)


def test_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="takes no tokenizer"):
        ImageSize(ImageSizeConfig(), tmp_path)
