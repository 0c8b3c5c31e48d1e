"""`unet_config` and `first_stage_config` of latent-diffusion in the config keys of diffusers."""

from __future__ import annotations

from typing import Any

from ldm_registry.original.autoencoder import AutoencoderPlan, autoencoder_config
from ldm_registry.original.parameters import Parameters
from ldm_registry.original.unet import GROUPS, UNetPlan, unet_config

HEADLESS = -1
"""What latent-diffusion writes where the other of `num_heads` and `num_head_channels` decides."""


def read_unet(params: Parameters) -> dict[str, Any] | None:
    """The config of an `openaimodel.UNetModel`.

    Args:
        params: Its parameters; what is wrong is added to their problems.

    Returns:
        Of `UNet2DConditionModel`, or of `UNet2DModel` where no text is attended to; None with a problem.
    """
    found = len(params.problems)
    params.inert("use_checkpoint", "use_fp16", "dropout", "legacy", "image_size", "use_bf16")
    _refuse_variants(params)
    text = params.flag("use_spatial_transformer", False)
    channels = params.integer("model_channels") or 0
    widths = tuple(channels * factor for factor in params.integers("channel_mult", (1, 2, 4, 8)) or ())
    layers = params.integers("num_res_blocks") or ()
    attends = params.integers("attention_resolutions", ()) or ()
    depth = params.integers("transformer_depth", (1,)) or ()
    context = params.integers("context_dim")
    linear = params.flag("use_linear_in_transformer", False)
    added = _added(params, context)
    plan = UNetPlan(
        in_channels=params.integer("in_channels") or 0,
        out_channels=params.integer("out_channels") or 0,
        widths=widths,
        layers=layers * len(widths) if len(layers) == 1 else layers,
        depths=tuple(_of_level(depth, level) if 2**level in attends else 0 for level in range(len(widths))),
        middle_depth=depth[-1] if depth else 0,
        context=context[0] if context else 0,
        linear_projection=linear,
        added=added,
        model_channels=channels,
    )
    heads = _heads(params, widths, text)
    params.finish()
    complete = params.require(
        "in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions"
    )
    if text and context is None:
        params.report("context_dim", "is missing; attention to text needs the channels of the text")
    if len(plan.layers) != len(widths):
        params.report("num_res_blocks", f"got {list(layers)}, expected one number, or one for each level")
    if not complete or heads is None or len(params.problems) > found:
        return None
    if text:
        return unet_config(plan, heads if len(heads) > 1 else heads[0])
    return _unconditional(params, plan, heads)


def _of_level(values: tuple[int, ...], level: int) -> int:
    return values[min(level, len(values) - 1)] if values else 0


def _refuse_variants(params: Parameters) -> None:
    for key, allowed in (
        ("dims", (2,)),
        ("conv_resample", (True,)),
        ("use_scale_shift_norm", (False,)),
        ("resblock_updown", (False,)),
        ("use_new_attention_order", (False,)),
        ("num_heads_upsample", (HEADLESS, None)),
        ("n_embed", (None,)),
        ("disable_self_attentions", (None, False)),
        ("disable_middle_self_attn", (False, None)),
        ("num_attention_blocks", (None,)),
        ("spatial_transformer_attn_type", ("softmax", "softmax-xformers")),
    ):
        params.only(key, allowed, f"built is {' or '.join(map(str, allowed))}")


def _added(params: Parameters, context: tuple[int, ...] | None) -> int | None:
    node = params.node("num_classes")
    added = params.integer("adm_in_channels")
    if node is None or node.value is None:
        return None
    if node.value == "sequential" and context is not None and context[0] == 2048 and added:
        return added
    params.report("num_classes", "built is 'sequential' with context_dim 2048, as Stable Diffusion XL has it")
    return None


def _heads(params: Parameters, widths: tuple[int, ...], text: bool) -> tuple[int, ...] | None:
    """Heads for each level, or one number for all."""
    number = params.integer("num_heads", HEADLESS)
    channels = params.integer("num_head_channels", HEADLESS)
    if channels not in (None, HEADLESS):
        assert channels is not None
        if text and any(width % channels and width > channels for width in widths):
            params.report(
                "num_head_channels", f"got {channels}, which does not divide the widths {list(widths)}"
            )
            return None
        return tuple(max(1, width // channels) for width in widths)
    if number in (None, HEADLESS):
        params.report("num_heads", "neither num_heads nor num_head_channels is set")
        return None
    assert number is not None
    return (number,) if text else (number,) * len(widths)


def _unconditional(params: Parameters, plan: UNetPlan, heads: tuple[int, ...]) -> dict[str, Any] | None:
    attending = [index for index, depth in enumerate(plan.depths) if depth]
    # The middle block always attends, at the width of the last level.
    sizes = {plan.widths[index] // heads[index] for index in {*attending, len(heads) - 1}}
    if len(sizes) != 1:
        params.report(
            "num_heads", f"the levels have heads of {sorted(sizes)} channels; UNet2DModel has one number"
        )
        return None
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": True,
        "attention_head_dim": sizes.pop(),
        "block_out_channels": list(plan.widths),
        "center_input_sample": False,
        "down_block_types": ["AttnDownBlock2D" if depth else "DownBlock2D" for depth in plan.depths],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": plan.in_channels,
        "layers_per_block": plan.layers[0],
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": GROUPS,
        "out_channels": plan.out_channels,
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(plan.depths)],
    }


def read_autoencoder(params: Parameters, *, codebook: bool) -> dict[str, Any] | None:
    """The config of an `AutoencoderKL` or a VQ model.

    Args:
        params: Its parameters; what is wrong is added to their problems.
        codebook: Whether it is a VQ model.

    Returns:
        Without its scaling; None with a problem.
    """
    found = len(params.problems)
    params.inert("lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor")
    params.inert("batch_resize_range", "scheduler_config", "lr_g_factor", "use_ema", "sane_index_shape")
    params.only("remap", (None,), "built is a codebook that is used as it is")
    detail = params.block("ddconfig")
    embedding = params.integer("embed_dim") or 0
    number = params.integer("n_embed") if codebook else None
    latent = detail.integer("z_channels") or 0
    resolution = detail.integer("resolution") or 0
    base = detail.integer("ch") or 0
    widths = tuple(base * factor for factor in detail.integers("ch_mult", (1, 2, 4, 8)) or ())
    attends = detail.integers("attn_resolutions", ()) or ()
    detail.inert("dropout")
    detail.only("double_z", (not codebook,), f"this kind of autoencoder has {not codebook}")
    detail.only("attn_type", ("vanilla", "vanilla-xformers"), "built is attention in softmax")
    detail.only("use_linear_attn", (False,), "built is attention in softmax")
    detail.only("resamp_with_conv", (True,), "built is a convolution at every change of resolution")
    detail.only("give_pre_end", (False,), "built is the whole decoder")
    detail.only("tanh_out", (False,), "built is a decoder without tanh")
    plan = AutoencoderPlan(
        in_channels=detail.integer("in_channels") or 0,
        out_channels=detail.integer("out_ch") or 0,
        widths=widths,
        layers=detail.integer("num_res_blocks") or 0,
        attention=tuple(resolution // 2**level in attends for level in range(len(widths))),
        middle_attention=True,
        latent_channels=latent,
        quant_conv=True,
        post_quant_conv=True,
        codes=(number or 0, embedding) if codebook else None,
    )
    detail.finish()
    params.finish()
    params.require("embed_dim", *(("n_embed",) if codebook else ()))
    detail.require("z_channels", "resolution", "in_channels", "out_ch", "ch", "num_res_blocks")
    if not codebook and embedding != latent:
        params.report(
            "embed_dim", f"got {embedding}, expected z_channels ({latent}): AutoencoderKL has one number"
        )
    if len(params.problems) > found:
        return None
    return {**autoencoder_config(plan), "sample_size": resolution}
