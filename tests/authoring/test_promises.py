"""A contract that promises what its checkpoint does not keep is caught, one promise after the other."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from ldm_registry.authoring.plugin_project import new_project
from ldm_registry.authoring.project_loading import loaded_project
from ldm_registry.contracts import Contract, LatentStatistics, SelfTest
from ldm_registry.data import read_images, to_unit
from ldm_registry.golden import golden_codec
from ldm_registry.interfaces import Component, Decoder, Encoder
from ldm_registry.testing import Status, promises
from ldm_registry.testing.conformance import subject_of
from ldm_registry.testing.subject import Subject
from ldm_registry.training.self_test import encoded, latent_statistics, mean_psnr_db, round_trip
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import save_checkpoint

CPU = torch.device("cpu")
CHECKS = {check.name: check for check in promises.CHECKS}
Promise = Callable[..., Subject]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight noisy pictures."""
    path = tmp_path_factory.mktemp("images") / "eight.tar"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=generator)
    with tarfile.open(path, "w") as tar:
        for index, one in enumerate(pixels):
            picture = io.BytesIO()
            Image.fromarray(one.numpy()).save(picture, "png")
            for ending, content in (("png", picture.getvalue()), ("json", json.dumps({"label": 0}).encode())):
                member = tarfile.TarInfo(f"{index:05}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Kind, type[Component]]]:
    """Both halves of a codec that is found like an installed one."""
    project = new_project("part", [Kind.ENCODER, Kind.DECODER], tmp_path_factory.mktemp("new") / "project")
    with loaded_project(project.folder) as loaded:
        yield {one.kind: component for one, component in loaded.components}


@pytest.fixture
def promise(codec: dict[Kind, type[Component]], images: Path, tmp_path: Path) -> Promise:
    """A subject whose checkpoint keeps its contract, but for what is said otherwise."""

    def make(config: dict[str, Any] | None = None, kind: Kind = Kind.ENCODER, **changes: Any) -> Subject:
        # Uniform pixels in [-1, 1] have a std of one over the root of three.
        values = codec[kind].Config(**{"mean": 0.0, "std": 3**-0.5, **(config or {})})
        encoder, decoder = (codec[half](values) for half in (Kind.ENCODER, Kind.DECODER))
        assert isinstance(encoder, Encoder)
        assert isinstance(decoder, Decoder)
        pixels = read_images(images).images
        test = SelfTest(
            round_trip_psnr_db=mean_psnr_db(
                round_trip(encoder, decoder, to_unit(pixels), CPU), to_unit(pixels)
            ),
            golden_outputs=golden_codec(encoder, decoder, (16, 16)),
        )
        kept = Contract(
            components={Kind.ENCODER: "part", Kind.DECODER: "part"},
            value_range=(-1.0, 1.0),
            image_channels=3,
            latent_channels=12,
            stride=2,
            latent_measured=latent_statistics(encoded(encoder, pixels, CPU)),
            self_test=test,
        )
        if "self_test" in changes:
            changes["self_test"] = test.model_copy(update=changes["self_test"])
        save_checkpoint([encoder, decoder], tmp_path, contract=kept.model_copy(update=changes), card="")
        return replace(subject_of(codec[kind]), checkpoint=tmp_path, images=images)

    return make


def outcome(subject: Subject, name: str) -> tuple[Status, str]:
    result = CHECKS[name].result(subject)
    return result.status, result.detail


@pytest.mark.parametrize("kind", [Kind.ENCODER, Kind.DECODER])
def test_a_contract_that_is_kept_passes(kind: Kind, promise: Promise) -> None:
    subject = promise(kind=kind)
    for name, check in CHECKS.items():
        if kind in check.kinds:
            assert outcome(subject, name) == (Status.PASSED, "")


LIES: list[tuple[str, dict[str, Any], str]] = [
    ("its_contract_says_what_it_is", {"latent_channels": 4}, "latent_channels is 4, the component has 12"),
    ("its_contract_says_what_it_is", {"stride": 8, "image_channels": 1}, "stride is 8, the component has 2"),
    ("its_checkpoint_loads_and_runs", {"components": {Kind.ENCODER: "other"}}, "not of encoder 'part'"),
    (
        "its_latents_are_as_measured",
        {"latent_measured": LatentStatistics(mean=(0.3,) * 12, std=(1.0,) * 12, images=8)},
        "the mean of channel 0",
    ),
    ("its_latents_are_as_measured", {"config": {"std": 1.0}}, "the std of channel 0 is 0.5"),
    ("its_latents_are_as_measured", {"config": {"mean": 0.5}}, "the mean of channel 0 is -0.9"),
    ("its_round_trip_is_as_recorded", {"self_test": {"round_trip_psnr_db": 26.4}}, "recorded are 26.40 dB"),
    ("its_round_trip_is_as_recorded", {"value_range": (0.0, 1.0)}, "outside of 0 to 1"),
]


@pytest.mark.parametrize(("name", "lie", "said"), LIES, ids=[name for name, _, _ in LIES])
def test_a_promise_that_is_broken_is_caught(
    name: str, lie: dict[str, Any], said: str, promise: Promise
) -> None:
    status, detail = outcome(promise(**lie), name)
    assert status is Status.FAILED
    assert said in detail


def test_a_component_that_changed_since_it_was_saved_is_caught(promise: Promise) -> None:
    subject = promise()
    contract = cast(Path, subject.checkpoint) / "contract.json"
    document = json.loads(contract.read_text("utf-8"))
    for one in document["self_test"]["golden_outputs"]:
        one["values"] = [value * 1.01 for value in one["values"]]
    contract.write_text(json.dumps(document), "utf-8")
    status, detail = outcome(subject, "its_golden_outputs_come_back")
    assert status is Status.FAILED
    assert "differs from the recorded one by 0.0099" in detail


def test_without_a_checkpoint_there_is_nothing_to_measure(codec: dict[Kind, type[Component]]) -> None:
    subject = subject_of(codec[Kind.ENCODER])
    assert {outcome(subject, name) for name in CHECKS} == {(Status.NOT_APPLICABLE, "no checkpoint was given")}


def test_every_promise_has_a_lie() -> None:
    assert {name for name, _, _ in LIES} | {"its_golden_outputs_come_back"} == set(CHECKS)
