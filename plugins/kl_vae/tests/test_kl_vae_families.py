"""Normalisation of the known families, latents of another spread, and names that old files have."""

from __future__ import annotations

import re

import pytest
import torch
from ldm_kl_vae import KLDecoder, KLEncoder, KLVAEConfig

from ldm_registry.weights import parse_config

SMALL = {
    "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    "block_out_channels": (4, 8),
    "norm_num_groups": 2,
}
FAMILIES = KLEncoder.families


def halves(**keys: object) -> tuple[KLEncoder, KLDecoder]:
    made = KLVAEConfig(**(SMALL | keys))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KLEncoder(made).double().eval(), KLDecoder(made).double().eval()


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def test_both_halves_offer_the_same_families():
    assert KLDecoder.families is KLEncoder.families
    assert {"sd1", "sd2", "sdxl", "sd3", "flux", "playground-v2.5"} <= FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_replaces_every_normalisation_that_was_there(name):
    channels = 16 if name in ("sd3", "flux") else 4
    other = {
        "latent_channels": channels,
        "scaling_factor": 7.0,
        "shift_factor": 7.0,
        "latents_mean": (7.0,) * channels,
        "latents_std": (7.0,) * channels,
        "_latent_std": 7.0,
    }
    plain = {**SMALL, "latent_channels": channels}
    replaced, stated = (
        parse_config(KLEncoder, {**values, **FAMILIES[name]}, name) for values in (plain | other, plain)
    )
    assert replaced == stated


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd3", "flux"])
@torch.no_grad()
def test_latents_of_a_family_are_shifted_and_scaled(name):
    channels = 16 if name in ("sd3", "flux") else 4
    encoder, _ = halves(latent_channels=channels, **FAMILIES[name])
    numbers = {"sd1": (0.18215, 0.0), "sd2": (0.18215, 0.0), "sdxl": (0.13025, 0.0)}
    numbers |= {"sd3": (1.5305, 0.0609), "flux": (0.3611, 0.1159)}
    scale, shift = numbers[name]
    expected = (encoder.posterior(pixels()).mean - shift) * scale
    torch.testing.assert_close(encoder.encode(pixels()), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_latents_of_playground_have_unit_variance_where_diffusers_gives_half():
    encoder, decoder = halves(**FAMILIES["playground-v2.5"])
    mean = torch.tensor([-1.6574, 1.886, -1.383, 2.5155], dtype=torch.float64).view(1, 4, 1, 1)
    std = torch.tensor([8.4927, 5.9022, 6.5498, 5.2299], dtype=torch.float64).view(1, 4, 1, 1)
    raw = encoder.posterior(pixels()).mean
    theirs = (raw - mean) * 0.5 / std  # as StableDiffusionXLPipeline normalises; sigma_data is 0.5
    torch.testing.assert_close(encoder.encode(pixels()), theirs / 0.5, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        decoder.decode((raw - mean) / std), decoder.decoder(decoder.post_quant_conv(raw))
    )


@torch.no_grad()
def test_the_spread_of_training_is_divided_out_and_put_back():
    (plain, decode), (encoder, decoder) = halves(shift_factor=0.3), halves(shift_factor=0.3, latent_std=0.25)
    latent = encoder.encode(pixels())
    torch.testing.assert_close(latent, plain.encode(pixels()) / 0.25, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder.decode(latent), decode.decode(latent * 0.25), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_measured_statistics_replace_the_spread_of_training():
    encoder, _ = halves(latent_std=0.25)
    latent = encoder.encode(pixels())
    dims = (0, 2, 3)
    made = encoder.with_statistics(latent.mean(dims).tolist(), latent.std(dims, correction=0).tolist())
    again, _ = halves(**made.model_dump(exclude=set(SMALL)))
    latent = again.encode(pixels())
    assert latent.mean(dims).abs().max() < 1e-10
    assert (latent.std(dims, correction=0) - 1).abs().max() < 1e-10
    assert made.latent_std == 1.0


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def renamed(name: str) -> str:
    for pattern, replacement in KLEncoder.renamed_tensors:
        name = re.sub(pattern, replacement, name)
    return name


def test_old_names_of_attention_tensors_become_todays():
    tensors = [name for half in halves() for name in half.state_dict()]
    old = {
        re.sub(rf"\.{re.escape(new)}\.", f".{before}.", name): name
        for new, before in OLD_NAMES.items()
        for name in tensors
        if f".attentions.0.{new}." in name
    }
    # Four layers with weight and bias in the middle of either half, and in one level of each.
    assert len(old) == 8 * 4
    assert {renamed(before) for before in old} == set(old.values())
    assert all(renamed(before) == now for before, now in old.items())


def test_names_of_today_stay():
    assert KLDecoder.renamed_tensors == KLEncoder.renamed_tensors
    for half in halves():
        assert all(renamed(name) == name for name in half.state_dict())
    assert renamed("encoder.key.weight") == "encoder.key.weight"
    assert (
        renamed("encoder.mid_block.attentions.0.key.weight_g")
        == "encoder.mid_block.attentions.0.key.weight_g"
    )


def test_diffusers_reads_the_old_names_in_the_same_way():
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.AutoencoderKL(**SMALL)
    old = {}
    for name, tensor in model.state_dict().items():
        before = name
        for new, word in OLD_NAMES.items():
            before = before.replace(f".{new}.", f".{word}.")
        old[before] = tensor
    ours = {renamed(name): tensor for name, tensor in old.items()}
    assert old.keys() != ours.keys()
    assert model._fix_state_dict_keys_on_load(dict(old)).keys() == ours.keys()
