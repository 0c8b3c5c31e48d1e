"""The codec gives what diffusers gives on the same weights: keys, latents, images, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ldm_kl_vae import KLDecoder, KLEncoder, KLVAEConfig

from ldm_registry.weights import load_weights, parse_config, read_config, save_checkpoint

diffusers = pytest.importorskip("diffusers")

# Name: (config keys, image height, image width). Two to four levels, odd latent sizes, every activation.
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
    "no quant conv": ({"block_out_channels": (8, 8), "norm_num_groups": 4, "use_quant_conv": False}, 8, 8),
    "no post-quant conv": (
        {"block_out_channels": (8, 8), "norm_num_groups": 4, "use_post_quant_conv": False},
        8,
        8,
    ),
    "neither conv, 16 channels": (
        {
            "block_out_channels": (8, 16, 16),
            "norm_num_groups": 4,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
        },
        12,
        8,
    ),
    "grey in, five out": (
        {"block_out_channels": (8, 16), "norm_num_groups": 1, "in_channels": 1, "out_channels": 5},
        6,
        8,
    ),
    "one channel a group": ({"block_out_channels": (6, 6), "norm_num_groups": 6, "latent_channels": 1}, 4, 4),
    "mish": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "mish"}, 6, 8),
    "gelu": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "gelu"}, 6, 8),
    "relu": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "relu"}, 6, 8),
    "swish": ({"block_out_channels": (8, 16), "norm_num_groups": 4, "act_fn": "SWISH"}, 6, 8),
    "32 groups": ({"block_out_channels": (32, 64)}, 4, 6),
}


def full(keys: dict[str, Any]) -> dict[str, Any]:
    levels = len(keys["block_out_channels"])
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        **keys,
    }


def pair(keys: dict[str, Any], dtype: torch.dtype) -> tuple[Any, KLEncoder, KLDecoder]:
    """A reference model with random weights, norms and biases included, and our halves with the same."""
    torch.manual_seed(0)
    reference = diffusers.AutoencoderKL(**full(keys))
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    reference = reference.to(dtype).eval()
    config = KLVAEConfig(**full(keys))
    halves = KLEncoder(config).to(dtype).eval(), KLDecoder(config).to(dtype).eval()
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
    posterior = reference.encode(pixels).latent_dist
    ours = encoder.posterior(pixels)
    assert relative(ours.mean, posterior.mean) < tolerance
    assert relative(ours.log_variance, posterior.logvar) < tolerance
    scale, shift = reference.config.scaling_factor, reference.config.shift_factor or 0.0
    latent = (posterior.mode() - shift) * scale
    assert relative(encoder.encode(pixels), latent) < tolerance
    assert relative(decoder.decode(latent), reference.decode(posterior.mode()).sample) < tolerance


@pytest.mark.parametrize("name", CASES)
def test_the_two_halves_have_the_keys_of_diffusers_between_them(name):
    keys, _, _ = CASES[name]
    with torch.device("meta"):
        expected = {k: v.shape for k, v in diffusers.AutoencoderKL(**full(keys)).state_dict().items()}
        encoder, decoder = KLEncoder(KLVAEConfig(**full(keys))), KLDecoder(KLVAEConfig(**full(keys)))
    mine = {k: v.shape for half in (encoder, decoder) for k, v in half.state_dict().items()}
    assert mine == expected
    assert len(encoder.state_dict()) + len(decoder.state_dict()) == len(expected)
    assert all(k.startswith(decoder.sibling_prefixes) for k in encoder.state_dict())
    assert all(k.startswith(encoder.sibling_prefixes) for k in decoder.state_dict())


def test_per_channel_statistics_scale_as_in_diffusers_pipelines():
    keys = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "latents_mean": (-1.6574, 1.886, -1.383, 2.5155),
        "latents_std": (8.4927, 5.9022, 6.5498, 5.2299),
        "scaling_factor": 0.5,
    }
    reference, encoder, decoder = pair(keys, torch.float64)
    pixels = image(keys, 6, 8, torch.float64)
    raw = reference.encode(pixels).latent_dist.mode()
    mean = torch.tensor(keys["latents_mean"], dtype=torch.float64).view(1, 4, 1, 1)
    std = torch.tensor(keys["latents_std"], dtype=torch.float64).view(1, 4, 1, 1)
    latent = (raw - mean) * 0.5 / std
    assert relative(encoder.encode(pixels), latent) < 1e-10
    assert relative(decoder.decode(latent), reference.decode(latent * std / 0.5 + mean).sample) < 1e-10


def test_the_loss_and_its_gradients_equal_those_of_diffusers():
    keys, height, width = CASES["three levels, 3x5 latent"]
    reference, encoder, decoder = pair(keys, torch.float64)
    pixels = image(keys, height, width, torch.float64)
    out = encoder(pixels, torch.Generator().manual_seed(3))
    (decoder(out.latent).image.sub(pixels).square().mean() + 0.1 * out.losses["kl_nats"]).backward()

    posterior = reference.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3)).double()
    raw = posterior.mean + posterior.std * noise
    kl_nats = posterior.kl().sum() / posterior.mean.numel()
    (reference.decode(raw).sample.sub(pixels).square().mean() + 0.1 * kl_nats).backward()

    assert torch.allclose(out.losses["kl_nats"], kl_nats, rtol=1e-12)
    assert relative(out.latent, raw * 0.18215) < 1e-12
    expected = dict(reference.named_parameters())
    ours = {k: v for half in (encoder, decoder) for k, v in half.named_parameters()}
    assert ours.keys() == expected.keys()
    for key, parameter in ours.items():
        scale = 1e-12 + float(expected[key].grad.norm())
        assert float((parameter.grad - expected[key].grad).norm()) < 1e-9 * max(scale, 1e-4), key


def test_diffusers_loads_a_config_that_was_written_from_ours():
    config = KLVAEConfig(**full(CASES["two layers"][0]))
    values = config.model_dump(mode="json", by_alias=True)
    assert dict(diffusers.AutoencoderKL.from_config(values).config).items() >= values.items()


def test_defaults_are_those_of_diffusers():
    theirs = {k: v for k, v in diffusers.AutoencoderKL().config.items() if not k.startswith("_")}
    ours = KLVAEConfig().model_dump(by_alias=True)
    assert ours.pop("_latent_std") == 1.0
    assert ours == theirs


def test_a_folder_that_diffusers_wrote_loads_in_each_half(tmp_path):
    keys, _, _ = CASES["two layers"]
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
    keys, height, width = CASES["two layers"]
    reference, encoder, decoder = pair(keys, torch.float32)
    save_checkpoint([encoder, decoder], tmp_path, contract=None, card="# card")
    loaded = diffusers.AutoencoderKL.from_pretrained(tmp_path, local_files_only=True)
    pixels = image(keys, height, width, torch.float32)
    assert torch.equal(loaded(pixels).sample, reference(pixels).sample)
