"""Folders of diffusers through the command line: imported, exported, and refused when they are damaged."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
import tiny_pipelines

pytestmark = [
    pytest.mark.plugins,
    # diffusers and transformers use each other in ways that newer releases of either deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
CONFIG = Path("unet") / "config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "ddim"
    tiny_pipelines.ddim(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "ddim"
    tiny_pipelines.opened(whole).save_pretrained(folder, max_shard_size="100KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def test_import_run_and_export_are_three_commands(ldm: Any, whole: Path, tmp_path: Path) -> None:
    spec = tmp_path / "ddim.yaml"
    ended = ldm("import", whole, "-o", spec, "--steps", "3", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["parts"]["denoiser"]["component"] == "unet"
    assert ended.document["class_defaults"] == {"unet": []}
    assert "wrote" in ldm("import", whole, "-o", spec, "--overwrite", "--steps", "3").out
    assert ldm("run", spec, "-o", tmp_path / "run", "-n", "1").code == 0
    assert (tmp_path / "run" / "grid.png").is_file()
    ended = ldm("export", spec, tmp_path / "back")
    assert ended.code == 0, ended.err
    assert "diffusers.DDIMPipeline.from_pretrained" in ended.out
    assert (tmp_path / "back" / WEIGHTS).read_bytes()[:8] != b""


def test_shards_are_as_good_as_one_file(ldm: Any, sharded: Path, whole: Path, tmp_path: Path) -> None:
    for name, source in (("one", whole), ("many", sharded)):
        assert ldm("import", source, "-o", tmp_path / f"{name}.yaml", "--steps", "2").code == 0
        assert ldm("run", tmp_path / f"{name}.yaml", "-o", tmp_path / name, "-n", "1").code == 0
    one, many = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "many"))
    assert one["images"] == many["images"]


def test_a_snapshot_in_the_cache_of_the_hub_is_a_folder_like_any_other(
    ldm: Any, whole: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models--somebody--ddim"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    (repository / "blobs").mkdir(parents=True)
    for index, path in enumerate(path for path in sorted(whole.rglob("*")) if path.is_file()):
        blob = repository / "blobs" / f"{index:064x}"
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    ended = ldm("import", snapshot, "-o", tmp_path / "s.yaml", "--steps", "2")
    assert ended.code == 0, ended.err
    assert ldm("run", tmp_path / "s.yaml", "-o", tmp_path / "run", "-n", "1").code == 0


def test_defaults_of_a_class_are_listed(ldm: Any, folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["downsample_padding"]
    (folder / CONFIG).write_text(json.dumps(config))
    ended = ldm("import", folder, "-o", tmp_path / "s.yaml")
    assert "unet: not stated, so the defaults of its class: downsample_padding: 1" in ended.out


def test_an_earlier_spec_is_not_lost(ldm: Any, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("mine")
    ended = ldm("import", whole, "-o", tmp_path / "s.yaml")
    assert ended.code == 2
    assert "exists already" in ended.err
    assert (tmp_path / "s.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--size", "large"], "cannot read the size 'large'"),
        (["--size", "1x2x3"], "cannot read the size '1x2x3'"),
        (["--part", "tokenizer"], "expected NAME=DIR"),
        (["--part", "tokenizr=x"], "no such part"),
        (["--family", "sd1"], "is a folder"),
        (["--variant", "fp16"], "leave out `variant:`"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(
    ldm: Any, whole: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    ended = ldm("import", whole, "-o", tmp_path / "s.yaml", *words)
    assert ended.code in (2, 3)
    assert expected in ended.err
    assert not (tmp_path / "s.yaml").exists()


@pytest.mark.parametrize("name", ["model.ckpt", "pytorch_model.bin", "DiT-XL-2-256x256.pt"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(ldm: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04x.")
    ended = ldm("import", tmp_path / name, "-o", tmp_path / "s.yaml")
    assert ended.code == 4
    assert "weights_only=True" in ended.err
    assert not list(tmp_path.glob("s.*"))


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def change_header(folder: Path) -> None:
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    at = content.index(b'"data_offsets":[', 8) + len(b'"data_offsets":[')
    content[at] = ord("9")
    path.write_bytes(content)


def lengthen_header(folder: Path) -> None:
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[:8] = struct.pack("<Q", 2**62)
    path.write_bytes(content)


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def leave_pickles_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def take_another_config(folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps({"_class_name": "AutoencoderKL"}))


def change_width(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "block_out_channels": [16, 64]}))


def add_unknown_key(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "block_out_channel": 1, "secret": 2}))


def link_out(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.safetensors"
    (folder / WEIGHTS).rename(elsewhere)
    (folder / WEIGHTS).symlink_to(elsewhere)


def unknown_scheduler(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMInverseScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    config["_class_name"] = "DDIMInverseScheduler"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "code", "expected"),
    [
        (truncate, 4, "was refused"),
        (change_header, 4, "was refused"),
        (lengthen_header, 4, "was refused"),
        (remove_weights, 3, "diffusion_pytorch_model.safetensors"),
        (leave_pickles_only, 4, "a pickle can run code"),
        (take_another_config, 4, "unet/config.json is the config of AutoencoderKL"),
        (change_width, 4, "wrong shape: "),
        (add_unknown_key, 2, "did you mean 'block_out_channels'"),
        (link_out, 4, "outside of the checkpoint folder"),
        (unknown_scheduler, 2, "which no installed sampler reads"),
    ],
)
def test_a_damaged_folder_is_refused_and_leaves_no_spec(
    ldm: Any, folder: Path, tmp_path: Path, damage: Callable[[Path], None], code: int, expected: str
) -> None:
    damage(folder)
    ended = ldm("import", folder, "-o", tmp_path / "s.yaml")
    assert ended.code == code, ended.err
    assert expected in ended.err
    assert not list(tmp_path.glob("s.*"))


def lose_a_shard(folder: Path) -> None:
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()


def cut_a_shard(folder: Path) -> None:
    path = next((folder / "unet").glob("*-00002-of-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])


def make_the_index_lie(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["conv_in.weight"] = index["weight_map"]["conv_out.weight"]
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("damage", [lose_a_shard, cut_a_shard, make_the_index_lie])
def test_damaged_shards_are_refused_and_leave_no_spec(
    ldm: Any, sharded: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(sharded, tmp_path / "copy")
    damage(tmp_path / "copy")
    ended = ldm("import", tmp_path / "copy", "-o", tmp_path / "s.yaml")
    assert ended.code in (3, 4), ended.err
    assert "safetensors" in ended.err
    assert not list(tmp_path.glob("s.*"))
