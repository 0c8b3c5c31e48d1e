from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_plugin import CodecConfig

from ldm_registry.errors import CheckpointError
from ldm_registry.interfaces import Decoder, Encoder, Generators, LatentSpace
from ldm_registry.weights import load_weights
from ldm_registry.without_memory import WithoutMemory

FILE = "diffusion_pytorch_model.safetensors"
OLD = ((r"\.query\.", ".to_q."), (r"^first_stage\.", ""))


@final
class Half(Encoder):
    name = "half"
    Config = CodecConfig
    sibling_prefixes = ("decoder.",)
    renamed_tensors: ClassVar[tuple[tuple[str, str], ...]] = OLD
    ignored_tensors: ClassVar[tuple[str, ...]] = (r".*\.position_ids",)

    def __init__(self) -> None:
        super().__init__()
        self.latent_space, self.image_channels = LatentSpace(4, 1), 3
        self.encoder = nn.ModuleDict({"to_q": nn.Linear(2, 3), "conv": nn.Conv2d(2, 3, 1)})

    def encode(self, image: Tensor, generator: Generators | None = None) -> Tensor:
        return image


@final
class OtherHalf(Decoder):
    name = "half"
    Config = CodecConfig
    sibling_prefixes = ("encoder.",)
    renamed_tensors: ClassVar[tuple[tuple[str, str], ...]] = OLD

    def __init__(self) -> None:
        super().__init__()
        self.latent_space, self.image_channels = LatentSpace(4, 1), 3
        self.decoder = nn.ModuleDict({"to_q": nn.Linear(2, 3)})

    def decode(self, latent: Tensor) -> Tensor:
        return latent


TODAY = {
    "encoder.to_q.weight": torch.rand(3, 2, generator=torch.Generator().manual_seed(0)),
    "encoder.to_q.bias": torch.rand(3, generator=torch.Generator().manual_seed(1)),
    "encoder.conv.weight": torch.rand(3, 2, 1, 1, generator=torch.Generator().manual_seed(2)),
    "encoder.conv.bias": torch.rand(3, generator=torch.Generator().manual_seed(3)),
}
OF_THE_DECODER = {"decoder.to_q.weight": torch.ones(3, 2), "decoder.to_q.bias": torch.ones(3)}


def load(
    folder: Path, stored: dict[str, Tensor], half: type[Half] | type[OtherHalf] = Half
) -> dict[str, Tensor]:
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / FILE)
    with WithoutMemory():
        component = half()
    load_weights(component, folder)
    return component.state_dict()


def aged(stored: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Under old names, where the linear layer was a 1x1 convolution."""
    return {
        f"{prefix}{name.replace('.to_q.', '.query.')}": t[..., None, None] if "to_q.weight" in name else t
        for name, t in stored.items()
    }


@pytest.mark.parametrize("prefix", ["", "first_stage."])
def test_old_names_and_old_convolutions_fill_what_they_are_called_today(tmp_path: Path, prefix: str) -> None:
    got = load(tmp_path, aged(TODAY | OF_THE_DECODER, prefix))
    assert set(got) == set(TODAY)
    assert all(torch.equal(got[name], tensor) for name, tensor in TODAY.items())


@pytest.mark.parametrize("prefix", ["", "first_stage."])
def test_each_half_ignores_the_old_names_of_the_other(tmp_path: Path, prefix: str) -> None:
    got = load(tmp_path, aged(TODAY | OF_THE_DECODER, prefix), OtherHalf)
    assert set(got) == set(OF_THE_DECODER)
    assert all(bool((tensor == 1).all()) for tensor in got.values())


def test_tensors_that_hold_nothing_are_ignored_in_full_matches_only(tmp_path: Path) -> None:
    load(tmp_path, TODAY | {"encoder.position_ids": torch.ones(1)})
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, TODAY | {"encoder.position_ids.more": torch.ones(1)})
    assert caught.value.problems == ("unexpected: encoder.position_ids.more [1]",)


def test_a_convolution_fits_a_linear_layer_under_its_old_name_only(tmp_path: Path) -> None:
    young = TODAY | {"encoder.to_q.weight": TODAY["encoder.to_q.weight"][..., None, None]}
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, young)
    assert caught.value.problems == ("wrong shape: encoder.to_q.weight is [3, 2, 1, 1], expected [3, 2]",)


def test_problems_are_told_in_the_names_of_the_file(tmp_path: Path) -> None:
    old = aged(TODAY)
    old["encoder.query.weight"] = torch.ones(3, 2, 2, 2)
    old["encoder.key.weight"] = torch.ones(1)
    old["encoder.to_q.bias"] = old["encoder.query.bias"].clone()
    old["encoder.conv.weight"] = torch.ones(3, 2, 1, 1, dtype=torch.int32)
    del old["encoder.conv.bias"]
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, old)
    assert caught.value.problems == (
        "missing: encoder.conv.bias [3]",
        "twice: encoder.query.bias and encoder.to_q.bias both are encoder.to_q.bias",
        "unexpected: encoder.key.weight [1]",
        "wrong shape: encoder.query.weight (encoder.to_q.weight) is [3, 2, 2, 2], expected [3, 2]",
        "wrong type: encoder.conv.weight is I32, expected torch.float32",
    )
