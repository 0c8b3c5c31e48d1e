"""Facts about the codec by itself: gradients, normalisation, refusals."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path

import ldm_vq_vae
import pytest
import torch
from ldm_vq_vae import VQDecoder, VQEncoder, VQVAEConfig
from pydantic import ValidationError

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import LatentSpace
from ldm_registry.trainable import TrainableDecoder, TrainableEncoder

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def config(**keys: object) -> VQVAEConfig:
    values = {
        "down_block_types": (DOWN,) * 3,
        "up_block_types": (UP,) * 3,
        "block_out_channels": (8, 8, 16),
        "norm_num_groups": 4,
        "num_vq_embeddings": 32,
    }
    return VQVAEConfig(**(values | keys))


def halves(made: VQVAEConfig, dtype: torch.dtype = torch.float64) -> tuple[VQEncoder, VQDecoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = VQEncoder(made).to(dtype).eval(), VQDecoder(made).to(dtype).eval()
        with torch.no_grad():
            decoder.quantize.embedding.weight.normal_(std=0.3)
    return encoder, decoder


def images(batch: int = 3, size: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (
        torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).mul(2).sub(1).to(dtype)
    )


def test_shapes_and_attributes_follow_the_config():
    made = config(latent_channels=5, vq_embed_dim=2, in_channels=1, out_channels=4)
    encoder, decoder = halves(made)
    assert encoder.latent_space == decoder.latent_space == LatentSpace(channels=2, stride=4)
    assert (encoder.image_channels, decoder.image_channels) == (1, 4)
    latent = encoder.encode(torch.zeros(2, 1, 8, 20, dtype=torch.float64))
    assert latent.shape == (2, 2, 2, 5)
    assert decoder.decode(latent).shape == (2, 4, 8, 20)


def test_both_halves_can_be_trained():
    encoder, decoder = halves(config())
    assert isinstance(encoder, TrainableEncoder)
    assert isinstance(decoder, TrainableDecoder)


def test_encoding_is_deterministic_and_leaves_the_generator_alone():
    encoder, _ = halves(config())
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(encoder.encode(images(), generator), encoder.encode(images()))
    assert torch.equal(generator.get_state(), before)
    several = [torch.Generator().manual_seed(seed) for seed in range(3)]
    torch.testing.assert_close(
        encoder.encode(images(), several)[1:2], encoder.encode(images()[1:2]), rtol=1e-10, atol=1e-12
    )


def test_decoding_quantises_so_that_a_latent_and_its_code_give_one_image():
    encoder, decoder = halves(config())
    latent = encoder.encode(images())
    code = decoder.quantize(decoder.raw(latent)).replaced
    on_the_code = decoder.normalisation.normalise(code)
    assert (on_the_code - latent).abs().max() > 0.01
    torch.testing.assert_close(decoder.decode(on_the_code), decoder.decode(latent), rtol=1e-10, atol=1e-12)


def test_the_training_view_decodes_as_decoding_does():
    encoder, decoder = halves(config())
    latent = encoder.encode(images())
    assert torch.equal(encoder(images()).latent, latent)
    torch.testing.assert_close(decoder(latent).image, decoder.decode(latent), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["gradient", "ema"])
def test_the_gradient_of_a_latent_is_that_of_its_code_plus_that_of_the_commitment(mode):
    _, decoder = halves(config(codebook=mode, latents_mean=(0.1, -0.2, 0.0), latents_std=(0.5, 2.0, 1.0)))
    latent = 0.3 * torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latent.requires_grad_()
    out = decoder(latent)
    (out.image.square().sum() + 0.25 * out.losses["commitment"]).backward()

    raw = decoder.raw(latent.detach())
    code = decoder.quantize(raw).replaced.detach().requires_grad_()
    decoder.decoder(decoder.post_quant_conv(code)).square().sum().backward()
    in_raw_units = code.grad + 0.25 * 2 * (raw - code.detach()) / raw.numel()
    std = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(latent.grad, in_raw_units * std, rtol=1e-10, atol=1e-12)


def test_the_codebook_loss_pulls_each_code_to_the_mean_of_its_vectors():
    _, decoder = halves(config())
    latent = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoder(latent).losses["codebook"].backward()
    quantised = decoder.quantize(decoder.raw(latent))
    weight = decoder.quantize.embedding.weight
    expected = torch.zeros_like(weight)
    for vector, code in zip(quantised.vectors, quantised.codes, strict=True):
        expected[code] += 2 * (weight[code] - vector) / latent.numel()
    torch.testing.assert_close(weight.grad, expected.detach(), rtol=1e-10, atol=1e-12)


NORMALISATIONS = [
    {},
    {"scaling_factor": 1.0},
    {"latents_mean": (0.1, -2.0, 3.0), "latents_std": (0.5, 1.0, 9.0)},
]


@pytest.mark.parametrize("keys", NORMALISATIONS)
def test_measured_statistics_give_latents_of_mean_0_and_std_1(keys):
    encoder, decoder = halves(config(**keys))
    latent = encoder.encode(images(8))
    made = encoder.with_statistics(latent.mean((0, 2, 3)).tolist(), latent.std((0, 2, 3)).tolist())
    after, undoing = VQEncoder(made).double(), VQDecoder(made).double()
    after.load_state_dict(encoder.state_dict())
    undoing.load_state_dict(decoder.state_dict())
    normalised = after.encode(images(8))
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-10
    assert (normalised.std((0, 2, 3)) - 1).abs().max() < 1e-10
    torch.testing.assert_close(undoing.decode(normalised), decoder.decode(latent), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keys", NORMALISATIONS)
def test_the_decoder_undoes_the_normalisation_of_the_encoder(keys):
    made = config(**keys)
    raw = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    back = made.normalisation.denormalise(made.normalisation.normalise(raw))
    torch.testing.assert_close(back, raw, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 8, 8), "channels: got 4, expected 3"),
        ((1, 3, 8, 10), "got 8 x 10, expected positive multiples of 4"),
        ((3, 8, 8), "dimensions: got 3, expected 4"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_with_both_sides(shape, message):
    encoder, _ = halves(config())
    for call in (encoder.encode, encoder):
        with pytest.raises(SpecError, match=message):
            call(torch.zeros(shape, dtype=torch.float64))


def test_a_latent_that_does_not_fit_is_refused_with_both_sides():
    _, decoder = halves(config())
    for call in (decoder.decode, decoder):
        with pytest.raises(SpecError, match=r"shape \[1, 5, 2, 2\]\n.*expected \[batch, 3, height, width\]"):
            call(torch.zeros(1, 5, 2, 2, dtype=torch.float64))


def test_all_contradictions_of_a_config_are_listed_at_once():
    with pytest.raises(SpecError) as caught:
        config(
            up_block_types=(UP, "UpDecoderBlock", UP),
            block_out_channels=(32, 48, 64),
            norm_type="spatial",
            vq_embed_dim=4,
            latents_std=(1.0,),
        )
    text = "\n".join(caught.value.problems)
    expected = "expected 'UpDecoderBlock2D' or 'AttnUpDecoderBlock2D'"
    assert f"up_block_types: block type 'UpDecoderBlock' is not built, {expected}" in text
    assert (
        "block_out_channels: got 48, expected a positive multiple of the groups of a spatial norm (32)"
        in text
    )
    assert "vq_embed_dim: got 4, expected latent_channels (3)" in text
    assert "expected both or neither" in text
    assert "latents_std: got 1 values, expected 4" in text


@pytest.mark.parametrize(
    "keys", [{"act_fn": "tanh"}, {"norm_type": "batch"}, {"ema_decay": 1.0}, {"codebok": "ema"}]
)
def test_values_out_of_range_and_unknown_keys_are_refused(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        config(**keys)


def test_a_config_survives_json_under_the_names_of_the_file():
    made = config(latents_mean=(0.1,) * 3, latents_std=(2.0,) * 3, codebook="ema", ema_decay=0.95)
    text = made.model_dump_json(by_alias=True)
    assert json.loads(text)["_codebook"] == "ema"
    assert VQVAEConfig.model_validate(json.loads(text)) == made


def test_every_config_key_is_described():
    assert all(field.description for field in VQVAEConfig.model_fields.values())


@pytest.mark.parametrize("mode", ["gradient", "ema"])
def test_a_codec_built_on_the_meta_device_works_once_weights_are_assigned(mode):
    made = config(codebook=mode, latents_mean=(0.1, -2.0, 3.0), latents_std=(0.5, 1.0, 9.0))
    encoder, decoder = halves(made)
    with torch.device("meta"):
        empty_encoder, empty_decoder = VQEncoder(made), VQDecoder(made)
    empty_encoder.load_state_dict(encoder.state_dict(), assign=True)
    empty_decoder.load_state_dict(decoder.state_dict(), assign=True)
    latent = encoder.encode(images())
    assert torch.equal(empty_encoder.encode(images()), latent)
    assert torch.equal(empty_decoder.decode(latent), decoder.decode(latent))
    assert empty_decoder.quantize.embedding.weight.requires_grad is (mode == "gradient")
    empty_decoder.train()(latent.detach())
    assert empty_decoder.training_state()


@pytest.mark.parametrize("norm_type", ["group", "spatial"])
def test_every_parameter_gets_a_finite_gradient(norm_type):
    encoder, decoder = halves(
        config(
            block_out_channels=(32, 32),
            down_block_types=(DOWN,) * 2,
            up_block_types=(UP,) * 2,
            norm_type=norm_type,
        )
    )
    out = decoder(encoder(images()).latent)
    (out.image.square().mean() + out.losses["commitment"] + out.losses["codebook"]).backward()
    for half in (encoder, decoder):
        for name, parameter in half.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            # The key bias shifts every logit of a row alike, so softmax hides it; all else must learn.
            assert "to_k.bias" in name or float(parameter.grad.abs().max()) > 0, name


def test_the_memory_format_does_not_change_the_result():
    encoder, decoder = halves(config())
    latent = encoder.encode(images())
    expected = decoder.decode(latent)
    last = torch.channels_last
    fast_encoder, fast_decoder = (copy.deepcopy(half).to(memory_format=last) for half in (encoder, decoder))
    out = fast_decoder.decode(fast_encoder.encode(images().contiguous(memory_format=last)))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    assert out.is_contiguous(memory_format=last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_finds_the_same_codes(dtype):
    _, decoder = halves(config(scaling_factor=1.0))
    codes = torch.arange(27).view(3, 3, 3)
    latent = decoder.quantize.lookup(codes)
    small = copy.deepcopy(decoder).to(dtype)
    assert torch.equal(small.quantize(latent.to(dtype)).codes, codes.flatten())
    assert small.decode(latent.to(dtype)).dtype == dtype


def test_the_training_view_runs_under_autocast():
    encoder, decoder = halves(config(codebook="ema"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = decoder.train()(encoder(images(dtype=torch.float32)).latent)
        loss = out.image.float().square().mean() + out.losses["commitment"]
    loss.backward()
    assert out.losses["commitment"].dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)
    assert decoder.training_state()["total"].dtype == torch.float32


def test_the_card_lists_every_config_key_with_its_default_and_meaning():
    card = Path(__file__).parents[1].joinpath("README.md").read_text()
    for name, field in VQVAEConfig.model_fields.items():
        assert f"| `{field.alias or name}` | `{json.dumps(field.default)}` | {field.description} |" in card


def test_the_hook_returns_what_the_entry_points_declare():
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    declared = set(project["entry-points"]["ldm_registry"])
    assert {f"{one.kind}.{one.name}" for one in ldm_vq_vae.register_components()} == declared
