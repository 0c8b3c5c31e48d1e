"""Whatever is wrong with a folder, loading it says so, and never hands out weights that are not the folder's."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_plugin
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.assembly import load_component
from ldm_registry.build import fresh
from ldm_registry.errors import CheckpointError, IntegrityError, LdmError, NotFoundError, SpecError
from ldm_registry.registry import Registry
from ldm_registry.weights import CONFIG, WEIGHTS, save_checkpoint

REGISTRY = Registry([toy_plugin])
CODEC = toy_plugin.CodecConfig(latent_channels=2, stride=2)
INDEX = f"{WEIGHTS}.index.json"
SHARDS = tuple(f"diffusion_pytorch_model-{part:05}-of-00002.safetensors" for part in (1, 2))

Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A codec in two shards, without a contract."""
    halves = fresh(toy_plugin.ToyEncoder, (CODEC,), 1), fresh(toy_plugin.ToyDecoder, (CODEC,), 2)
    path = tmp_path / "codec"
    save_checkpoint(halves, path, contract=None, card="")
    tensors = load_file(path / WEIGHTS)
    weight_map = {name: SHARDS[name.endswith("bias")] for name in tensors}
    for shard in SHARDS:
        save_file({name: t for name, t in tensors.items() if weight_map[name] == shard}, path / shard)
    (path / WEIGHTS).unlink()
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def load(folder: Path) -> dict[str, Tensor]:
    halves = [load_component(kind, folder, registry=REGISTRY) for kind in ("encoder", "decoder")]
    return {name: tensor for half in halves for name, tensor in half.state_dict().items()}


def cut(name: str, end: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:end])


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    def lie(folder: Path) -> None:
        document = json.loads((folder / INDEX).read_text())
        change(document["weight_map"])
        (folder / INDEX).write_text(json.dumps(document))

    return lie


def config(**changes: object) -> Damage:
    return lambda folder: (folder / CONFIG).write_text(
        json.dumps(json.loads((folder / CONFIG).read_text()) | changes)
    )


def reshaped(folder: Path) -> None:
    tensors = load_file(folder / SHARDS[0])
    save_file({name: torch.ones(7, 3, 2, 2) for name in tensors}, folder / SHARDS[0])


def led_outside(name: str) -> Damage:
    def damage(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return damage


DAMAGES: dict[str, tuple[Damage, type[LdmError], str]] = {
    "a shard cut short in its data": (cut(SHARDS[0], -1), CheckpointError, "the file holds"),
    "a shard cut short in its header": (cut(SHARDS[1], 40), CheckpointError, "header should be"),
    "an empty shard": (cut(SHARDS[1], 0), CheckpointError, "header should be"),
    "a shard that grew": (
        lambda folder: (folder / SHARDS[0]).write_bytes((folder / SHARDS[0]).read_bytes() + b"x"),
        CheckpointError,
        "the file holds",
    ),
    "a missing shard": (
        lambda folder: (folder / SHARDS[0]).unlink(),
        CheckpointError,
        f"missing: {SHARDS[0]}",
    ),
    "an index that moves a tensor": (
        index(lambda weights: weights.update({"encoder.bias": SHARDS[0]})),
        CheckpointError,
        f"encoder.bias: is not in {SHARDS[0]}",
    ),
    "an index that forgets a tensor": (
        index(lambda weights: weights.pop("decoder.bias")),
        CheckpointError,
        "decoder.bias: is in",
    ),
    "an index that invents a tensor": (
        index(lambda weights: weights.update(ghost=SHARDS[0])),
        CheckpointError,
        "ghost: is not in",
    ),
    "an index that points elsewhere": (
        index(lambda weights: weights.update(ghost="../x.safetensors")),
        CheckpointError,
        "not the name of a safetensors file",
    ),
    "an index of nothing": (index(dict.clear), CheckpointError, "no `weight_map`"),
    "an index that is no JSON": (cut(INDEX, -1), CheckpointError, "not valid JSON"),
    "no index": (lambda folder: (folder / INDEX).unlink(), NotFoundError, SHARDS[0]),
    "a config of a wider model": (config(latent_channels=9), CheckpointError, "wrong shape: encoder.weight"),
    "a config of another class": (config(_component="toy-denoiser"), NotFoundError, "toy-denoiser"),
    "a config with other keys": (config(sample_size=64), SpecError, "sample_size"),
    "weights of another shape": (reshaped, CheckpointError, r"[7, 3, 2, 2], expected [2, 3, 2, 2]"),
    "a shard outside": (led_outside(SHARDS[0]), IntegrityError, "outside of the checkpoint folder"),
    "an index outside": (led_outside(INDEX), IntegrityError, "outside of the checkpoint folder"),
    "a config outside": (led_outside(CONFIG), IntegrityError, "outside of the checkpoint folder"),
    "a link to nowhere": (
        lambda folder: ((folder / SHARDS[0]).unlink(), (folder / SHARDS[0]).symlink_to("nowhere")),
        CheckpointError,
        f"missing: {SHARDS[0]}",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_refused_and_says_what_is_wrong(folder: Path, case: str) -> None:
    damage, expected, said = DAMAGES[case]
    assert len(load(folder)) == 4
    damage(folder)
    with pytest.raises(LdmError) as caught:
        load(folder)
    assert type(caught.value) is expected
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)


def test_one_wrong_byte_in_a_header_is_refused_or_changes_nothing(folder: Path) -> None:
    intact, path = load(folder), folder / SHARDS[0]
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    draw, refused = random.Random(0), 0
    for place in range(end):
        for byte in draw.sample(sorted({*range(256)} - {content[place]}), 3):
            path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            try:
                got = load(folder)
            except CheckpointError:
                refused += 1
            else:
                # The byte was white space or part of the free text of __metadata__.
                assert set(got) == set(intact)
                assert all(torch.equal(got[name], tensor) for name, tensor in intact.items())
    assert refused > 2 * end


def test_nothing_comes_back_on_the_meta_device(folder: Path) -> None:
    tensors = load(folder).values()
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
