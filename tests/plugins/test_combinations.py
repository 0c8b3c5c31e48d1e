"""Every combination of the bundled parts either runs or is refused with its reasons, before memory is taken."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from ldm_registry.assembly import assemble
from ldm_registry.build import Built
from ldm_registry.errors import ContractError
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec

pytestmark = pytest.mark.plugins

CODEC = {
    "latent_channels": 4,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
CODECS: dict[str, dict[str, Any]] = {
    "identity": {"channels": 3},
    "kl-vae": {**CODEC, "scaling_factor": 1.0},
    "vq-vae": {**CODEC, "num_vq_embeddings": 8, "scaling_factor": 1.0},
}
TRAINED = {"prediction": "v", "schedule": {"name": "squaredcos_cap_v2"}}


def denoisers(channels: int, size: int) -> dict[str, dict[str, Any]]:
    """A small denoiser of each name for latents of one shape; the oracles need no weights."""
    dit = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": channels,
        "out_channels": channels,
        "num_layers": 1,
        "sample_size": size,
        "patch_size": 2,
        "num_embeds_ada_norm": 3,
    }
    unet = {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    shape = {"channels": channels, "size": (size, size)}
    return {
        "dit": {"config": dit, "trained": TRAINED},
        "unet": {"config": unet, "trained": TRAINED},
        "gaussian": {"config": shape, "trained": TRAINED},
        "gaussian-mixture": {
            "config": {**shape, "means": (-1.0, 1.0), "stds": (0.5, 0.5)},
            "trained": TRAINED,
        },
        "ideal": {"config": {**shape, "references": 2}, "trained": TRAINED},
    }


LATENT, PIXEL = denoisers(4, 8), denoisers(3, 16)
REGISTRY = Registry.discover()
SCHEDULERS = REGISTRY.names("scheduler")
SEEN_ALWAYS = ("ddim", "flow-euler")
"""Of those; all others take their turn among the slow tests."""


def spec_of(encoder: str, denoiser: tuple[str, dict[str, Any]], scheduler: str, decoder: str) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "version": 1,
            "image": {"channels": 3, "size": 16},
            "encoder": {"use": encoder, "config": CODECS[encoder]},
            "denoiser": {"use": denoiser[0], **denoiser[1]},
            "scheduler": {"use": scheduler, "config": {"steps": 2}},
            "decoder": {"use": decoder, "config": CODECS[decoder]},
        }
    )


@pytest.mark.parametrize(
    "scheduler",
    [pytest.param(name, marks=[] if name in SEEN_ALWAYS else pytest.mark.slow) for name in SCHEDULERS],
)
def test_every_combination_that_fits_runs_and_every_other_is_refused_before_memory_is_taken(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialised = []
    original = Built.materialise
    monkeypatch.setattr(
        Built, "materialise", lambda self, *a, **k: materialised.append(self) or original(self, *a, **k)
    )
    ran = refused = 0
    for encoder, decoder, (space, parts) in product(CODECS, CODECS, (("latent", LATENT), ("pixel", PIXEL))):
        for denoiser in parts.items():
            spec = spec_of(encoder, denoiser, scheduler, decoder)
            expected = _mismatches(encoder, decoder, space)
            materialised.clear()
            if expected:
                with pytest.raises(ContractError) as caught:
                    assemble(spec, REGISTRY, init_seed=0)
                assert not materialised
                assert (
                    len(
                        [
                            text
                            for text in caught.value.problems
                            if "latent channels" in text or "stride" in text
                        ]
                    )
                    == expected
                )
                refused += 1
            else:
                image = assemble(spec, REGISTRY, init_seed=0).sample(1)
                assert image.shape == (1, 3, 16, 16)
                assert bool(image.isfinite().all())
                ran += 1
    # Latent: 2 encoders x 2 decoders x 5 denoisers; pixel: 1 x 1 x 5. In all 3 x 3 x 10 combinations.
    assert (ran, refused) == (25, 65)


def _mismatches(encoder: str, decoder: str, space: str) -> int:
    """How many problems the shapes alone make: channels and stride of the codec, channels of each half."""
    pixel = [name == "identity" for name in (encoder, decoder)]
    between_halves = 2 if pixel[0] != pixel[1] else 0
    with_denoiser = sum(half != (space == "pixel") for half in pixel)
    return between_halves + with_denoiser


def test_all_schedulers_are_there() -> None:
    assert SCHEDULERS == [
        "ddim",
        "ddpm",
        "dpm-multistep",
        "dpmpp-2m",
        "edm-euler",
        "edm-heun",
        "euler",
        "euler-ancestral",
        "flow-euler",
        "flow-heun",
        "heun",
        "lms",
        "pndm",
        "unipc",
    ]


def test_latents_of_a_vq_codec_reach_its_decoder_unquantised() -> None:
    spec = spec_of("vq-vae", ("dit", LATENT["dit"]), "ddim", "vq-vae")
    pipe = assemble(spec, REGISTRY, init_seed=1)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = pipe.encoder.encode(image)
    codes = pipe.decoder.state_dict()["quantize.embedding.weight"]
    cells = latent.permute(0, 2, 3, 1).reshape(-1, 1, 4)
    assert float((cells - codes[None]).norm(dim=2).min()) > 0
