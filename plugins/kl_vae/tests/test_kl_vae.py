"""Facts about the codec by itself: posterior, normalisation, refusals."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path

import ldm_kl_vae
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ldm_kl_vae import DiagonalGaussian, KLDecoder, KLEncoder, KLVAEConfig
from ldm_kl_vae.normalisation import Normalisation
from pydantic import ValidationError

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import LatentSpace
from ldm_registry.trainable import TrainableDecoder, TrainableEncoder

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def config(**keys: object) -> KLVAEConfig:
    values = {
        "down_block_types": (DOWN,) * 3,
        "up_block_types": (UP,) * 3,
        "block_out_channels": (8, 8, 16),
        "norm_num_groups": 4,
    }
    return KLVAEConfig(**(values | keys))


def halves(made: KLVAEConfig, dtype: torch.dtype = torch.float64) -> tuple[KLEncoder, KLDecoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KLEncoder(made).to(dtype).eval(), KLDecoder(made).to(dtype).eval()


def images(batch: int = 3, size: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (
        torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).mul(2).sub(1).to(dtype)
    )


def test_shapes_and_attributes_follow_the_config():
    made = config(latent_channels=5, in_channels=1, out_channels=4)
    encoder, decoder = halves(made)
    assert encoder.latent_space == decoder.latent_space == LatentSpace(channels=5, stride=4)
    assert (encoder.image_channels, decoder.image_channels) == (1, 4)
    latent = encoder.encode(torch.zeros(2, 1, 8, 20, dtype=torch.float64))
    assert latent.shape == (2, 5, 2, 5)
    assert decoder.decode(latent).shape == (2, 4, 8, 20)


def test_both_halves_can_be_trained():
    encoder, decoder = halves(config())
    assert isinstance(encoder, TrainableEncoder)
    assert isinstance(decoder, TrainableDecoder)


def test_without_a_generator_encoding_is_the_mode_and_draws_nothing():
    encoder, _ = halves(config())
    before = torch.get_rng_state()
    assert torch.equal(encoder.encode(images()), encoder.posterior(images()).mean * 0.18215)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_seed_gives_one_latent_and_another_seed_another():
    encoder, _ = halves(config())
    first, again, other = (
        encoder.encode(images(), torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_with_a_generator_for_each_image_a_latent_does_not_depend_on_its_batch():
    encoder, _ = halves(config())
    together = encoder.encode(images(), [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    alone = encoder.encode(images()[1:2], [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-10, atol=1e-12)


def test_the_training_view_samples_as_encoding_does():
    encoder, decoder = halves(config())
    out = encoder(images(), torch.Generator().manual_seed(4))
    torch.testing.assert_close(out.latent, encoder.encode(images(), torch.Generator().manual_seed(4)))
    torch.testing.assert_close(decoder(out.latent).image, decoder.decode(out.latent))


def test_samples_of_the_posterior_have_its_mean_and_variance():
    moments = (
        torch.tensor([0.7, -1.3, 0.5, -2.0], dtype=torch.float64).view(1, 4, 1, 1).expand(40_000, 4, 1, 1)
    )
    posterior = DiagonalGaussian.of(moments)
    drawn = posterior.sample(torch.Generator().manual_seed(0)).squeeze()
    error = 4 / 200  # four standard errors of a mean over 40 000 draws of unit variance
    assert (drawn.mean(0) - torch.tensor([0.7, -1.3])).abs().max() < error * 1.3
    assert (drawn.var(0).log() - torch.tensor([0.5, -2.0])).abs().max() < error * 1.5


def test_the_kl_divergence_equals_that_of_torch_distributions():
    moments = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_variance = moments.chunk(2, dim=1)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(
        DiagonalGaussian.of(moments).kl_nats(), torch.distributions.kl_divergence(q, p).mean()
    )


def test_log_variances_are_clamped():
    posterior = DiagonalGaussian.of(torch.tensor([0.0, 0.0, -100.0, 100.0]).view(1, 4, 1, 1))
    assert posterior.log_variance.flatten().tolist() == [-30.0, 20.0]


def test_the_kl_loss_is_of_the_raw_posterior_whatever_the_normalisation():
    plain, _ = halves(config())
    scaled, _ = halves(config(latents_mean=(1.0,) * 4, latents_std=(3.0,) * 4, scaling_factor=2.0))
    torch.testing.assert_close(plain(images()).losses["kl_nats"], scaled(images()).losses["kl_nats"])


NORMALISATIONS = [
    {},
    {"scaling_factor": 0.13025},
    {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    {"latents_mean": (0.1, -2.0, 3.0, 0.0), "latents_std": (0.5, 1.0, 2.0, 9.0)},
    {"latents_mean": (0.1, -2.0, 3.0, 0.0), "latents_std": (0.5, 1.0, 2.0, 9.0), "scaling_factor": 0.5},
]


@pytest.mark.parametrize("keys", NORMALISATIONS)
def test_the_decoder_undoes_the_normalisation_of_the_encoder(keys):
    made = config(**keys)
    raw = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = made.normalisation.normalise(raw)
    torch.testing.assert_close(made.normalisation.denormalise(there), raw, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(there, raw)


@pytest.mark.parametrize("keys", NORMALISATIONS)
def test_measured_statistics_give_latents_of_mean_0_and_std_1(keys):
    encoder, decoder = halves(config(**keys))
    latent = encoder.encode(images(8))
    made = encoder.with_statistics(latent.mean((0, 2, 3)).tolist(), latent.std((0, 2, 3)).tolist())
    assert made.scaling_factor == 1.0
    after, undoing = KLEncoder(made).double(), KLDecoder(made).double()
    after.load_state_dict(encoder.state_dict())
    undoing.load_state_dict(decoder.state_dict())
    normalised = after.encode(images(8))
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-10
    assert (normalised.std((0, 2, 3)) - 1).abs().max() < 1e-10
    torch.testing.assert_close(undoing.decode(normalised), decoder.decode(latent), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    first=st.tuples(st.floats(-5, 5), st.floats(0.1, 10)),
    second=st.tuples(st.floats(-5, 5), st.floats(0.1, 10)),
)
def test_folding_two_measurements_in_equals_applying_one_after_the_other(first, second):
    start = Normalisation((0.3,), (0.5,))
    once = normalising(start.then([first[0]] * 4, [first[1]] * 4))
    twice = normalising(once.then([second[0]] * 4, [second[1]] * 4))
    raw = torch.linspace(-3, 3, 16, dtype=torch.float64).view(1, 4, 2, 2)
    stepwise = ((start.normalise(raw) - first[0]) / first[1] - second[0]) / second[1]
    torch.testing.assert_close(twice.normalise(raw), stepwise, rtol=1e-9, atol=1e-9)


def normalising(statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Normalisation:
    mean, std = statistics
    return Normalisation(mean, tuple(1 / one for one in std))


@pytest.mark.parametrize(
    ("mean", "std"), [([0.0] * 3, [1.0] * 3), ([0.0] * 4, [1.0, 1.0, 0.0, 1.0]), ([0.0] * 4, [1.0] * 3)]
)
def test_statistics_that_cannot_be_used_are_refused(mean, std):
    encoder, _ = halves(config(latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4))
    with pytest.raises(SpecError, match="statistics"):
        encoder.with_statistics(mean, std)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 8, 8), "channels: got 4, expected 3"),
        ((1, 3, 8, 10), "got 8 x 10, expected positive multiples of 4"),
        ((1, 3, 0, 8), "got 0 x 8"),
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
    with pytest.raises(SpecError, match=r"shape \[1, 5, 2, 2\]\n.*expected \[batch, 4, height, width\]"):
        decoder.decode(torch.zeros(1, 5, 2, 2, dtype=torch.float64))


def test_all_contradictions_of_a_config_are_listed_at_once():
    with pytest.raises(SpecError) as caught:
        config(
            down_block_types=("DownEncoderBlock2", "AttnDownBlock2D"),
            block_out_channels=(8, 6, 16),
            layers_per_block=0,
            latents_mean=(0.0, 1.0),
        )
    text = "\n".join(caught.value.problems)
    assert "down_block_types: got 2 blocks, expected 3" in text
    for name in ("DownEncoderBlock2", "AttnDownBlock2D"):
        expected = "expected 'DownEncoderBlock2D' or 'AttnDownEncoderBlock2D'"
        assert f"down_block_types: block type {name!r} is not built, {expected}" in text
    assert "layers_per_block: got 0 with widths [8, 6, 16], expected at least 1" in text
    assert "block_out_channels: got 6, expected a positive multiple of norm_num_groups (4)" in text
    assert "expected both or neither" in text
    assert "latents_mean: got 2 values, expected 4" in text


@pytest.mark.parametrize(
    "keys",
    [
        {"act_fn": "tanh"},
        {"scaling_factor": 0.0},
        {"latent_chanels": 4},
        {"layers_per_block": -1},
        {"_latent_std": 0},
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        config(**keys)


def test_a_standard_deviation_of_zero_is_refused():
    with pytest.raises(SpecError, match=r"latents_std: got 0\.0, expected values above 0"):
        config(latents_mean=(0.0,) * 4, latents_std=(1.0, 0.0, 1.0, 1.0))


def test_a_config_survives_json():
    made = config(latents_mean=(0.1,) * 4, latents_std=(2.0,) * 4, sample_size=(64, 48))
    assert KLVAEConfig.model_validate(json.loads(made.model_dump_json(by_alias=True))) == made


def test_every_config_key_is_described():
    assert all(field.description for field in KLVAEConfig.model_fields.values())


def test_a_codec_built_on_the_meta_device_works_once_weights_are_assigned():
    made = config(latents_mean=(0.1, -2.0, 3.0, 0.0), latents_std=(0.5, 1.0, 2.0, 9.0))
    for half, argument in zip(
        halves(made), (images(), torch.ones(2, 4, 3, 3, dtype=torch.float64)), strict=True
    ):
        with torch.device("meta"):
            empty = type(half)(made)
        empty.load_state_dict(half.state_dict(), assign=True)
        method = "encode" if isinstance(half, KLEncoder) else "decode"
        assert torch.equal(getattr(empty, method)(argument), getattr(half, method)(argument))


def test_every_parameter_gets_a_finite_gradient():
    encoder, decoder = halves(config())
    out = encoder(images(), torch.Generator().manual_seed(0))
    (decoder(out.latent).image.square().mean() + out.losses["kl_nats"]).backward()
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
    pixels = images().contiguous(memory_format=last)
    torch.testing.assert_close(fast_encoder.encode(pixels), latent, rtol=1e-10, atol=1e-12)
    out = fast_decoder.decode(fast_encoder.encode(pixels))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    assert out.is_contiguous(memory_format=last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_the_full_result_and_keeps_its_type(dtype):
    made = config(latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(0.5, 1.0, 0.7, 0.9))
    encoder, decoder = halves(made)
    latent = encoder.encode(images())
    small_encoder, small_decoder = (copy.deepcopy(half).to(dtype) for half in (encoder, decoder))
    out = small_encoder.encode(images(dtype=dtype))
    assert out.dtype == dtype
    assert (out.double() - latent).norm() / latent.norm() < 0.05
    assert small_decoder.decode(out).dtype == dtype


def test_the_card_lists_every_config_key_with_its_default_and_meaning():
    card = Path(__file__).parents[1].joinpath("README.md").read_text()
    for name, field in KLVAEConfig.model_fields.items():
        assert f"| `{field.alias or name}` | `{json.dumps(field.default)}` | {field.description} |" in card


def test_the_hook_returns_what_the_entry_points_declare():
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    declared = set(project["entry-points"]["ldm_registry"])
    assert {f"{one.kind}.{one.name}" for one in ldm_kl_vae.register_components()} == declared


@pytest.mark.parametrize("has_convs", [True, False])
def test_folding_the_normalisation_into_the_weights_changes_no_output(has_convs: bool):
    made = config(
        scaling_factor=0.7,
        latents_mean=(0.4, -1.0, 2.0, 0.0),
        latents_std=(0.5, 1.5, 2.0, 3.0),
        latent_std=0.5,
        use_quant_conv=has_convs,
        use_post_quant_conv=has_convs,
    )
    encoder, decoder = halves(made)
    folded_encoder, folded_decoder = encoder.folded(), decoder.folded()
    assert folded_encoder.config == folded_decoder.config
    assert folded_encoder.config.normalisation == Normalisation((0.0,), (1.0,))
    latent = encoder.encode(images())
    torch.testing.assert_close(folded_encoder.encode(images()), latent)
    torch.testing.assert_close(
        folded_encoder.encode(images(), torch.Generator().manual_seed(0)),
        encoder.encode(images(), torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(folded_decoder.decode(latent), decoder.decode(latent))
