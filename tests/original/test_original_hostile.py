from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_registry.errors import CheckpointError, IntegrityError, LdmError, NotFoundError
from ldm_registry.original import convert, streaming
from ldm_registry.original.layout import detect
from ldm_registry.original.pieces import whole
from ldm_registry.original.streaming import write_pieces
from ldm_registry.safetensors_header import read_header


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize("ending", [".bin", ".ckpt", ".pt", ".pth", ".CKPT"])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"it's a model{ending}"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(IntegrityError, match="save_file") as caught:
        convert(path, tmp_path / "out")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("wrapped", "legacy"),
    [
        ("state_dict", False),
        pytest.param(None, False, marks=pytest.mark.slow),
        pytest.param("ema", True, marks=pytest.mark.slow),
    ],
)
def test_a_pickle_under_another_name_is_refused_and_the_hint_converts_it(
    wrapped: str | None, legacy: bool, tmp_path: Path
) -> None:
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    path = tmp_path / "it's.safetensors"
    content = {wrapped: weights, "step": 3} if wrapped else weights
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(IntegrityError, match="is a pickle") as caught:
        convert(path, tmp_path / "out")
    path.rename(tmp_path / "it's.ckpt")
    assert caught.value.hint is not None
    command = caught.value.hint.split(": ", 1)[1].replace("python -c", f"{sys.executable} -c", 1)
    command = command.replace(".safetensors'", ".ckpt'", 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert torch.equal(load_file(tmp_path / "it's.safetensors")["a"], weights["a"])


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"did you mean 'model\.safetensors'"):
        convert(tmp_path / "modle.safetensors", tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_and_leaves_nothing(cut: int, original: Any, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    save_file(original.Autoencoder((32, 64), 1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError):
        convert(path, tmp_path / "out", family="sd1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["vae.safetensors"]


def with_names(tmp_path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file of empty tensors of any names."""
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    text = json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


UNET = "model.diffusion_model"


@pytest.mark.parametrize(
    "shapes",
    [
        {f"{UNET}.input_blocks.0.0.weight": [0]},
        {f"{UNET}.input_blocks.0.0.weight": [0, 4, 3, 3], "cond_stage_model.transformer.x": [0]},
        {f"{UNET}.input_blocks.{index}.0.op.weight": [0] for index in range(5000)},
        {f"{UNET}.input_blocks.99999999999999999999.0.weight": [0], f"{UNET}.input_blocks.0.0.weight": [0]},
        {"encoder.conv_in.weight": [0], "decoder.conv_in.weight": [0]},
        {"encoder.conv_in.weight": [10**9, 10**9, 0, 3], "decoder.conv_in.weight": [2**60, 0]},
        {
            "x_embedder.proj.weight": [0, 1, 1, 1],
            "y_embedder.embedding_table.weight": [0, 10**9],
            "blocks.0.adaLN_modulation.1.weight": [0],
        },
        {},
    ],
)
def test_senseless_shapes_and_numbers_are_errors_of_ours(
    shapes: dict[str, list[int]], tmp_path: Path
) -> None:
    path = with_names(tmp_path, shapes)
    with pytest.raises(LdmError):
        convert(path, tmp_path / "out", family=None)
    assert not (tmp_path / "out").exists()


def test_dropping_any_tensor_or_bending_any_shape_is_noticed(original: Any, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    state = dict(original.Autoencoder((32, 64), 1).state_dict())
    generator = torch.Generator().manual_seed(0)
    names = sorted(state)
    for index in torch.randperm(len(names), generator=generator)[:12].tolist():
        name = names[index]
        for bent in (None, torch.zeros(3, 1, 2)):
            save_file(
                {**state, name: bent} if bent is not None else {n: t for n, t in state.items() if n != name},
                path,
            )
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                convert(path, tmp_path / "out", family="sd1")


def test_a_network_that_grows_without_bound_is_refused(tmp_path: Path) -> None:
    """A table of classes is repeated in every block: here 100 blocks of 4 channels with 100 000 classes."""
    width, layers = 4, 100
    state = {
        "x_embedder.proj.weight": torch.zeros(width, 4, 2, 2),
        "x_embedder.proj.bias": torch.zeros(width),
        "t_embedder.mlp.0.weight": torch.zeros(width, 256),
        "t_embedder.mlp.0.bias": torch.zeros(width),
        "t_embedder.mlp.2.weight": torch.zeros(width, width),
        "t_embedder.mlp.2.bias": torch.zeros(width),
        "y_embedder.embedding_table.weight": torch.zeros(100_001, width),
        "final_layer.linear.weight": torch.zeros(16, width),
        "final_layer.linear.bias": torch.zeros(16),
        "final_layer.adaLN_modulation.1.weight": torch.zeros(2 * width, width),
        "final_layer.adaLN_modulation.1.bias": torch.zeros(2 * width),
    }
    sizes = {
        "attn.qkv": (3, 1),
        "attn.proj": (1, 1),
        "mlp.fc1": (4, 1),
        "mlp.fc2": (1, 4),
        "adaLN_modulation.1": (6, 1),
    }
    for index in range(layers):
        for name, (rows, columns) in sizes.items():
            state[f"blocks.{index}.{name}.weight"] = torch.zeros(rows * width, columns * width)
            state[f"blocks.{index}.{name}.bias"] = torch.zeros(rows * width)
    save_file(state, tmp_path / "dit.safetensors")
    with pytest.raises(CheckpointError, match="would become"):
        convert(tmp_path / "dit.safetensors", tmp_path / "out", heads=1, sample_size=8)


def test_a_write_that_fails_leaves_nothing_behind(
    original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vae.safetensors"
    save_file(original.Autoencoder((32, 64), 1).state_dict(), path)

    def full(descriptor: int, data: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streaming, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        convert(path, tmp_path / "out", family="sd1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["vae.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_streamed_file_is_read_back_bit_by_bit_by_the_library(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "odd": torch.randn(3, generator=generator).to(dtype),
        "half": torch.randn(5, 3, generator=generator).half(),
        "none": torch.zeros(0, 3, dtype=dtype),
        "scalar": torch.tensor(2.0, dtype=dtype),
        "wide": torch.randn(7, 11, 2, generator=generator).double(),
    }
    save_file(tensors, tmp_path / "source.safetensors")
    header = read_header(tmp_path / "source.safetensors")
    pieces = [whole(f"new.{name}", name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    monkeypatch.setattr(streaming, "MAX_MAPPED_BYTES", 10)
    write_pieces(tmp_path / "source.safetensors", header, pieces, tmp_path / "copy.safetensors")
    found = load_file(tmp_path / "copy.safetensors")
    assert found.keys() == {f"new.{name}" for name in tensors}
    for name, tensor in tensors.items():
        assert found[f"new.{name}"].dtype == tensor.dtype
        assert torch.equal(found[f"new.{name}"], tensor)
    assert read_header(tmp_path / "copy.safetensors").keys() == found.keys()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy.safetensors", "source.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_converting_takes_less_memory_than_the_weights(original: Any, tmp_path: Path) -> None:
    with torch.device("meta"):
        state = original.Autoencoder((128, 512, 1024, 1024), 2).state_dict()
    weights = {name: torch.zeros(tensor.shape) for name, tensor in state.items()}
    save_file(weights, tmp_path / "vae.safetensors")
    del weights
    code = (
        "import sys; from pathlib import Path; from ldm_registry.original import convert\n"
        "peak = lambda: int([r.split()[1] for r in open('/proc/self/status') if r.startswith('VmHWM')][0]) * 1024\n"
        "before = peak(); convert(Path(sys.argv[1]), Path(sys.argv[2]), family='sd1'); print(peak() - before)"
    )
    source = tmp_path / "vae.safetensors"
    arguments = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ)
    assert int(ended.stdout) < 0.6 * source.stat().st_size


def test_a_layout_is_found_in_names_and_shapes_alone(original: Any, tmp_path: Path) -> None:
    for family, make in original.files.items():
        save_file(make(), tmp_path / "model.safetensors")
        found = detect(read_header(tmp_path / "model.safetensors"))
        assert found.family == family
        assert {"unet", "vae", "text_encoder"} <= found.prefixes.keys()
