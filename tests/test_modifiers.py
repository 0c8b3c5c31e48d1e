from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import final

import pytest
import torch
import toy_plugin
from pydantic import Field
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.errors import LdmError, SpecError
from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import Component, ComponentConfig, Decoder, Modifier
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec, swap
from ldm_registry.vocabulary import Kind

SPEC = """
version: 1
image: {channels: 3, size: 16}
encoder: {use: toy-codec}
denoiser: {use: toy-denoiser, trained: {prediction: v, schedule: {name: toy_schedule}}}
scheduler: {use: toy-scheduler, config: {steps: 3}}
decoder: {use: toy-codec, modify: [{use: toy-shift, config: {by: 2.0}}, {use: toy-shift}]}
"""


class ShiftConfig(ComponentConfig):
    by: float = Field(1.0, description="Added to every pixel.")


@final
class Shifted(Decoder):
    name = "shifted"
    Config = ShiftConfig

    def __init__(self, inner: Decoder, by: float) -> None:
        super().__init__()
        self.config, self.inner, self.by = inner.config, inner, by
        self.latent_space, self.image_channels = inner.latent_space, inner.image_channels

    def decode(self, latent: Tensor) -> Tensor:
        return self.inner.decode(latent) + self.by


@final
class ToyShift(Modifier):
    name = "toy-shift"
    Config = ShiftConfig
    modifies = (Kind.DECODER,)

    def __init__(self, config: ShiftConfig) -> None:
        super().__init__()
        self.config = config

    def modify(self, part: Component) -> Component:
        assert isinstance(part, Decoder)
        return Shifted(part, self.config.by)


@hookimpl
def register_components() -> list[type[Component]]:
    return [ToyShift]


Make = Callable[[str], Pipeline]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(text: str) -> Pipeline:
        (tmp_path / "spec.yaml").write_text(text)
        return assemble(
            load_spec(tmp_path / "spec.yaml"), Registry([toy_plugin, sys.modules[__name__]]), init_seed=4
        )

    return make


def test_modifiers_are_applied_in_the_order_of_the_spec(make: Make) -> None:
    decoder = make(SPEC).decoder
    assert isinstance(decoder, Shifted)
    assert isinstance(decoder.inner, Shifted)
    assert (decoder.inner.by, decoder.by) == (2.0, 1.0)
    latent = torch.zeros(1, 4, 4, 4)
    torch.testing.assert_close(decoder.decode(latent), decoder.inner.inner.decode(latent) + 3.0)


def test_the_other_stages_are_left_alone(make: Make) -> None:
    assert isinstance(make(SPEC).encoder, toy_plugin.ToyEncoder)


def refusal(make: Make, before: str, after: str) -> LdmError:
    assert before in SPEC
    with pytest.raises(LdmError) as caught:
        make(SPEC.replace(before, after))
    return caught.value


def test_a_modifier_for_other_kinds_is_refused(make: Make) -> None:
    error = refusal(make, "{use: toy-scheduler,", "{use: toy-scheduler, modify: [{use: toy-shift}],")
    assert "modifier 'toy-shift' cannot change a scheduler" in str(error)
    assert "it is for decoder" in str(error)


def test_the_config_of_a_modifier_is_checked(make: Make) -> None:
    assert "did you mean 'by'" in str(refusal(make, "{by: 2.0}", "{bye: 2.0}"))


def test_a_modifier_that_is_not_installed_is_named(make: Make) -> None:
    assert "toy-shift" in str(refusal(make, "{use: toy-shift}]", "{use: toy-shfit}]"))


def test_a_mistake_in_a_list_is_named_with_its_place(make: Make) -> None:
    error = refusal(make, "{use: toy-shift}]", "{us: toy-shift}]")
    assert isinstance(error, SpecError)
    assert "decoder.modify[1].us" in str(error)
    assert "did you mean 'use'" in str(error)


def test_another_component_keeps_no_modifier_of_the_old_one(make: Make) -> None:
    assert swap(make(SPEC).spec, decoder="other").decoder.modify == ()
