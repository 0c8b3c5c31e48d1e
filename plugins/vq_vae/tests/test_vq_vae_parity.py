"""The codec gives what diffusers gives on the same weights: keys, latents, images, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ldm_vq_vae import VQDecoder, VQEncoder, VQVAEConfig

from ldm_registry.weights import load_weights, parse_config, read_config, save_checkpoint

diffusers = pytest.importorskip("diffusers")

# Name: (config keys, image height, image width). One to four levels, odd latent sizes, every activation.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "two levels": ({"block_out_channels": (8, 16), "norm_num_groups": 4}, 10, 6),
    "one level": ({"block_out_channels": (8,), "norm_num_groups": 2}, 5, 7),
    "three levels, 3x5 latent": ({"block_out_channels": (8, 8, 16), "norm_num_groups": 8}, 12, 20),
    "four levels": ({"block_out_channels": (4, 8, 12, 16), "norm_num_groups": 4}, 8, 24),
    "widths fall": ({"block_out_channels": (16, 8), "norm_num_groups": 8}, 6, 6),
    "two layers": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 2}, 6, 10),
    "no attention": (
        {"block_out_channels": (8, 8), "norm_num_groups": 4, "mid_block_add_attention": False},
        8,
        8,
    ),
    "narrow codes": (
        {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 8, "vq_embed_dim": 2},
        8,
        8,
    ),
    "wide codes": ({"block_out_channels": (8, 8), "norm_num_groups": 4, "vq_embed_dim": 7}, 8, 6),
    "one code": ({"block_out_channels": (8, 8), "norm_num_groups": 4, "num_vq_embeddings": 1}, 4, 4),
    "many codes": ({"block_out_channels": (8, 8), "norm_num_groups": 4, "num_vq_embeddings": 500}, 12, 8),
    "grey in, five out": (
        {"block_out_channels": (8, 16), "norm_num_groups": 1, "in_channels": 1, "out_channels": 5},
        6,
        8,
    ),
    "lookup": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "lookup_from_codebook": True}, 6, 8),
    "mish": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "mish"}, 6, 8),
    "gelu": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "gelu"}, 6, 8),
    "relu": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "ReLU"}, 6, 8),
    "spatial": ({"block_out_channels": (32, 64), "norm_type": "spatial", "latent_channels": 4}, 4, 6),
    "spatial, no attention": (
        {
            "block_out_channels": (32, 32, 32),
            "norm_type": "spatial",
            "norm_num_groups": 8,
            "mid_block_add_attention": False,
            "act_fn": "swish",
        },
        8,
        12,
    ),
}


def full(keys: dict[str, Any]) -> dict[str, Any]:
    levels = len(keys["block_out_channels"])
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "num_vq_embeddings": 32,
        **keys,
    }


def pair(keys: dict[str, Any], dtype: torch.dtype) -> tuple[Any, VQEncoder, VQDecoder]:
    """A reference model with random weights, norms and biases included, and our halves with the same."""
    torch.manual_seed(0)
    reference = diffusers.VQModel(**full(keys))
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        reference.quantize.embedding.weight.normal_(std=0.5)
    reference = reference.to(dtype).eval()
    config = VQVAEConfig(**full(keys))
    halves = VQEncoder(config).to(dtype).eval(), VQDecoder(config).to(dtype).eval()
    weights = reference.state_dict()
    for half in halves:
        half.load_state_dict({k: v for k, v in weights.items() if not k.startswith(half.sibling_prefixes)})
    return reference, *halves


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


def image(keys: dict[str, Any], height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    shape = (2, keys.get("in_channels", 3), height, width)
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        .mul(2)
        .sub(1)
        .to(dtype)
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@torch.no_grad()
def test_latents_and_images_equal_those_of_diffusers(name, dtype, tolerance):
    keys, height, width = CASES[name]
    reference, encoder, decoder = pair(keys, dtype)
    pixels = image(keys, height, width, dtype)
    raw = reference.encode(pixels).latents
    # The pipelines of diffusers multiply what a VQModel encodes by its scaling_factor, and divide on the way back.
    latent = raw * reference.config.scaling_factor
    assert relative(encoder.encode(pixels), latent) < tolerance
    assert relative(decoder.decode(latent), reference.decode(raw).sample) < tolerance


@pytest.mark.parametrize("name", CASES)
def test_the_two_halves_have_the_keys_of_diffusers_between_them(name):
    keys, _, _ = CASES[name]
    with torch.device("meta"):
        expected = {k: v.shape for k, v in diffusers.VQModel(**full(keys)).state_dict().items()}
        encoder, decoder = VQEncoder(VQVAEConfig(**full(keys))), VQDecoder(VQVAEConfig(**full(keys)))
    mine = {k: v.shape for half in (encoder, decoder) for k, v in half.state_dict().items()}
    assert mine == expected
    assert len(encoder.state_dict()) + len(decoder.state_dict()) == len(expected)
    assert all(k.startswith(decoder.sibling_prefixes) for k in encoder.state_dict())
    assert all(k.startswith(encoder.sibling_prefixes) for k in decoder.state_dict())


@torch.no_grad()
def test_decoding_indices_equals_the_lookup_of_diffusers():
    keys = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "lookup_from_codebook": True,
        "vq_embed_dim": 5,
    }
    reference, _, decoder = pair(keys, torch.float64)
    codes = torch.randint(0, 32, (2, 3, 4), generator=torch.Generator().manual_seed(2))
    theirs = reference.decode(codes, force_not_quantize=True, shape=(2, 3, 4, 5)).sample
    assert relative(decoder.decode_codes(codes), theirs) < 1e-10


@pytest.mark.parametrize("name", ["three levels, 3x5 latent", "spatial"])
def test_losses_and_their_gradients_equal_those_of_diffusers(name):
    keys, height, width = CASES[name]
    reference, encoder, decoder = pair(keys, torch.float64)
    pixels = image(keys, height, width, torch.float64)
    out = decoder(encoder(pixels).latent)
    # diffusers puts its beta of 0.25 on the codebook term and 1 on the commitment.
    quantising = out.losses["commitment"] + 0.25 * out.losses["codebook"]
    (out.image.sub(pixels).square().mean() + quantising).backward()
    theirs = reference(pixels)
    (theirs.sample.sub(pixels).square().mean() + theirs.commit_loss).backward()

    assert torch.allclose(quantising, theirs.commit_loss, rtol=1e-12)
    expected = dict(reference.named_parameters())
    ours = {k: v for half in (encoder, decoder) for k, v in half.named_parameters()}
    assert ours.keys() == expected.keys()
    for key, parameter in ours.items():
        scale = max(1e-4, float(expected[key].grad.norm()))
        assert float((parameter.grad - expected[key].grad).norm()) < 1e-9 * scale, key


def test_diffusers_loads_a_config_that_was_written_from_ours():
    config = VQVAEConfig(
        **full(CASES["two layers"][0]), latents_mean=(0.0,) * 3, latents_std=(1.0,) * 3, codebook="ema"
    )
    values = config.model_dump(mode="json", by_alias=True)
    public = {k: v for k, v in values.items() if not k.startswith("_")}
    assert dict(diffusers.VQModel.from_config(values).config).items() >= public.items()
    assert values.keys() - public.keys() == {"_latents_mean", "_latents_std", "_codebook", "_ema_decay"}


def test_defaults_are_those_of_diffusers():
    theirs = {k: v for k, v in diffusers.VQModel().config.items() if not k.startswith("_")}
    ours = {k: v for k, v in VQVAEConfig().model_dump(by_alias=True).items() if not k.startswith("_")}
    assert ours == theirs


def test_a_folder_that_diffusers_wrote_loads_in_each_half(tmp_path):
    keys, _, _ = CASES["narrow codes"]
    reference, *halves = pair(keys, torch.float32)
    reference.save_pretrained(tmp_path)
    for half in halves:
        config = parse_config(type(half), read_config(tmp_path), str(tmp_path))
        assert config == half.config
        with torch.device("meta"):
            loaded = type(half)(config)
        load_weights(loaded, tmp_path)
        for key, value in half.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


@torch.no_grad()
def test_diffusers_loads_a_folder_that_we_wrote(tmp_path):
    keys, height, width = CASES["narrow codes"]
    reference, encoder, decoder = pair(keys, torch.float32)
    save_checkpoint([encoder, decoder], tmp_path, contract=None, card="# card")
    loaded = diffusers.VQModel.from_pretrained(tmp_path, local_files_only=True)
    pixels = image(keys, height, width, torch.float32)
    assert torch.equal(loaded(pixels).sample, reference(pixels).sample)
