"""The conditional UNet does what the interface promises, in the shapes of Stable Diffusion and of SDXL."""

from __future__ import annotations

from ldm_unet import UNetCondition, UNetConditionConfig

from ldm_registry.testing import ComponentSuite

SMALL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}

# Where types are checked at run time, the checks ask Python's generator which item of a list to look at.
CHECKED = hasattr(UNetCondition.forward, "__wrapped__")
SKIP = {"global_state_is_left_alone": "run-time checks of types draw random numbers"} if CHECKED else {}


class TestLikeStableDiffusion(ComponentSuite):
    component = UNetCondition
    skip = SKIP
    config = UNetConditionConfig.model_validate(SMALL)


class TestLikeStableDiffusionXL(ComponentSuite):
    component = UNetCondition
    skip = SKIP
    config = UNetConditionConfig.model_validate(
        SMALL
        | {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 30,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "upcast_attention": None,
        }
    )


class TestWithClassesAndVariance(ComponentSuite):
    component = UNetCondition
    skip = SKIP
    config = UNetConditionConfig.model_validate(
        SMALL
        | {
            "out_channels": 8,
            "num_class_embeds": 4,
            "_null_class": 3,
            "time_embedding_type": "fourier",
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        }
    )
