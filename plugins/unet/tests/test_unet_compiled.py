"""The networks of this plugin as one graph each: nothing in them makes the compiler give up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ldm_unet import UNet, UNetCondition, UNetConditionConfig

from ldm_registry.interfaces import Condition, Denoiser, NoiseLevel, Trained

Build = Callable[..., UNet]
Level = Callable[..., NoiseLevel]


@pytest.fixture
def conditional(trained: Trained) -> UNetCondition:
    torch.manual_seed(0)
    config = UNetConditionConfig(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
    )
    return UNetCondition(config, trained).eval()


def assert_compiled_is_eager(network: Denoiser, level: NoiseLevel, condition: Condition) -> None:
    torch.compiler.reset()
    z = torch.randn(2, network.latent_space.channels, 32, 32, generator=torch.Generator().manual_seed(1))
    # The backend that runs what was traced as it is: whether it can be traced is the question.
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        eager = network(z, level, condition).prediction
        graph = compiled(z, level, condition).prediction
    assert torch.allclose(graph, eager, rtol=0, atol=1e-5 * float(eager.abs().max()))


@pytest.mark.slow
def test_a_unet_is_one_graph(build: Build, level: Level) -> None:
    assert_compiled_is_eager(build(), level(300.0), {})


@pytest.mark.slow
def test_a_conditional_unet_is_one_graph(conditional: UNetCondition, level: Level) -> None:
    text = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert_compiled_is_eager(conditional, level(300.0), {"text_embedding": text, "text_mask": mask})
