"""Facts about the codec by itself, and about the folders that it shares with diffusers."""

from __future__ import annotations

import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import ldm_tiny_vae
import pytest
import torch
from ldm_tiny_vae import TinyDecoder, TinyEncoder, TinyVAEConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import LatentSpace
from ldm_registry.weights import load_weights, parse_config, read_config, save_checkpoint

SMALL: dict[str, Any] = {
    "encoder_block_out_channels": (6, 6, 6),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (1, 1, 0),
}


def halves(**keys: Any) -> tuple[TinyEncoder, TinyDecoder]:
    made = TinyVAEConfig(**(SMALL | keys))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyEncoder(made).eval(), TinyDecoder(made).eval()


def pixels(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference(**keys: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.AutoencoderTiny(**(SMALL | keys)).eval()


@torch.no_grad()
def test_shapes_and_attributes_follow_the_config():
    encoder, decoder = halves(latent_channels=5, in_channels=1, out_channels=4, upsampling_scaling_factor=3)
    assert encoder.latent_space == LatentSpace(channels=5, stride=4)
    assert decoder.latent_space == LatentSpace(channels=5, stride=9)
    assert (encoder.image_channels, decoder.image_channels) == (1, 4)
    latent = encoder.encode(torch.zeros(2, 1, 8, 20))
    assert latent.shape == (2, 5, 2, 5)
    assert decoder.decode(latent).shape == (2, 4, 18, 45)


@torch.no_grad()
def test_encoding_is_deterministic_with_and_without_a_generator():
    encoder, _ = halves()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(encoder.encode(pixels(8, 12), generator), encoder.encode(pixels(8, 12)))
    assert torch.equal(generator.get_state(), before)


@torch.no_grad()
def test_latents_far_out_decode_as_their_bound_does():
    _, decoder = halves()
    far = torch.full((1, 4, 2, 2), 1e6)
    assert torch.equal(decoder.decode(far), decoder.decode(10 * far))
    assert not torch.allclose(decoder.decode(far), decoder.decode(torch.full((1, 4, 2, 2), 3.0)), atol=1e-3)


@torch.no_grad()
def test_the_range_for_storage_touches_neither_half():
    (encoder, decoder), (other, another) = halves(), halves(latent_magnitude=7, latent_shift=0.1)
    latent = encoder.encode(pixels(8, 12))
    assert torch.equal(other.encode(pixels(8, 12)), latent)
    assert torch.equal(another.decode(latent), decoder.decode(latent))


def test_wrong_shapes_are_refused():
    encoder, decoder = halves()
    with pytest.raises(SpecError, match="expected positive multiples of 4") as caught:
        encoder.encode(torch.zeros(1, 2, 6, 8))
    assert any("channels: got 2, expected 3" in problem for problem in caught.value.problems)
    with pytest.raises(SpecError, match="dimensions: got 3"):
        encoder.encode(torch.zeros(3, 8, 8))
    with pytest.raises(SpecError, match="cannot decode a latent"):
        decoder.decode(torch.zeros(1, 3, 2, 2))


def test_all_contradictions_of_a_config_are_listed_at_once():
    with pytest.raises(SpecError) as caught:
        TinyVAEConfig(
            encoder_block_out_channels=(8, 16),
            num_encoder_blocks=(1, 1, 1),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_decoder_blocks=(1, 1, 1, -1),
        )
    text = "\n".join(caught.value.problems)
    assert "num_encoder_blocks: got 3 values, expected 2" in text
    assert "encoder_block_out_channels: got [8, 16], expected one positive width for all levels" in text
    assert "num_decoder_blocks: got -1" in text


@pytest.mark.parametrize(
    "keys",
    [
        {"act_fn": "tanh"},
        {"upsample_fn": "linear"},
        {"scaling_factor": 0.0},
        {"latent_chanels": 4},
        {"upsampling_scaling_factor": 0},
        {"num_encoder_blocks": ()},
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        TinyVAEConfig(**keys)


def test_unequal_widths_fail_in_diffusers_too():
    model = reference(encoder_block_out_channels=(6, 6, 12))
    with pytest.raises(RuntimeError, match="channels"):
        model.encode(pixels(8, 12))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area", "lanczos"]
)
def test_an_interpolation_is_taken_exactly_if_it_works_in_diffusers(name):
    try:
        reference(upsample_fn=name).decode(torch.zeros(1, 4, 2, 3))
        works = True
    except (ValueError, NotImplementedError):
        works = False
    try:
        TinyVAEConfig(upsample_fn=name)
    except ValidationError:
        assert not works
    else:
        assert works


def test_the_config_has_the_keys_and_defaults_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    signature = inspect.signature(diffusers.AutoencoderTiny.__init__).parameters
    theirs = {name: one.default for name, one in signature.items() if name != "self"}
    assert TinyVAEConfig().model_dump(by_alias=True) == theirs


def test_the_copy_of_the_widths_that_diffusers_writes_is_left_out():
    stored = {key: value for key, value in reference().config.items() if not key.startswith("_")}
    assert tuple(stored["block_out_channels"]) == SMALL["decoder_block_out_channels"]
    for half in (TinyEncoder, TinyDecoder):
        assert TinyVAEConfig(**half.adopt_config(stored)) == TinyVAEConfig(**SMALL)
    assert "block_out_channels" in stored
    assert TinyEncoder.adopt_config({"block_out_channels": [64, 64, 64, 64]}) == {}


def test_a_copy_of_the_widths_that_is_none_is_refused():
    with pytest.raises(
        SpecError, match=r"block_out_channels: got \[32\], expected a copy of decoder_block_out"
    ):
        TinyDecoder.adopt_config({**SMALL, "block_out_channels": [32]})


def test_the_two_halves_have_the_keys_of_diffusers_between_them():
    expected = {k: v.shape for k, v in reference().state_dict().items()}
    encoder, decoder = halves()
    assert {k: v.shape for half in (encoder, decoder) for k, v in half.state_dict().items()} == expected
    assert all(k.startswith(decoder.sibling_prefixes) for k in encoder.state_dict())
    assert all(k.startswith(encoder.sibling_prefixes) for k in decoder.state_dict())


def test_a_folder_that_diffusers_wrote_loads_in_each_half(tmp_path):
    model = reference()
    model.save_pretrained(tmp_path)
    expected = model.state_dict()
    for kind in (TinyEncoder, TinyDecoder):
        config = parse_config(kind, read_config(tmp_path), str(tmp_path))
        assert config == TinyVAEConfig(**SMALL)
        with torch.device("meta"):
            loaded = kind(config)
        load_weights(loaded, tmp_path)
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, expected[key]), key


@torch.no_grad()
def test_diffusers_loads_a_folder_that_we_wrote(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    encoder, decoder = halves()
    save_checkpoint([encoder, decoder], tmp_path, contract=None, card="# card")
    loaded = diffusers.AutoencoderTiny.from_pretrained(tmp_path, local_files_only=True)
    latent = encoder.encode(pixels(8, 12))
    torch.testing.assert_close(loaded.encode(pixels(8, 12)).latents, latent)
    torch.testing.assert_close(loaded.decode(latent).sample, decoder.decode(latent))


@torch.no_grad()
def test_latents_are_decoded_as_the_pipelines_of_diffusers_do():
    for keys in ({}, {"scaling_factor": 0.3611, "shift_factor": 0.1159}):
        model, (_, decoder) = reference(**keys), halves(**keys)
        decoder.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith("decoder.")})
        latent = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(2))
        # Stable Diffusion divides by the factor, Stable Diffusion 3 and Flux also add the shift.
        raw = latent / model.config.scaling_factor + model.config.shift_factor
        torch.testing.assert_close(decoder.decode(latent), model.decode(raw).sample)


def test_a_codec_built_on_the_meta_device_works_once_weights_are_assigned():
    for half, argument in zip(halves(), (pixels(8, 12), torch.ones(2, 4, 3, 3)), strict=True):
        with torch.device("meta"):
            empty = type(half)(half.config)
        empty.load_state_dict(half.state_dict(), assign=True)
        method = "encode" if isinstance(half, TinyEncoder) else "decode"
        assert torch.equal(getattr(empty, method)(argument), getattr(half, method)(argument))


def test_a_config_survives_json():
    made = TinyVAEConfig(**SMALL)
    assert TinyVAEConfig.model_validate(json.loads(made.model_dump_json(by_alias=True))) == made


def test_the_hook_returns_what_the_entry_points_declare():
    manifest = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    declared = set(manifest["project"]["entry-points"]["ldm_registry"])
    assert {f"{part.kind}.{part.name}" for part in ldm_tiny_vae.register_components()} == declared


def test_the_card_lists_every_config_key_with_its_default_and_meaning():
    card = Path(__file__).parents[1].joinpath("README.md").read_text()
    for name, field in TinyVAEConfig.model_fields.items():
        assert f"| `{field.alias or name}` | `{json.dumps(field.default)}` | {field.description} |" in card
