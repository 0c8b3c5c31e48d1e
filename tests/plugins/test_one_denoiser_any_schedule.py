"""A denoiser owns how it was trained; the units in which a sampler counts noise do not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldm_registry.assembly import assemble
from ldm_registry.pipeline import Stepped
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec

pytestmark = pytest.mark.plugins

REGISTRY = Registry.discover()
LOG_SNRS = tuple(torch.linspace(-5.0, 5.0, 9, dtype=torch.float64).tolist())
SCHEDULES = ("vp", "ve", "rectified_flow")
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 3,
}
DENOISERS: dict[str, dict[str, Any]] = {
    "discrete epsilon unet": {
        "use": "unet",
        "config": UNET,
        "trained": {
            "prediction": "epsilon",
            "schedule": {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        },
    },
    "flow velocity dit": {
        "use": "dit",
        "config": DIT,
        "trained": {"prediction": "velocity", "schedule": {"name": "rectified_flow"}, "time_scale": 1000.0},
    },
    "cosine v dit": {
        "use": "dit",
        "config": DIT,
        "trained": {"prediction": "v", "schedule": {"name": "squaredcos_cap_v2"}},
    },
}


def spec_of(denoiser: dict[str, Any], scheduler: str, schedule: str) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "version": 1,
            "image": {"channels": 4, "size": 8},
            "encoder": {"use": "identity", "config": {"channels": 4}},
            "denoiser": {**denoiser, "dtype": "float64"},
            "scheduler": {
                "use": scheduler,
                "config": {"log_snrs": LOG_SNRS, "sigma_spacing": "none"},
                "schedule": {"name": schedule},
                "dtype": "float64",
            },
            "decoder": {"use": "identity", "config": {"channels": 4}},
            "condition": {"class_label": [0, 2]} if denoiser["use"] == "dit" else {},
        }
    )


@pytest.mark.parametrize("scheduler", REGISTRY.names("scheduler"))
@pytest.mark.parametrize("denoiser", list(DENOISERS))
def test_vp_ve_and_flow_on_one_log_snr_grid_give_the_same_samples(denoiser: str, scheduler: str) -> None:
    paths = {}
    for schedule in SCHEDULES:
        pipe = assemble(spec_of(DENOISERS[denoiser], scheduler, schedule), REGISTRY, init_seed=3)
        randomise(pipe.denoiser)
        steps = [event for event in pipe.trace(2, seed=5) if isinstance(event, Stepped)]
        assert steps[-1].x0.dtype == torch.float64
        paths[schedule] = [*(step.x0 for step in steps), steps[-1].z / steps[-1].level.std]
    for schedule in SCHEDULES[1:]:
        for ours, reference in zip(paths[schedule], paths["vp"], strict=True):
            scale = float(reference.abs().max())
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-10 * scale)
    assert not torch.allclose(paths["vp"][0], paths["vp"][-1])


def randomise(module: torch.nn.Module) -> None:
    """Fresh networks put out zero (adaLN-zero), which would make every path agree."""
    generator = torch.Generator().manual_seed(9)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = noise * 0.3 / max(1.0, parameter[0].numel() ** 0.5)
