"""Hostile files through the command line: the right exit code each time, and no memory worth mentioning."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_registry.build import fresh
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import CARD, CONFIG, CONTRACT, WEIGHTS, save_checkpoint

pytestmark = pytest.mark.plugins

MIB = 2**20
ALLOWED_MIB = 100.0

SPEC = """
version: 1
image: {channels: 3, size: 16}
encoder: {use: kl-vae, checkpoint: codec}
denoiser: {use: gaussian}
scheduler: {use: ddim, schedule: {name: scaled_linear}, config: {steps: 2}}
decoder: {use: kl-vae, checkpoint: codec}
data: {images: images.tar, train: images.tar}
train: {codec: {steps: 1, batch: 1}}
"""

# Runs every command in one process and says how each ended and how far the peak rose above the healthy run's.
RUNNER = """
import contextlib, io, json, resource, sys
from pathlib import Path
from ldm_registry.__main__ import main

def run(words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as heard:
        return main(words), heard.getvalue()

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
cases = json.loads(Path(sys.argv[1]).read_text())
assert run(cases.pop("healthy"))[0] == 0
ends = {}
for name, words in cases.items():
    before = peak()
    code, heard = run(words)
    ends[name] = [code, peak() - before, heard]
print(json.dumps(ends))
"""


def spec_text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "spec.yaml").write_text(text) and None


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "codec" / WEIGHTS
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return spoil


def content(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "codec" / WEIGHTS
        path.write_bytes(change(path.read_bytes()))

    return spoil


def pickled(folder: Path) -> None:
    (folder / "codec" / WEIGHTS).unlink()
    (folder / "codec" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(print))


def climbing_contract(folder: Path) -> None:
    files = {"../../etc/passwd": {"sha256": "0" * 64, "size": 1}}
    document = {"components": {"encoder": "kl-vae", "decoder": "kl-vae"}, "files": files}
    (folder / "codec" / CONTRACT).write_text(json.dumps(document))


def images(**members: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_tar(folder / "images.tar", members)

    return spoil


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw = b"".join(b"\0" + b"\x80" * 3 * width for _ in range(height)) if rows is None else rows
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


LABEL = b'{"label": 1}'
HUGE = {"a.png": png(60_000, 60_000, b"\0" * 1000), "a.json": LABEL}
BROKEN = {"a.png": png(16, 16)[:60], "a.json": LABEL}
NO_IMAGE = {"a.png": b"GIF89a" + b"\0" * 100, "a.json": LABEL}
CLIMBING = {"../../a.png": png(16, 16), "../../a.json": LABEL}
BOMB = "\n".join(
    ["a: &a [x, x]", *(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(24))]
)

CHECK, TRAIN = ["check"], ["train", "encoder"]
CASES: dict[str, tuple[Callable[[Path], None], list[str], int]] = {
    "YAML alias bomb": (spec_text(BOMB), CHECK, 2),
    "YAML nested 100 000 deep": (spec_text("a: " + "[" * 100_000), CHECK, 2),
    "YAML with a key twice": (spec_text(SPEC + "seed: 1\nseed: 2\n"), CHECK, 2),
    "YAML with a tag": (spec_text(SPEC + "seed: !!python/object/apply:os.system [id]\n"), CHECK, 2),
    "YAML of 10 MiB": (spec_text("a: " + "x" * 10 * MIB), CHECK, 2),
    "spec with an unknown key": (spec_text(SPEC + "sed: 1\n"), CHECK, 2),
    "spec that names a class path": (spec_text(SPEC.replace("use: gaussian", "use: os.system")), CHECK, 2),
    "weights cut short": (content(lambda data: data[: len(data) // 2]), CHECK, 4),
    "weights without a header": (content(lambda data: b""), CHECK, 4),
    "header that claims 1 EiB": (content(lambda data: struct.pack("<Q", 2**60) + data[8:]), CHECK, 4),
    "header of 9 MiB": (content(lambda data: struct.pack("<Q", 9 * MIB) + b" " * 9 * MIB), CHECK, 4),
    "tensor missing": (weights(lambda tensors: tensors.pop("encoder.conv_in.weight")), CHECK, 4),
    "tensor unexpected": (weights(lambda tensors: tensors.update(extra=torch.ones(1))), CHECK, 4),
    "tensor of a wrong shape": (
        weights(lambda tensors: tensors.update({"encoder.conv_in.bias": torch.ones(3)})),
        CHECK,
        4,
    ),
    "tensor with NaN": (
        weights(lambda tensors: tensors["encoder.conv_in.bias"].fill_(float("nan"))),
        CHECK,
        4,
    ),
    "pickle in place of safetensors": (pickled, CHECK, 4),
    "contract that climbs out": (climbing_contract, CHECK, 4),
    "config that is no JSON": (lambda folder: (folder / "codec" / CONFIG).write_text("{") and None, CHECK, 4),
    "no checkpoint": (lambda folder: shutil.rmtree(folder / "codec"), CHECK, 3),
    "image of 60 000 x 60 000": (images(**HUGE), TRAIN, 4),
    "image cut short": (images(**BROKEN), TRAIN, 4),
    "image that is none": (images(**NO_IMAGE), TRAIN, 4),
    "tar member that climbs out": (images(**CLIMBING), TRAIN, 4),
    "tar that is none": (lambda folder: (folder / "images.tar").write_bytes(b"x" * 2000) and None, TRAIN, 4),
}


def make_healthy(folder: Path) -> None:
    registry = Registry.discover()
    config = registry.get(Kind.ENCODER, "kl-vae").Config.model_validate(
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
        }
    )
    halves = [fresh(registry.get(kind, "kl-vae"), (config,), 0) for kind in (Kind.ENCODER, Kind.DECODER)]
    save_checkpoint(halves, folder / "codec", contract=None, card="")
    (folder / "codec" / CARD).unlink()
    (folder / "spec.yaml").write_text(SPEC)
    write_tar(folder / "images.tar", {"a.png": png(16, 16), "a.json": LABEL})


@pytest.mark.slow
def test_each_hostile_file_gets_its_exit_code_within_100_mib(tmp_path: Path) -> None:
    commands: dict[str, list[str]] = {}
    make_healthy(tmp_path / "healthy")
    commands["healthy"] = [
        "train",
        "encoder",
        str(tmp_path / "healthy" / "spec.yaml"),
        "-o",
        str(tmp_path / "trained"),
    ]
    for number, (name, (spoil, words, _)) in enumerate(CASES.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "healthy", folder)
        spoil(folder)
        commands[name] = [*words, str(folder / "spec.yaml")]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path / "commands.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    ends = json.loads(ended.stdout)
    codes = {name: code for name, (code, _, _) in ends.items()}
    assert codes == {name: code for name, (_, _, code) in CASES.items()}, {
        name: ends[name][2] for name in CASES if codes[name] != CASES[name][2]
    }
    assert {name: rise for name, (_, rise, _) in ends.items() if rise > ALLOWED_MIB} == {}
    assert not any("\x1b" in heard or "Traceback" in heard for _, _, heard in ends.values())
