"""Configs that diffusers' older `Transformer2DModel` wrote, and real models on the meta device."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ldm_dit import DiT, DiTConfig, PixArt, PixArtConfig
from torch import Tensor

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import NoiseLevel, Trained

diffusers = pytest.importorskip("diffusers")

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "in_channels": 4,
    "num_layers": 2,
    "attention_bias": True,
    "sample_size": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 9,
    "norm_elementwise_affine": False,
}
DIT = SMALL | {"norm_type": "ada_norm_zero"}
PIXART = SMALL | {
    "norm_type": "ada_norm_single",
    "out_channels": 8,
    "cross_attention_dim": 12,
    "caption_channels": 7,
    "norm_eps": 1e-6,
}
DIT_XL_2_256 = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
PIXART_ALPHA_XL_2_1024 = DIT_XL_2_256 | {
    "attention_type": "default",
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "double_self_attention": False,
    "norm_eps": 1e-6,
    "norm_type": "ada_norm_single",
    "sample_size": 128,
}


def stored(model: Any) -> dict[str, Any]:
    """What the model's `config.json` says, without the notes."""
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


@pytest.mark.filterwarnings("ignore:`Transformer2DModelOutput` is deprecated:FutureWarning")
@pytest.mark.usefixtures("exact_time_features")
def test_a_dit_of_the_older_class_gives_its_numbers(
    trained: Trained, level: Callable[..., NoiseLevel], randomise: Callable[..., None]
) -> None:
    older = diffusers.Transformer2DModel(**DIT).eval()
    randomise(older)
    network = DiT(DiTConfig.model_validate(DiT.adopt_config(stored(older))), trained).eval()
    network.load_state_dict(older.state_dict())
    z, label = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor([0, 9])
    with torch.no_grad():
        got = network.double()(z, level(640.0), {"class_label": label}).prediction
        time = torch.tensor([640.0, 640.0], dtype=torch.float64)
        expected = older.double()(z, timestep=time, class_labels=label).sample
    assert (got - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:`Transformer2DModelOutput` is deprecated:FutureWarning")
@pytest.mark.usefixtures("exact_time_features")
def test_a_pixart_of_the_older_class_gives_its_numbers(
    trained: Trained,
    level: Callable[..., NoiseLevel],
    randomise: Callable[..., None],
    read: Callable[[PixArt, int], dict[str, Tensor]],
) -> None:
    older = diffusers.Transformer2DModel(**PIXART).eval()
    randomise(older)
    network = PixArt(PixArtConfig.model_validate(PixArt.adopt_config(stored(older))), trained).eval()
    network.load_state_dict(older.state_dict())
    z, condition = torch.randn(2, 4, 8, 8, dtype=torch.float64), read(network, 2)
    with torch.no_grad():
        output = network.double()(z, level(640.0), condition)
        expected = older.double()(
            z,
            condition["text_embedding"].double(),
            timestep=torch.tensor([640.0, 640.0], dtype=torch.float64),
            encoder_attention_mask=condition["text_mask"],
        ).sample
    assert output.variance is not None
    got = torch.cat([output.prediction, output.variance], dim=1)
    assert (got - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.parametrize("component", [DiT, PixArt])
def test_every_key_of_the_older_class_is_known(component: type[DiT | PixArt]) -> None:
    values = stored(diffusers.Transformer2DModel(**(DIT if component is DiT else PIXART)))
    assert values.keys() == set(inspect.signature(diffusers.Transformer2DModel.__init__).parameters) - {
        "self"
    }
    config = component.Config.model_validate(component.adopt_config(values))
    kept = config.model_dump()
    assert all(kept[key] == value for key, value in values.items() if key in kept)


@pytest.mark.parametrize(
    ("component", "wrong"),
    [
        (
            DiT,
            {
                "num_vector_embeds": 100,
                "cross_attention_dim": 12,
                "only_cross_attention": True,
                "double_self_attention": True,
                "attention_type": "gated",
                "caption_channels": 7,
                "use_additional_conditions": True,
                "interpolation_scale": 2,
            },
        ),
        (PixArt, {"num_vector_embeds": 100, "only_cross_attention": True, "double_self_attention": True}),
    ],
)
def test_options_of_the_older_class_that_are_not_built_are_refused_by_key_and_value(
    component: type[DiT | PixArt], wrong: dict[str, object]
) -> None:
    with pytest.raises(SpecError, match=f"denoiser '{component.name}' cannot honour") as refusal:
        component.adopt_config(wrong)
    assert sorted(problem.split(", ")[0] for problem in refusal.value.problems) == sorted(
        f"{key} is {value!r}" for key, value in wrong.items()
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "values", "parameters"),
    [
        ("DiTTransformer2DModel", DiT, DIT_XL_2_256, 750e6),
        ("PixArtTransformer2DModel", PixArt, PIXART_ALPHA_XL_2_1024, 611e6),
    ],
)
def test_published_models_have_the_tensors_of_diffusers(
    theirs: str, ours: type[DiT | PixArt], values: dict[str, Any], parameters: float, trained: Trained
) -> None:
    known = inspect.signature(getattr(diffusers, theirs).__init__).parameters
    with torch.device("meta"):
        expected = getattr(diffusers, theirs)(**{key: value for key, value in values.items() if key in known})
        network = ours(ours.Config.model_validate(ours.adopt_config(values)), trained)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in expected.state_dict().items()}
    assert sum(shape.numel() for shape in shapes.values()) == pytest.approx(parameters, rel=0.05)
