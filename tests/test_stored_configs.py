from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, final

import pytest
from pydantic import Field
from torch import Tensor

from ldm_registry.assembly import component_name, load_component
from ldm_registry.errors import CheckpointError, NotFoundError, SpecError
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component, ComponentConfig, Decoder, Encoder, Generators, LatentSpace
from ldm_registry.registry import Registry
from ldm_registry.spec import StageSpec
from ldm_registry.stage_config import config_of
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import defaulted, parse_config


class Config(ComponentConfig):
    channels: int = Field(3, description="Channels.")
    widths: tuple[int, ...] = Field((8, 16), description="Widths.")
    mode: str | None = Field(None, description="Mode.")
    ours: float = Field(1.0, alias="_ours", description="Not a key of the foreign class.")


@final
class Foreign(Encoder):
    name = "foreign"
    Config = Config
    diffusers_class: ClassVar[str | None] = "ForeignModel"
    also_reads: ClassVar[tuple[str, ...]] = ("ForeignModelWithProjection", "DiTTransformer2DModel")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_space, self.image_channels = LatentSpace(3, 1), 3

    @classmethod
    def adopt_config(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("gated"):
            raise SpecError("options that are not built", ["gated: got true, only false is supported"])
        renamed = {"width": "widths"}
        return {renamed.get(key, key): value for key, value in values.items() if key != "gated"}

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        return image


@final
class Own(Decoder):
    name = "own"
    Config = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.latent_space, self.image_channels = LatentSpace(3, 1), 3

    def decode(self, latent: Tensor) -> Tensor:
        return latent


@hookimpl
def register_components() -> list[type[Component]]:
    return [Foreign, Own]


def registry() -> Registry:
    module = ModuleType("stored_config_parts")
    module.__dict__["register_components"] = register_components
    return Registry([module])


def write(folder: Path, **values: object) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def stage(**config: Any) -> StageSpec:
    return StageSpec.model_validate({"use": "foreign", "config": config})


def test_a_spec_may_set_what_the_checkpoint_leaves_to_its_class(tmp_path: Path) -> None:
    folder = write(tmp_path, _class_name="ForeignModel", channels=3)
    config = config_of(Foreign, stage(mode="fast", widths=[4], channels=3, _ours=2.0), folder)
    assert config == Config(channels=3, widths=(4,), mode="fast", ours=2.0)
    assert config_of(Foreign, stage(ours=2.0), folder) == Config(ours=2.0)


@pytest.mark.parametrize("key", ["_ours", "ours"])
def test_a_spec_may_not_contradict_what_the_checkpoint_states(tmp_path: Path, key: str) -> None:
    folder = write(tmp_path, channels=3, width=[8, 16], _ours=1.0)
    with pytest.raises(SpecError, match="contradicts its checkpoint") as caught:
        config_of(Foreign, stage(mode="fast", widths=[4], channels=4, **{key: 2.0}), folder)
    assert caught.value.problems == (
        "channels: the spec says 4, the checkpoint 3",
        "widths: the spec says (4,), the checkpoint (8, 16)",
        "ours: the spec says 2.0, the checkpoint 1.0",
    )


def test_what_took_the_default_of_the_foreign_class_is_listed() -> None:
    config = parse_config(Foreign, {"channels": 3, "_class_name": "ForeignModel"}, "here")
    assert defaulted(config) == ("widths: [8, 16]", "mode: null")
    assert defaulted(parse_config(Foreign, {"channels": 3, "width": [1], "mode": None}, "here")) == ()


def test_an_old_config_is_adopted_and_a_refusal_says_where(tmp_path: Path) -> None:
    assert parse_config(Foreign, {"width": [2], "gated": False}, "here") == Config(widths=(2,))
    with pytest.raises(SpecError, match=r"a/config\.json: options that are not built") as caught:
        parse_config(Foreign, {"gated": True}, "a/config.json")
    assert caught.value.problems == ("gated: got true, only false is supported",)


@pytest.mark.parametrize(
    "stated",
    [
        {"_class_name": "ForeignModel"},
        {"architectures": ["ForeignModel"]},
        {"architectures": ["ForeignModelWithProjection"]},
        {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"},
    ],
)
def test_a_folder_is_known_by_any_class_that_a_component_reads(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    assert component_name(Kind.ENCODER, write(tmp_path, **stated), registry()) == "foreign"


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}, "PixArtTransformer2DModel"),
        ({"_class_name": "Transformer2DModel"}, "Transformer2DModel"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ({"architectures": 3}, "names no class"),
        ({}, "names no class"),
    ],
)
def test_a_folder_of_another_class_is_no_component(tmp_path: Path, stated: dict[str, Any], said: str) -> None:
    with pytest.raises(NotFoundError, match=said):
        component_name(Kind.ENCODER, write(tmp_path, **stated), registry())


def test_the_config_of_another_model_is_refused_by_its_class(tmp_path: Path) -> None:
    folder = write(tmp_path, _class_name="UNet2DModel", down_block_types=["DownBlock2D"])
    with pytest.raises(CheckpointError, match="is a checkpoint of 'UNet2DModel'") as caught:
        load_component("encoder", folder, name="foreign", registry=registry())
    assert "ForeignModel" in caught.value.problems[0]
    with pytest.raises(CheckpointError, match="is a checkpoint of 'foreign'"):
        load_component("decoder", write(tmp_path, _component="foreign"), name="own", registry=registry())
    assert load_component("decoder", write(tmp_path, _component="own"), name="own", registry=registry())
