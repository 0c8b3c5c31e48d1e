"""Make a VQ autoencoder out of a trained KL autoencoder, as a start for `ldm train encoder`.

    python specs/train/quantise_kl_vae.py specs/checkpoints/emoji-kl-vae runs/quantised-kl-vae

The two architectures differ in what leaves the encoder alone. The mean half of the posterior becomes the latent,
normalised by folding the statistics into the 1x1 convolutions on both sides, and k-means over the latents of the
training images gives the codebook.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

import ldm_registry as ldm
from ldm_registry.build import fresh
from ldm_registry.data import to_unit
from ldm_registry.weights import parse_config, save_checkpoint

CODES = 2048
SAMPLES = 60_000
ROUNDS = 8
IMAGES = Path(__file__).parents[1] / "data" / "noto-emoji-64-train.tar"


def k_means(vectors: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Centres [codes, C] of vectors [N, C]; a centre that loses all its vectors moves to a random one."""
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:codes]].clone()
    for _ in range(ROUNDS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(dim=1) for part in vectors.split(8192)])
        count = torch.bincount(nearest, minlength=codes)[:, None]
        total = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        spare = vectors[torch.randint(len(vectors), (codes,), generator=generator)]
        centres = torch.where(count > 0, total / count.clamp(min=1), spare)
    return centres


def quantised(kl: dict[str, Tensor], mean: Tensor, std: Tensor, codebook: Tensor) -> dict[str, Tensor]:
    """State of the VQ autoencoder.

    Args:
        kl: State of the KL autoencoder, both halves.
        mean: Of its raw latents, [C].
        std: Of its raw latents, [C].
        codebook: In units of the normalised latents, [codes, C].
    """
    channels = len(mean)
    mix, offset = kl["quant_conv.weight"][:channels, :, 0, 0], kl["quant_conv.bias"][:channels]
    out, bias = kl["encoder.conv_out.weight"], kl["encoder.conv_out.bias"]
    back = kl["post_quant_conv.weight"][:, :, 0, 0]
    return {
        **kl,
        "encoder.conv_out.weight": torch.einsum("oi,ixyz->oxyz", mix, out) / std[:, None, None, None],
        "encoder.conv_out.bias": (mix @ bias + offset - mean) / std,
        "quant_conv.weight": torch.eye(channels)[:, :, None, None],
        "quant_conv.bias": torch.zeros(channels),
        "post_quant_conv.weight": (back * std)[:, :, None, None],
        "post_quant_conv.bias": kl["post_quant_conv.bias"] + back @ mean,
        "quantize.embedding.weight": codebook,
    }


def main() -> None:
    """Read one checkpoint, write the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="checkpoint of a kl-vae")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--images", type=Path, default=IMAGES, help="WebDataset tar of the training images")
    options = parser.parse_args()
    encoder = cast(ldm.Encoder, ldm.load_component("encoder", options.source))
    decoder = ldm.load_component("decoder", options.source)
    images = ldm.read_images(options.images).images
    with torch.inference_mode():
        latents = torch.cat([encoder.encode(to_unit(part)) for part in images.split(128)])
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    generator = torch.Generator().manual_seed(0)
    some = vectors[torch.randperm(len(vectors), generator=generator)[:SAMPLES]]
    codebook = k_means(some, CODES, generator)
    config = encoder.config.model_dump()
    mean, std = (torch.tensor(config[key]) for key in ("latents_mean", "latents_std"))
    state = quantised({**encoder.state_dict(), **decoder.state_dict()}, mean, std, codebook)
    halves = [ldm.Registry.discover().get(kind, "vq-vae") for kind in ("encoder", "decoder")]
    known = {key for key in halves[0].Config.model_fields if key in config and not key.startswith("latents_")}
    values = {key: config[key] for key in known} | {"num_vq_embeddings": CODES, "scaling_factor": 1.0}
    parts = [fresh(half, (parse_config(half, values, "vq-vae"),), 0) for half in halves]
    for part in parts:
        part.load_state_dict({name: state[name] for name in part.state_dict()})
    save_checkpoint(
        parts, options.target, contract=None, card=f"# {options.target.name}\n\nQuantised by k-means.\n"
    )


if __name__ == "__main__":
    main()
