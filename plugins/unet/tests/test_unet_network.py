"""What the network does, beside agreeing with diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from ldm_unet import UNet, UNetConfig, register_components
from ldm_unet.embedding import LearnedTimes, Sinusoids

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Conditioning, LatentSpace, NoiseLevel, Trained
from ldm_registry.testing import ComponentSuite
from ldm_registry.vocabulary import Prediction

Build = Callable[..., UNet]
Level = Callable[..., NoiseLevel]


class TestConformanceOfANetworkThatPaints(ComponentSuite):
    component = UNet
    config = UNetConfig(
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=None,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        num_class_embeds=3,
        null_class=2,
    )
    # A run-time type checker picks the items of a list to look at by Python's random generator.
    skip: ClassVar[dict[str, str]] = {
        "global_state_is_left_alone": "stages take lists, of which beartype checks items at random"
    }


def latent(batch: int = 3, channels: int = 3, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(
        batch, channels, height, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )


def test_it_says_what_it_takes_and_how_it_was_trained(trained: Trained, build: Build) -> None:
    network = build()
    assert network.prediction is Prediction.EPSILON
    assert network.training_schedule is trained.schedule
    assert network.conditioning == {}
    assert network.latent_space == LatentSpace(channels=3, stride=1)
    assert (network.size_multiple, network.latent_size) == (2, None)
    assert UNet in register_components()


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        ({"num_class_embeds": 10, "_null_class": 9}, "class_label", Conditioning(classes=9, null=9)),
        ({"num_class_embeds": 10, "_null_class": 0}, "class_label", Conditioning(classes=10, null=0)),
        ({"num_class_embeds": 10}, "class_label", Conditioning(classes=10, null=None)),
        ({"class_embed_type": "timestep"}, "class_label", Conditioning(dtype=torch.float32)),
        ({"class_embed_type": "identity"}, "class_embedding", Conditioning(shape=(64,), dtype=torch.float32)),
    ],
    ids=str,
)
def test_its_conditioning_follows_from_its_config(
    build: Build, config: dict[str, object], name: str, expected: Conditioning
) -> None:
    assert build(**config).conditioning == {name: expected}


def test_a_fresh_network_puts_out_exactly_zero(trained: Trained, build: Build, level: Level) -> None:
    network = UNet(build().config, trained)
    assert torch.equal(network(latent().float(), level(300.0), {}).prediction, torch.zeros(3, 3, 8, 8))


def test_a_fresh_network_that_paints_puts_out_exactly_zero(
    trained: Trained, build: Build, level: Level
) -> None:
    painting = build(
        down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
    )
    network = UNet(painting.config, trained)
    assert torch.equal(network(latent().float(), level(300.0), {}).prediction, torch.zeros(3, 3, 8, 8))


def test_the_same_seed_builds_the_same_network(trained: Trained, build: Build) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(UNet(build().config, trained).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_missing_label_is_the_null_label(build: Build, level: Level) -> None:
    network, z = build(num_class_embeds=10, _null_class=9).double(), latent()
    silent = network(z, level(400.0), {}).prediction
    null = network(z, level(400.0), {"class_label": torch.tensor([9, 9, 9])}).prediction
    first = network(z, level(400.0), {"class_label": torch.tensor([0, 0, 0])}).prediction
    torch.testing.assert_close(silent, null, rtol=0, atol=1e-12)
    assert (silent - first).abs().max() > 1e-2


@pytest.mark.parametrize(
    "config",
    [{"num_class_embeds": 10}, {"class_embed_type": "timestep"}, {"class_embed_type": "identity"}],
    ids=str,
)
def test_a_missing_condition_without_a_null_is_refused(
    build: Build, level: Level, config: dict[str, object]
) -> None:
    with pytest.raises(ContractError, match="knows no label for 'no class'"):
        build(**config)(latent().float(), level(1.0), {})


TIME_KINDS = [
    {},
    {"time_embedding_type": "fourier"},
    {"time_embedding_type": "learned", "num_train_timesteps": 1000},
]


@pytest.mark.parametrize("config", TIME_KINDS, ids=str)
def test_levels_of_single_samples_equal_calls_at_one_level(
    build: Build, level: Level, config: dict[str, object]
) -> None:
    network, z = build(num_class_embeds=4, **config).double(), latent()
    label = torch.tensor([3, 0, 1])
    together = network(z, level(2.0, 321.5, 999.0), {"class_label": label}).prediction
    for index, time in enumerate([2.0, 321.5, 999.0]):
        alone = network(z, level(time), {"class_label": label}).prediction[index]
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch(build: Build, level: Level) -> None:
    network, z, label = build(num_class_embeds=4).double(), latent(), torch.tensor([3, 0, 1])
    together = network(z, level(250.0), {"class_label": label}).prediction
    for index in range(3):
        one = slice(index, index + 1)
        alone = network(z[one], level(250.0), {"class_label": label[one]}).prediction
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)


def test_the_second_half_of_doubled_channels_is_the_variance(build: Build, level: Level) -> None:
    assert build()(latent().float(), level(10.0), {}).variance is None
    output = build(out_channels=6)(latent().float(), level(10.0), {})
    assert output.variance is not None
    assert output.prediction.shape == output.variance.shape == (3, 3, 8, 8)
    assert not torch.allclose(output.prediction, output.variance)


@pytest.mark.parametrize(
    "config",
    [
        {"out_channels": 6, "num_class_embeds": 3},
        {"time_embedding_type": "fourier", "downsample_type": "resnet", "upsample_type": "resnet"},
        {"resnet_time_scale_shift": "scale_shift", "class_embed_type": "timestep"},
    ],
    ids=str,
)
def test_every_trained_parameter_gets_a_finite_gradient_and_all_but_key_biases_one_that_is_not_zero(
    build: Build, level: Level, config: dict[str, object]
) -> None:
    network = build(**config).train().double()
    condition = {"class_label": torch.tensor([0, 1, 2])} if network.conditioning else {}
    output = network(latent(), level(100.0, 500.0, 900.0), condition)
    loss = output.prediction.square().mean()
    if output.variance is not None:
        loss = loss + output.variance.square().mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert name == "time_proj.weight", "only the random frequencies are fixed"
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A softmax does not see what is added to all of its logits.
        assert parameter.grad.any() or name.endswith("to_k.bias"), name


@pytest.mark.parametrize("config", TIME_KINDS, ids=str)
def test_built_on_the_meta_device_it_takes_weights_by_assignment(
    build: Build, trained: Trained, level: Level, config: dict[str, object]
) -> None:
    network = build(**config)
    with torch.device("meta"):
        hollow = UNet(network.config, trained).eval()
    assert all(parameter.is_meta for parameter in hollow.parameters())
    hollow.load_state_dict(network.state_dict(), assign=True)
    z = latent().float()
    assert torch.equal(hollow(z, level(77.0), {}).prediction, network(z, level(77.0), {}).prediction)


def test_a_cast_touches_neither_the_schedule_nor_the_frequencies(build: Build) -> None:
    network = build().to(torch.bfloat16)
    assert not any("schedule" in name for name, _ in network.named_modules())
    time = torch.tensor([998.5], dtype=torch.float64)
    fine = network.time_proj(time, torch.empty(0, dtype=torch.float64))
    coarse = network.time_proj(time, torch.empty(0, dtype=torch.bfloat16))
    torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=2**-8)


def test_it_runs_in_bfloat16_near_its_float32_self(build: Build, level: Level) -> None:
    network, z = build(), latent().float()
    fine = network(z, level(500.0), {}).prediction
    coarse = network.to(torch.bfloat16)(z.to(torch.bfloat16), level(500.0), {}).prediction
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - fine).norm() / fine.norm() < 0.05


def test_channels_last_gives_the_same_numbers_and_keeps_the_layout(build: Build, level: Level) -> None:
    network, z = build().double(), latent()
    usual = network(z, level(500.0), {}).prediction
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    last = network(z.contiguous(memory_format=torch.channels_last), level(500.0), {})
    assert last.prediction.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.prediction, usual, rtol=0, atol=1e-12)


def test_evaluation_draws_no_random_number_and_dropout_needs_training(build: Build, level: Level) -> None:
    network, z = build(dropout=0.5).double(), latent()
    state = torch.get_rng_state()
    first = network(z, level(500.0), {}).prediction
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(network.train()(z, level(500.0), {}).prediction, first)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("channels", [16, 17])
def test_sinusoids_have_geometric_frequencies(shift: int, channels: int) -> None:
    time = torch.tensor([0.0, 1.0, 640.25, 999.0], dtype=torch.float64)
    angle = time[:, None] * 10_000.0 ** (-torch.arange(8, dtype=torch.float64) / (8 - shift))
    got = Sinusoids(channels, shift, flip_sin_to_cos=False)(time, time)
    assert got.shape == (4, channels)
    torch.testing.assert_close(got[:, :16], torch.cat([angle.sin(), angle.cos()], dim=1), rtol=0, atol=1e-11)
    assert not got[:, 16:].any()


def test_learned_times_are_exact_at_steps_and_interpolated_between() -> None:
    table = LearnedTimes(5, 4).requires_grad_(False)
    rows = table(torch.tensor([0.0, 4.0, 9.0, 2.25], dtype=torch.float64), table.weight)
    assert torch.equal(rows[:3], table.weight[[0, 4, 4]])
    torch.testing.assert_close(rows[3], 0.75 * table.weight[2] + 0.25 * table.weight[3])


def test_an_oblong_latent_keeps_its_shape_and_mirrors_with_a_mirrored_network(
    build: Build, level: Level
) -> None:
    network, z = build().double(), latent(height=4, width=10)
    upright = network(z, level(200.0), {}).prediction
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.transpose(2, 3)
    turned = network(z.transpose(2, 3), level(200.0), {}).prediction
    torch.testing.assert_close(turned, upright.transpose(2, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 3, 7, 8), (1, 3, 8, 9)])
def test_a_latent_that_does_not_fit_is_refused(build: Build, level: Level, shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="expected 3 channels and sides that are multiples of 2"):
        build()(torch.zeros(shape), level(1.0), {})
