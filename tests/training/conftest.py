import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))


def blobs(count: int, seed: int, size: int = 16) -> Tensor:
    """Smooth random images: uint8 [count, 3, size, size]."""
    noise = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bilinear")
    return (smooth.clamp(-2, 2).add(2).mul(63)).to(torch.uint8)


def write_tar(path: Path, images: Tensor) -> None:
    with tarfile.open(path, "w") as tar:
        for index, image in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(numpy.asarray(image.permute(1, 2, 0))).save(png, "PNG")
            label = json.dumps({"label": index % 3, "name": f"blob {index}"}).encode()
            for suffix, content in (("png", png.getvalue()), ("json", label)):
                member = tarfile.TarInfo(f"{index:05d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


SPEC = """
version: 1
image: {{channels: 3, size: 16}}
encoder: {{use: tiny-codec, checkpoint: codec}}
denoiser:
  use: {denoiser}
  checkpoint: denoiser
  config: {{channels: 2}}
  {trained}
scheduler: {{use: toy-scheduler{schedule}}}
decoder: {{use: tiny-codec, checkpoint: codec}}
data: {{images: val.tar, train: train.tar}}
train:
  codec: {{steps: 12, batch: 8, warmup: 2, validate_every: 0, optimizer: muon, checkpoint_every_s: 0.0001}}
  denoiser: {{steps: 12, batch: 8, warmup: 2, validate_every: 5, checkpoint_every_s: 0.0001}}
"""


@pytest.fixture
def workshop(tmp_path: Path) -> Callable[..., Path]:
    """Writes both image sets and a spec of tiny parts into the test's folder; returns the spec's path."""

    def write(denoiser: str = "toy-denoiser") -> Path:
        write_tar(tmp_path / "train.tar", blobs(20, 0))
        write_tar(tmp_path / "val.tar", blobs(8, 1))
        fitted = denoiser == "tiny-mean"
        trained = "" if fitted else "trained: {prediction: v, schedule: {name: toy_schedule}}"
        schedule = ", schedule: {name: toy_schedule}" if fitted else ""
        path = tmp_path / "tiny.yaml"
        path.write_text(SPEC.format(denoiser=denoiser, trained=trained, schedule=schedule))
        return path

    return write
