"""What a PixArt does, beside agreeing with diffusers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ldm_dit import PixArt, PixArtConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Conditioning, LatentSpace, NoiseLevel, Trained
from ldm_registry.testing import ComponentSuite

Build = Callable[..., PixArt]
Level = Callable[..., NoiseLevel]
Read = Callable[[PixArt, int], dict[str, Tensor]]
SMALL = PixArtConfig(
    num_attention_heads=2,
    attention_head_dim=6,
    num_layers=2,
    sample_size=8,
    cross_attention_dim=12,
    caption_channels=7,
    use_additional_conditions=True,
)


# Where types are checked at run time, the checks ask Python's generator which item of a list to look at.
CHECKED = hasattr(PixArt.forward, "__wrapped__")
SKIP = {"global_state_is_left_alone": "run-time checks of types draw random numbers"} if CHECKED else {}


class TestConformance(ComponentSuite):
    component = PixArt
    skip = SKIP
    config = SMALL


class TestConformanceWithoutText(ComponentSuite):
    component = PixArt
    skip = SKIP
    config = SMALL.model_copy(
        update={"cross_attention_dim": None, "caption_channels": None, "use_additional_conditions": None}
    )


def latent(batch: int = 3, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(
        batch, 4, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )


def test_it_says_what_it_takes(build_pixart: Build) -> None:
    network = build_pixart(patch_size=4)
    assert network.conditioning == {
        "text_embedding": Conditioning((None, 7), torch.float32),
        "text_mask": Conditioning((None,), torch.bool, optional=True),
        "resolution": Conditioning((2,), torch.float32),
        "aspect_ratio": Conditioning((1,), torch.float32),
    }
    assert network.latent_space == LatentSpace(channels=4, stride=1)
    assert (network.size_multiple, network.latent_size) == (4, None)
    assert build_pixart(use_additional_conditions=None, cross_attention_dim=None).conditioning == {}


def test_a_fresh_network_puts_out_exactly_zero(trained: Trained, level: Level, read: Read) -> None:
    network = PixArt(SMALL, trained)
    output = network(latent().float(), level(300.0), read(network, 3))
    assert output.variance is not None
    assert not output.prediction.any()
    assert not output.variance.any()


def test_a_fresh_network_draws_its_weights_as_the_papers_code_does(trained: Trained) -> None:
    torch.manual_seed(0)
    config = PixArtConfig(
        num_attention_heads=4, attention_head_dim=48, num_layers=1, sample_size=8, cross_attention_dim=192,
        caption_channels=300, use_additional_conditions=True,
    )  # fmt: skip
    weights = PixArt(config, trained).state_dict()
    spread = {key: float(value.std()) for key, value in weights.items()}
    assert spread["transformer_blocks.0.attn1.to_q.weight"] == pytest.approx(math.sqrt(1 / 192), rel=0.05)
    for key in (
        "adaln_single.linear",
        "adaln_single.emb.timestep_embedder.linear_1",
        "adaln_single.emb.aspect_ratio_embedder.linear_2",
        "caption_projection.linear_1",
    ):
        assert spread[f"{key}.weight"] == pytest.approx(0.02, rel=0.05)
    assert spread["transformer_blocks.0.scale_shift_table"] == pytest.approx(192**-0.5, rel=0.1)
    assert not weights["transformer_blocks.0.attn2.to_out.0.weight"].any()
    assert weights["transformer_blocks.0.attn1.to_out.0.weight"].any()
    assert not weights["proj_out.weight"].any()


def test_masked_text_changes_nothing_and_an_absent_mask_reads_all(
    build_pixart: Build, level: Level, read: Read
) -> None:
    network, z = build_pixart().double(), latent()
    condition = read(network, 3)
    before = network(z, level(250.0), condition).prediction
    text = condition["text_embedding"].clone()
    text[~condition["text_mask"]] += 3.0
    assert torch.equal(network(z, level(250.0), condition | {"text_embedding": text}).prediction, before)
    everything = condition | {"text_mask": torch.ones(3, 5, dtype=torch.bool)}
    silent = {name: value for name, value in condition.items() if name != "text_mask"}
    got = network(z, level(250.0), silent).prediction
    torch.testing.assert_close(got, network(z, level(250.0), everything).prediction, rtol=0, atol=1e-12)
    assert (got[0] - before[0]).abs().max() > 1e-3


def test_a_text_of_another_length_padded_and_masked_gives_the_same(
    build_pixart: Build, level: Level, read: Read
) -> None:
    network, z = build_pixart().double(), latent(1)
    condition = read(network, 1)
    short = condition | {name: condition[name][:, :3] for name in ("text_embedding", "text_mask")}
    torch.testing.assert_close(
        network(z, level(250.0), short).prediction,
        network(z, level(250.0), condition).prediction,
        rtol=0,
        atol=1e-12,
    )


def test_each_condition_makes_a_difference(build_pixart: Build, level: Level, read: Read) -> None:
    network, z = build_pixart().double(), latent()
    condition = read(network, 3)
    before = network(z, level(250.0), condition).prediction
    for name in ("text_embedding", "resolution", "aspect_ratio"):
        changed = condition | {name: condition[name] + 1.0}
        assert (network(z, level(250.0), changed).prediction - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_one_row_of_conditions_serves_a_whole_batch(build_pixart: Build, level: Level, read: Read) -> None:
    network, z = build_pixart().double(), latent()
    one = read(network, 1)
    many = {name: value.repeat_interleave(3, dim=0) for name, value in one.items()}
    torch.testing.assert_close(
        network(z, level(250.0), one).prediction,
        network(z, level(250.0), many).prediction,
        rtol=0,
        atol=1e-12,
    )


def test_missing_and_misshapen_conditions_are_refused_all_at_once(
    build_pixart: Build, level: Level, read: Read
) -> None:
    network = build_pixart()
    condition = {"text_embedding": torch.zeros(3, 5, 8), "resolution": torch.zeros(2, 2)}
    with pytest.raises(ContractError) as refusal:
        network(latent().float(), level(1.0), condition)
    assert refusal.value.problems == (
        "text_embedding has shape [3, 5, 8]; expected [3, any, 7]",
        "resolution has shape [2, 2]; expected [3, 2]",
        "aspect_ratio is missing; expected shape [3, 1]",
    )


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 7, 8), (4, 8, 9)])
def test_a_latent_that_does_not_fit_is_refused(
    build_pixart: Build, level: Level, shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        ContractError, match="expected 4 channels and sides that are multiples of the patch size 2"
    ):
        build_pixart()(torch.zeros(1, *shape), level(1.0), {})


def test_every_parameter_gets_a_finite_gradient_and_all_but_key_biases_one_that_is_not_zero(
    build_pixart: Build, level: Level, read: Read
) -> None:
    network = build_pixart(norm_elementwise_affine=True).train().double()
    output = network(latent(), level(100.0, 500.0, 900.0), read(network, 3))
    assert output.variance is not None
    (output.prediction.square().mean() + output.variance.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A softmax does not see what is added to all of its logits.
        assert parameter.grad.any() or name.endswith("to_k.bias"), name


def test_it_runs_in_bfloat16_near_its_float32_self(build_pixart: Build, level: Level, read: Read) -> None:
    network, z = build_pixart(), latent(height=4, width=12).float()
    condition = read(network, 3)
    fine = network(z, level(500.0), condition).prediction
    coarse = network.to(torch.bfloat16)(z.to(torch.bfloat16), level(500.0), condition).prediction
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - fine).norm() / fine.norm() < 0.05


def test_built_on_the_meta_device_it_takes_weights_by_assignment(
    build_pixart: Build, trained: Trained, level: Level, read: Read
) -> None:
    network = build_pixart()
    with torch.device("meta"):
        hollow = PixArt(network.config, trained).eval()
    assert all(parameter.is_meta for parameter in hollow.parameters())
    hollow.load_state_dict(network.state_dict(), assign=True)
    z, condition = latent().float(), read(network, 3)
    assert torch.equal(
        hollow(z, level(77.0), condition).prediction, network(z, level(77.0), condition).prediction
    )


def test_folders_go_to_diffusers_and_come_back(build_pixart: Build, tmp_path: Path) -> None:
    model = pytest.importorskip("diffusers").PixArtTransformer2DModel
    network = build_pixart()
    document = network.config.model_dump(mode="json", by_alias=True) | {
        "_class_name": "PixArtTransformer2DModel"
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    save_file(network.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    loaded, report = model.from_pretrained(tmp_path, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(report.values())
    loaded.save_pretrained(tmp_path / "back")
    document = json.loads((tmp_path / "back" / "config.json").read_text())
    values = {key: value for key, value in document.items() if key[0] != "_"}
    assert PixArtConfig.model_validate(PixArt.adopt_config(values)) == network.config
    back = load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors")
    ours = network.state_dict()
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[key], back[key]) for key in ours)
