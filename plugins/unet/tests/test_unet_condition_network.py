"""What the conditional UNet does, beside agreeing with diffusers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_unet import UNetCondition, UNetConditionConfig
from torch import Tensor, nn

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import Conditioning, LatentSpace, NoiseLevel, Trained

Level = Callable[..., NoiseLevel]
Make = Callable[..., UNetCondition]

SMALL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 30,
}
RESNETS = {
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
}


def floats(*shape: int | None, optional: bool = False) -> Conditioning:
    return Conditioning(shape=shape, dtype=torch.float32, optional=optional)


TEXT = {
    "text_embedding": floats(None, 6),
    "text_mask": Conditioning(shape=(None,), dtype=torch.bool, optional=True),
}


def normal(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(network: UNetCondition, batch: int = 3) -> dict[str, Tensor]:
    """Every condition, none of them constant over the batch; all tokens are read."""
    values = {}
    for index, (name, kind) in enumerate(network.conditioning.items()):
        shape = (batch, *(size or 5 for size in kind.shape))
        if name == "text_mask":
            values[name] = torch.ones(shape, dtype=torch.bool)
        elif kind.classes is not None:
            values[name] = torch.arange(batch) % kind.classes
        else:
            values[name] = normal(*shape, seed=index)
    return values


@pytest.fixture
def make(trained: Trained) -> Make:
    """A small network in evaluation mode, float64, every parameter drawn anew; keywords go to its config."""

    def build(**config: object) -> UNetCondition:
        network = UNetCondition(UNetConditionConfig.model_validate(SMALL | config), trained).eval().double()
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            std = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            with torch.no_grad():
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return network

    return build


def test_it_says_what_it_is(trained: Trained, make: Make) -> None:
    network = make()
    assert network.prediction is trained.prediction
    assert network.training_schedule is trained.schedule
    assert network.latent_space == LatentSpace(channels=4, stride=1)
    assert (network.size_multiple, network.latent_size) == (1, None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, TEXT),
        ({"encoder_hid_dim": 9}, TEXT | {"text_embedding": floats(None, 9)}),
        (XL, TEXT | {"pooled_text_embedding": floats(6), "size_and_crop": floats(6)}),
        (
            XL | {"_size_numbers": 5},
            TEXT | {"pooled_text_embedding": floats(10), "size_and_crop": floats(5)},
        ),
        ({"time_cond_proj_dim": 7}, TEXT | {"guidance_embedding": floats(7, optional=True)}),
        (
            {"num_class_embeds": 5, "_null_class": 4},
            TEXT | {"class_label": Conditioning(classes=4, null=4)},
        ),
        ({"num_class_embeds": 5}, TEXT | {"class_label": Conditioning(classes=5)}),
        ({"class_embed_type": "timestep"}, TEXT | {"class_label": floats()}),
        ({"class_embed_type": "identity"}, TEXT | {"class_embedding": floats(32)}),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 3},
            TEXT | {"class_embedding": floats(3)},
        ),
        (
            {
                "down_block_types": ("DownBlock2D",) * 2,
                "up_block_types": ("UpBlock2D",) * 2,
                "mid_block_type": None,
            },
            {},
        ),
        (
            {
                "down_block_types": ("DownBlock2D",) * 2,
                "up_block_types": ("UpBlock2D",) * 2,
                "mid_block_type": None,
                "addition_embed_type": "text",
                "addition_embed_type_num_heads": 2,
            },
            {"text_embedding": floats(None, 6)},
        ),
    ],
    ids=str,
)
def test_its_conditioning_follows_from_its_config(
    make: Make, config: dict[str, object], expected: dict[str, Conditioning]
) -> None:
    assert make(**config).conditioning == expected


@pytest.mark.parametrize("lacking", ["text_embedding", "pooled_text_embedding", "size_and_crop"])
def test_a_condition_that_is_missing_is_named(make: Make, level: Level, lacking: str) -> None:
    network = make(**XL)
    condition = given(network)
    del condition[lacking]
    with pytest.raises(ContractError, match=f"needs the condition '{lacking}'"):
        network(normal(3, 4, 8, 8), level(10.0), condition)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("text_embedding", (3, 5, 7)),
        ("text_embedding", (3, 6)),
        ("text_embedding", (2, 5, 6)),
        ("size_and_crop", (3, 5)),
        ("pooled_text_embedding", (3, 7)),
        ("text_mask", (3, 1, 5)),
    ],
)
def test_a_condition_of_another_shape_is_refused_with_both_shapes(
    make: Make, level: Level, name: str, shape: tuple[int, ...]
) -> None:
    network = make(**XL)
    condition = given(network) | {name: torch.ones(shape)}
    with pytest.raises(ContractError, match=rf"'{name}' has shape \{list(shape)}.*expects \[1 or 3"):
        network(normal(3, 4, 8, 8), level(10.0), condition)


def test_without_a_mask_every_token_is_read_and_a_masked_one_never(make: Make, level: Level) -> None:
    for config in ({}, RESNETS, RESNETS | {"only_cross_attention": True}):
        network, z = make(**config), normal(3, 4, 8, 8)
        condition = given(network)
        full = network(z, level(10.0), condition).prediction
        unmasked = {"text_embedding": condition["text_embedding"]}
        torch.testing.assert_close(network(z, level(10.0), unmasked).prediction, full, rtol=0, atol=1e-12)
        condition["text_mask"][:, 3:] = False
        masked = network(z, level(10.0), condition).prediction
        condition["text_embedding"][:, 3:] = 99.0
        assert torch.equal(network(z, level(10.0), condition).prediction, masked)
        assert (masked - full).abs().max() > 1e-3
        shorter = {"text_embedding": condition["text_embedding"][:, :3]}
        torch.testing.assert_close(network(z, level(10.0), shorter).prediction, masked, rtol=0, atol=1e-12)


def test_a_text_without_a_token_to_read_gives_finite_numbers(make: Make, level: Level) -> None:
    network = make()
    condition = given(network)
    condition["text_mask"][1] = False
    assert network(normal(3, 4, 8, 8), level(10.0), condition).prediction.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        XL,
        RESNETS,
        {"num_class_embeds": 4, "class_embeddings_concat": True, "time_cond_proj_dim": 3},
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 2, "encoder_hid_dim": 4},
    ],
    ids=str,
)
def test_one_condition_serves_a_whole_batch(make: Make, level: Level, config: dict[str, object]) -> None:
    network, z = make(**config), normal(3, 4, 8, 8)
    one = given(network, batch=1)
    repeated = {name: value.expand(3, *value.shape[1:]) for name, value in one.items()}
    for at in (level(10.0), level(10.0, 500.0, 999.0)):
        torch.testing.assert_close(
            network(z, at, one).prediction, network(z, at, repeated).prediction, rtol=0, atol=1e-12
        )


def test_every_number_of_the_sizes_matters_and_is_not_rounded(make: Make, level: Level) -> None:
    network = make(**XL)
    z, condition = normal(3, 4, 8, 8), given(network)
    condition["size_and_crop"] = torch.full((3, 6), 1000.0, dtype=torch.float64)
    before = network(z, level(10.0), condition).prediction
    for index in range(6):
        sizes = condition["size_and_crop"].clone()
        sizes[:, index] += 1
        after = network(z, level(10.0), condition | {"size_and_crop": sizes}).prediction
        assert (after - before).abs().max() > 1e-4
    # bfloat16 does not tell 1000 from 1001.
    network, z = network.to(torch.bfloat16), z.to(torch.bfloat16)
    before = network(z, level(10.0), condition).prediction
    assert not torch.equal(network(z, level(10.0), condition | {"size_and_crop": sizes}).prediction, before)


def test_a_missing_label_is_the_null_label_and_without_one_is_refused(make: Make, level: Level) -> None:
    network, z = make(num_class_embeds=4, _null_class=3), normal(3, 4, 8, 8)
    text = {"text_embedding": normal(3, 5, 6)}
    silent = network(z, level(10.0), text).prediction
    null = network(z, level(10.0), text | {"class_label": torch.tensor([3, 3, 3])}).prediction
    torch.testing.assert_close(silent, null, rtol=0, atol=1e-12)
    with pytest.raises(ContractError, match="needs the condition 'class_label'"):
        make(num_class_embeds=4)(z, level(10.0), text)


@pytest.mark.parametrize("height", [1, 5, 7, 8])
@pytest.mark.parametrize("config", [{}, {"use_linear_projection": True}], ids=str)
def test_any_size_keeps_its_shape(make: Make, level: Level, height: int, config: dict[str, object]) -> None:
    network = make(**config)
    z = normal(2, 4, height, 9)
    assert network(z, level(10.0), given(network, 2)).prediction.shape == z.shape


def test_odd_sizes_work_with_blocks_that_diffusers_cannot_enlarge_so(make: Make, level: Level) -> None:
    network = make(**RESNETS)
    z = normal(2, 4, 5, 7)
    assert network(z, level(10.0), given(network, 2)).prediction.shape == z.shape


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({}, (3, 3, 8, 8), "expected 4 channels and sides of at least 1"),
        (RESNETS, (3, 4, 1, 8), "a latent of 4 x 1 x 8; expected 4 channels and sides of at least 2"),
        ({"downsample_padding": 0}, (3, 4, 8, 1), "sides of at least 2"),
    ],
    ids=str,
)
def test_a_latent_that_does_not_fit_is_refused(
    make: Make, level: Level, config: dict[str, object], shape: tuple[int, ...], message: str
) -> None:
    network = make(**config)
    with pytest.raises(ContractError, match=message):
        network(normal(*shape), level(10.0), given(network))


def test_a_fresh_network_puts_out_exactly_zero(trained: Trained, level: Level) -> None:
    for config in (SMALL, SMALL | RESNETS):
        network = UNetCondition(UNetConditionConfig.model_validate(config), trained)
        z = normal(3, 4, 8, 8).float()
        assert torch.equal(network(z, level(300.0), given(network)).prediction, torch.zeros_like(z))


def test_a_fresh_branch_adds_nothing(trained: Trained, level: Level) -> None:
    network = UNetCondition(UNetConditionConfig.model_validate(SMALL), trained)
    attention, context = network.down_blocks[0].attentions[0], []
    attention.register_forward_pre_hook(lambda module, inputs: context.append(inputs))
    network(normal(3, 4, 8, 8).float(), level(300.0), given(network))
    assert torch.equal(attention(*context[0]), context[0][0])


@pytest.mark.parametrize(
    "config",
    [
        XL,
        RESNETS | {"out_channels": 8, "resnet_skip_time_act": True},
        {"num_class_embeds": 3, "encoder_hid_dim": 4, "time_embedding_type": "fourier"},
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 2, "time_cond_proj_dim": 3},
    ],
    ids=str,
)
def test_every_trained_parameter_gets_a_finite_gradient_and_all_but_key_biases_one_that_is_not_zero(
    make: Make, level: Level, config: dict[str, object]
) -> None:
    network = make(**config).train()
    output = network(normal(3, 4, 8, 8), level(100.0, 500.0, 900.0), given(network))
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
        blind = ("to_k.bias", "pool.k_proj.bias")
        assert parameter.grad.any() or name.endswith(blind), name


def test_built_on_the_meta_device_it_takes_weights_by_assignment(
    make: Make, trained: Trained, level: Level
) -> None:
    network = make(**XL)
    with torch.device("meta"):
        hollow = UNetCondition(network.config, trained).eval()
    assert all(parameter.is_meta for parameter in hollow.parameters())
    hollow.load_state_dict(network.state_dict(), assign=True)
    z, condition = normal(3, 4, 8, 8), given(network)
    before, after = (model(z, level(77.0), condition).prediction for model in (network, hollow))
    assert torch.equal(before, after)


def test_it_runs_in_bfloat16_near_its_float64_self(make: Make, level: Level) -> None:
    network, z = make(**XL), normal(3, 4, 8, 8)
    fine = network(z, level(500.0), given(network)).prediction
    coarse = network.to(torch.bfloat16)(z.to(torch.bfloat16), level(500.0), given(network)).prediction
    assert coarse.dtype == torch.bfloat16
    assert (coarse.double() - fine).norm() / fine.norm() < 0.05


def test_channels_last_gives_the_same_numbers(make: Make, level: Level) -> None:
    for config in ({}, {"use_linear_projection": True}, RESNETS):
        network, z = make(**config), normal(3, 4, 8, 8)
        condition = given(network)
        usual = network(z, level(500.0), condition).prediction
        network.to(memory_format=torch.channels_last)
        last = network(z.contiguous(memory_format=torch.channels_last), level(500.0), condition).prediction
        torch.testing.assert_close(last, usual, rtol=0, atol=1e-12)


def test_dropout_is_for_training_alone(make: Make, level: Level) -> None:
    network, z = make(dropout=0.5), normal(3, 4, 8, 8)
    condition = given(network)
    calm = network(z, level(10.0), condition).prediction
    assert torch.equal(network(z, level(10.0), condition).prediction, calm)
    assert not torch.equal(network.train()(z, level(10.0), condition).prediction, calm)
    assert all(module.p == 0.5 for module in network.modules() if isinstance(module, nn.Dropout))
