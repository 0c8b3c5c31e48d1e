"""Tensors of single files that are no weights of a pipeline: the explicit list, and nothing besides."""

from __future__ import annotations

import re

_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
    "lvlb_weights",
    "cond_ids",
    "denoiser.sigmas",
    "global_step",
    "scale_factor",
    "v_pred",
    "ztsnr",
)
PATTERNS = (
    # Buffers that training computes from its config.
    rf"(?:model\.)?(?:{'|'.join(map(re.escape, _SCHEDULE))})",
    # Averages of the weights, under names without dots, of the whole and of the first stage.
    r"(?:first_stage_model\.)?model_ema\..+",
    # Loss networks of the first stage: LPIPS and the discriminator.
    r"(?:first_stage_model\.)?loss\..+",
    r"(?:first_stage_model\.)?colorize",
    # Positions 0, 1, 2, ... and the causal mask: constants of the text encoders.
    r"(?:cond_stage_model|conditioner\.embedders\.\d)\..*position_ids",
    r"(?:cond_stage_model|conditioner\.embedders\.\d)\.model\.attn_mask",
    # The head with which CLIP compares texts and images.
    r"(?:cond_stage_model|conditioner\.embedders\.\d)\.(?:model\.|transformer\.)?logit_scale",
    # SDXL projects its second encoder only, whose projection the table names before this list is asked.
    r"(?:cond_stage_model|conditioner\.embedders\.0)\.transformer\.text_projection(?:\.weight)?",
    # Usage counters of codebooks.
    r"(?:first_stage_model\.)?quantize\.(?:embed_prob|used)",
)
_PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS))


def is_ignored(name: str) -> bool:
    """Whether a tensor is known to hold nothing that a pipeline needs."""
    return _PATTERN.fullmatch(name) is not None
