"""Both halves of the autoencoders, against diffusers on the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import networks
import pytest
import torch
from pair import Pair
from race import Race

from ldm_registry.interfaces import Decoder, Encoder

pytestmark = [pytest.mark.benchmark(group="autoencoders, float32"), pytest.mark.plugins]

SCALING = 0.18215
CONFIGS: dict[str, dict[str, Any]] = {
    # The codec of Stable Diffusion 1, and the one of the LDM paper with stride 4.
    "AutoencoderKL": {"widths": (128, 256, 512, 512), "latent_channels": 4},
    "VQModel": {"widths": (128, 256, 512), "latent_channels": 3, "num_vq_embeddings": 8192},
}


@dataclass(frozen=True)
class Codec:
    """An autoencoder on both sides."""

    name: str
    pixels: int
    model: Any
    encoder: Encoder
    decoder: Decoder

    def latent(self) -> torch.Tensor:
        """Something to decode; where there is a codebook so near its entries that rounding chooses no other."""
        cells = self.pixels // self.decoder.latent_space.stride
        channels = self.decoder.latent_space.channels
        if self.name == "AutoencoderKL":
            return networks.noise(1, channels, cells, cells)
        book = self.model.quantize.embedding.weight.detach()
        chosen = torch.randint(len(book), (cells, cells), generator=torch.Generator().manual_seed(0))
        return SCALING * book[chosen].permute(2, 0, 1)[None].contiguous()


@pytest.fixture(scope="module", params=CONFIGS)
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smoke: bool) -> Codec:
    """Each autoencoder in turn."""
    config = {"sample_size": 256, "scaling_factor": SCALING, **CONFIGS[request.param]}
    if smoke:
        config["widths"] = (8, 16)
    model, folder = networks.codec(request.param, **config), tmp_path_factory.mktemp("codec") / "model"
    halves = (networks.ours(kind, model, folder) for kind in ("encoder", "decoder"))
    encoder, decoder = halves
    return Codec(request.param, 32 if smoke else 256, model, cast(Encoder, encoder), cast(Decoder, decoder))


def test_decode(race: Race, codec: Codec) -> None:
    z = codec.latent()
    pair = Pair(lambda: codec.decoder.decode(z), lambda: codec.model.decode(z / SCALING).sample)
    race(f"{codec.name} decode, {codec.pixels} px", pair, goal=0.85, dtype=z.dtype)


def test_encode(race: Race, codec: Codec) -> None:
    image = networks.noise(1, 3, codec.pixels, codec.pixels).clamp(-1, 1)

    def theirs() -> torch.Tensor:
        encoded = codec.model.encode(image)
        latent = encoded.latents if codec.name == "VQModel" else encoded.latent_dist.mode()
        return latent * SCALING

    pair = Pair(lambda: codec.encoder.encode(image), theirs)
    race(f"{codec.name} encode, {codec.pixels} px", pair, goal=0.95, dtype=image.dtype)
