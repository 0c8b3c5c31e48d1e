"""What the network does, beside agreeing with diffusers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from ldm_dit import DiT, DiTConfig, PixArt, register_components
from ldm_dit.embedding import TimeFeatures

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Conditioning, LatentSpace, NoiseLevel, Trained
from ldm_registry.vocabulary import Prediction

Build = Callable[..., DiT]
Level = Callable[..., NoiseLevel]


def latent(batch: int = 3, channels: int = 4, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(
        batch, channels, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )


def test_it_says_what_it_takes_and_how_it_was_trained(trained: Trained, build: Build) -> None:
    network = build(patch_size=4)
    assert network.prediction is Prediction.EPSILON
    assert network.training_schedule is trained.schedule
    assert network.conditioning == {"class_label": Conditioning(shape=(), classes=9, null=9)}
    assert network.latent_space == LatentSpace(channels=4, stride=1)
    assert (network.size_multiple, network.latent_size) == (4, None)
    assert register_components() == [DiT, PixArt]


def test_a_fresh_network_puts_out_exactly_zero(trained: Trained, level: Level) -> None:
    network = DiT(
        DiTConfig(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8), trained
    )
    output = network(latent().float(), level(300.0), {"class_label": torch.tensor([0, 1, 2])})
    assert torch.equal(output.prediction, torch.zeros(3, 4, 8, 8))


def test_a_fresh_network_draws_its_weights_as_the_paper_does(trained: Trained) -> None:
    torch.manual_seed(0)
    config = DiTConfig(num_attention_heads=4, attention_head_dim=32, num_layers=1, sample_size=8)
    weights = DiT(config, trained).state_dict()
    block = "transformer_blocks.0"
    xavier = math.sqrt(2 / (128 + 128))
    assert float(weights[f"{block}.attn1.to_q.weight"].std()) == pytest.approx(xavier, rel=0.05)
    embedders = f"{block}.norm1.emb"
    assert float(weights[f"{embedders}.class_embedder.embedding_table.weight"].std()) == pytest.approx(
        0.02, rel=0.05
    )
    assert float(weights[f"{embedders}.timestep_embedder.linear_1.weight"].std()) == pytest.approx(
        0.02, rel=0.05
    )
    assert not weights[f"{block}.norm1.linear.weight"].any()
    assert not weights[f"{block}.ff.net.2.bias"].any()


def test_the_same_seed_builds_the_same_network(trained: Trained) -> None:
    config = DiTConfig(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(DiT(config, trained).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_missing_label_is_the_null_label(build: Build, level: Level) -> None:
    network, z = build().double(), latent()
    silent = network(z, level(400.0), {}).prediction
    null = network(z, level(400.0), {"class_label": torch.tensor([9, 9, 9])}).prediction
    first = network(z, level(400.0), {"class_label": torch.tensor([0, 0, 0])}).prediction
    torch.testing.assert_close(silent, null, rtol=0, atol=1e-12)
    assert (silent - first).abs().max() > 1e-2


def test_levels_of_single_samples_equal_calls_at_one_level(build: Build, level: Level) -> None:
    network, z, label = build().double(), latent(), torch.tensor([4, 9, 0])
    together = network(z, level(0.0, 321.5, 999.0), {"class_label": label}).prediction
    for index, time in enumerate([0.0, 321.5, 999.0]):
        alone = network(z, level(time), {"class_label": label}).prediction[index]
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch(build: Build, level: Level) -> None:
    network, z, label = build().double(), latent(), torch.tensor([4, 9, 0])
    together = network(z, level(250.0), {"class_label": label}).prediction
    for index in range(3):
        one = slice(index, index + 1)
        alone = network(z[one], level(250.0), {"class_label": label[one]}).prediction
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)


def test_the_second_half_of_doubled_channels_is_the_variance(build: Build, level: Level) -> None:
    single, double = build().double(), build(out_channels=8).double()
    assert single(latent(), level(10.0), {}).variance is None
    output = double(latent(), level(10.0), {})
    assert output.variance is not None
    assert output.prediction.shape == output.variance.shape == (3, 4, 8, 8)
    assert not torch.allclose(output.prediction, output.variance)


def test_every_parameter_gets_a_finite_gradient_and_all_but_key_biases_one_that_is_not_zero(
    build: Build, level: Level
) -> None:
    network = build(out_channels=8, norm_elementwise_affine=True).train().double()
    output = network(latent(), level(100.0, 500.0, 900.0), {"class_label": torch.tensor([0, 4, 9])})
    assert output.variance is not None
    (output.prediction.square().mean() + output.variance.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A softmax does not see what is added to all of its logits.
        assert parameter.grad.any() or name.endswith("to_k.bias"), name


def test_built_on_the_meta_device_it_takes_weights_by_assignment(
    build: Build, trained: Trained, level: Level
) -> None:
    network = build()
    with torch.device("meta"):
        hollow = DiT(network.config, trained).eval()
    assert all(parameter.is_meta for parameter in hollow.parameters())
    hollow.load_state_dict(network.state_dict(), assign=True)
    z, label = latent().float(), {"class_label": torch.tensor([0, 4, 9])}
    assert torch.equal(hollow(z, level(77.0), label).prediction, network(z, level(77.0), label).prediction)


def test_a_cast_touches_neither_the_schedule_nor_the_frequencies(build: Build, trained: Trained) -> None:
    network = copy.deepcopy(build()).to(torch.bfloat16)
    assert not any("schedule" in name for name, _ in network.named_modules())
    time = torch.tensor(998.5, dtype=torch.float64)
    fine = network.time_features(time, torch.device("cpu"), torch.float64)
    coarse = network.time_features(time, torch.device("cpu"), torch.bfloat16)
    torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=2**-8)


def test_it_runs_in_bfloat16_near_its_float32_self(build: Build, level: Level) -> None:
    network, z, label = build(), latent().float(), {"class_label": torch.tensor([0, 4, 9])}
    fine = network(z, level(500.0), label).prediction
    coarse = network.to(torch.bfloat16)(z.to(torch.bfloat16), level(500.0), label).prediction
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - fine).norm() / fine.norm() < 0.05


def test_evaluation_draws_no_random_number_and_dropout_needs_training(build: Build, level: Level) -> None:
    network, z = build(dropout=0.5).double(), latent()
    state = torch.get_rng_state()
    first = network(z, level(500.0), {}).prediction
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(network.train()(z, level(500.0), {}).prediction, first)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_time_features_are_cosines_and_sines_at_geometric_frequencies(shift: float) -> None:
    time = torch.tensor([0.0, 1.0, 640.25, 999.0], dtype=torch.float64)
    angle = time[:, None] * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / (128 - shift))
    expected = torch.cat([angle.cos(), angle.sin()], dim=1)
    got = TimeFeatures(shift)(time, torch.device("cpu"), torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


def test_the_two_conventions_of_time_features_are_far_apart() -> None:
    diffusers, original = TimeFeatures(1.0), TimeFeatures(0.0)
    for time, distance in [(100.0, 0.13), (500.0, 0.61), (999.0, 1.01)]:
        one, other = (
            features(torch.tensor(time, dtype=torch.float64), torch.device("cpu"), torch.float64)
            for features in (diffusers, original)
        )
        assert float((one - other).norm() / one.norm()) == pytest.approx(distance, abs=0.01)


def test_the_config_chooses_the_convention(build: Build, level: Level) -> None:
    z = latent().float()
    usual, original = build(), build(_time_freq_shift=0.0)
    assert torch.equal(usual(z, level(0.0), {}).prediction, original(z, level(0.0), {}).prediction)
    assert not torch.allclose(usual(z, level(500.0), {}).prediction, original(z, level(500.0), {}).prediction)


def test_without_attention_each_patch_of_an_oblong_latent_answers_for_itself(
    build: Build, level: Level
) -> None:
    network = build().double()
    for index in range(network.config.num_layers):
        torch.nn.init.zeros_(network.get_parameter(f"transformer_blocks.{index}.attn1.to_v.weight"))
    z = latent(1, height=4, width=10)
    before = network(z, level(200.0), {}).prediction
    z[:, :, 2:4, 6:8] += 1.0
    changed = (network(z, level(200.0), {}).prediction - before).abs().amax(dim=(0, 1)) > 1e-9
    expected = torch.zeros(4, 10, dtype=torch.bool)
    expected[2:4, 6:8] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 4, 7, 8), (1, 4, 8, 9)])
def test_a_latent_that_does_not_fit_is_refused(build: Build, level: Level, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ContractError, match="expected 4 channels and sides that are multiples of the patch size 2"
    ):
        build()(torch.zeros(shape), level(1.0), {})
