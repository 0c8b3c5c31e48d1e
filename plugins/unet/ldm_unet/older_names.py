"""The names that the first versions of diffusers wrote, for config keys, block types and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLDER_KEYS = {
    "image_size": "sample_size",
    "num_res_blocks": "layers_per_block",
    "block_channels": "block_out_channels",
    "down_blocks": "down_block_types",
    "up_blocks": "up_block_types",
    "downscale_freq_shift": "freq_shift",
    "resnet_num_groups": "norm_num_groups",
    "resnet_act_fn": "act_fn",
    "resnet_eps": "norm_eps",
    "num_head_channels": "attention_head_dim",
}
OLDER_TENSORS = (
    (r"^time_steps\.", "time_proj."),
    (r"^downsample_blocks\.", "down_blocks."),
    (r"^mid\.", "mid_block."),
    (r"^upsample_blocks\.", "up_blocks."),
    (r"\.query\.(weight|bias)$", r".to_q.\1"),
    (r"\.key\.(weight|bias)$", r".to_k.\1"),
    (r"\.value\.(weight|bias)$", r".to_v.\1"),
    (r"\.proj_attn\.(weight|bias)$", r".to_out.0.\1"),
)
_BLOCK_TYPES = ("down_block_types", "up_block_types")
_RESAMPLINGS = ("downsample_type", "upsample_type")


def modernised(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config in today's words.

    Block types lose the prefix `UNetRes`, activations their capitals, and a resampling of null is the default, as
    diffusers reads them. A key that is there in both its names stays in both, and so is refused as unknown.

    Args:
        values: As stored.
    """
    adopted = {
        OLDER_KEYS[key] if key in OLDER_KEYS and OLDER_KEYS[key] not in values else key: value
        for key, value in values.items()
        if key not in _RESAMPLINGS or value is not None
    }
    for key in _BLOCK_TYPES:
        if isinstance(adopted.get(key), list | tuple):
            adopted[key] = [
                word.removeprefix("UNetRes") if isinstance(word, str) else word for word in adopted[key]
            ]
    if isinstance(adopted.get("act_fn"), str):
        adopted["act_fn"] = adopted["act_fn"].lower()
    return adopted
