from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_plugin import CodecConfig, ToyDecoder, ToyEncoder

from ldm_registry import weights
from ldm_registry.build import fresh
from ldm_registry.contracts import Contract
from ldm_registry.digests import verify
from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, SpecError
from ldm_registry.safetensors_header import read_header

CONFIG = CodecConfig(latent_channels=2, stride=2)


@pytest.fixture
def codec() -> tuple[ToyEncoder, ToyDecoder]:
    encoder, decoder = fresh(ToyEncoder, (CONFIG,), 1), fresh(ToyDecoder, (CONFIG,), 2)
    assert isinstance(encoder, ToyEncoder)
    assert isinstance(decoder, ToyDecoder)
    return encoder, decoder


@pytest.fixture
def folder(tmp_path: Path, codec: tuple[ToyEncoder, ToyDecoder]) -> Path:
    contract = Contract(components={"encoder": "toy-codec", "decoder": "toy-codec"})
    weights.save_checkpoint(codec, tmp_path / "codec", contract=contract, card="# A codec\n")
    return tmp_path / "codec"


def on_meta(kind: type[ToyEncoder] | type[ToyDecoder]) -> ToyEncoder | ToyDecoder:
    with torch.device("meta"):
        return kind(CONFIG)


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / weights.WEIGHTS)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / weights.WEIGHTS)


def test_both_halves_of_a_codec_come_back_bit_equal_from_one_folder(
    codec: tuple[ToyEncoder, ToyDecoder], folder: Path
) -> None:
    for half in codec:
        loaded = on_meta(type(half))
        weights.load_weights(loaded, folder)
        for name, tensor in half.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)
    assert weights.parse_config(ToyEncoder, weights.read_config(folder), "here") == CONFIG
    contract = weights.read_contract(folder)
    assert contract is not None
    verify(folder, contract)
    assert set(contract.files) == {"config.json", "README.md", weights.WEIGHTS}


def test_weights_are_stored_in_the_dtype_asked_for(
    tmp_path: Path, codec: tuple[ToyEncoder, ToyDecoder]
) -> None:
    weights.save_checkpoint(codec, tmp_path, contract=None, card="", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / weights.WEIGHTS).values()} == {torch.float16}
    assert weights.read_contract(tmp_path) is None


def test_missing_unexpected_and_wrong_shape_tensors_are_listed_together(folder: Path) -> None:
    rewrite(folder, encoder__bias=None, encoder__extra=torch.ones(1), encoder__weight=torch.ones(1, 2, 3, 4))
    with pytest.raises(CheckpointError) as caught:
        weights.load_weights(on_meta(ToyEncoder), folder)
    assert caught.value.problems == (
        "missing: encoder.bias [2]",
        "unexpected: encoder.extra [1]",
        "wrong shape: encoder.weight is [1, 2, 3, 4], expected [2, 3, 2, 2]",
    )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    rewrite(folder, encoder__bias=torch.tensor([0.0, value]))
    with pytest.raises(CheckpointError, match=r"encoder\.bias: 1 of 2 values"):
        weights.load_weights(on_meta(ToyEncoder), folder)


def test_a_changed_byte_is_found_before_anything_is_loaded(folder: Path) -> None:
    contract = weights.read_contract(folder)
    assert contract is not None
    path = folder / weights.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{weights.WEIGHTS}: sha256 [0-9a-f]+, the contract says"):
        verify(folder, contract)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "a/b.json"])
def test_a_contract_that_names_files_elsewhere_is_refused(folder: Path, name: str) -> None:
    contract = Contract(components={}, files={name: {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(CheckpointError, match="own folder only"):
        verify(folder, contract)


@pytest.mark.parametrize("ending", [".bin", ".ckpt", ".pt"])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(folder: Path, ending: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("the pickle was opened",)

    (folder / weights.WEIGHTS).unlink()
    (folder / f"diffusion_pytorch_model{ending}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(IntegrityError, match="save_file") as caught:
        weights.load_weights(on_meta(ToyEncoder), folder)
    assert caught.value.problems == (f"diffusion_pytorch_model{ending}",)


def test_a_folder_that_is_not_there_is_reported_with_what_is(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'codec'"):
        weights.read_config(tmp_path / "codek")


def test_unknown_config_keys_suggest_the_nearest_and_notes_of_the_writer_are_dropped() -> None:
    assert weights.parse_config(ToyEncoder, {"stride": 2, "_class_name": "X"}, "here").stride == 2  # type: ignore[attr-defined]  # a CodecConfig
    with pytest.raises(SpecError) as caught:
        weights.parse_config(ToyEncoder, {"strid": 2, "channels": "many"}, "here")
    assert any("did you mean 'stride'" in problem for problem in caught.value.problems)
    assert any("channels" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"[1]", "expected an object"), (b"{", "not valid JSON"), (b"[" * 200_000, "not valid JSON")],
)
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        weights.read_config(tmp_path)


def test_an_oversized_config_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (weights.MAX_JSON_BYTES + 1))
    with pytest.raises(CheckpointError, match="at most"):
        weights.read_config(tmp_path)


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def f32(begin: int, end: int, *shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "header should be"),
        (b"\x00\x00", "header should be"),
        (struct.pack("<Q", 2**62) + b"{}", "header should be"),
        (header(b" " * (9 * 2**20)), "at most 8388608"),
        (header(b"{"), "not valid JSON"),
        (header(b"[" * 100_000), "not valid JSON"),
        (header([1]), "not a JSON object"),
        (header(b'{"a": 1, "a": 2}'), "stands there twice"),
        (header({"__metadata__": {"x": "y" * 70_000}}), "__metadata__"),
        (header({f"t{index}": f32(0, 0, 0) for index in range(20_001)}), "at most 20000"),
        (header({"\x1b[31mred": f32(0, 0, 0)}), "not allowed"),
        (header({"a": f32(0, 4, 2)}, b"1234"), "takes 8"),
        (header({"a": f32(0, 4, 1)}, b"12"), "the file holds 2"),
        (header({"a": f32(0, 4, 1), "b": f32(0, 4, 1)}, b"1234"), "overlap"),
        (header({"a": f32(4, 8, 1)}, b"12345678"), "gap"),
        (header({"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "malformed"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"), "malformed"),
        (header({"a": 3}), "malformed"),
    ],
)
def test_a_hostile_safetensors_header_is_refused_before_it_takes_memory(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_header(path)
    assert "\x1b" not in str(caught.value)


def test_a_sound_header_lists_its_tensors(folder: Path) -> None:
    entries = read_header(folder / weights.WEIGHTS)
    assert {name: entry.shape for name, entry in entries.items()}["encoder.weight"] == (2, 3, 2, 2)


def test_halves_with_different_configs_are_not_saved_as_one(
    tmp_path: Path, codec: tuple[ToyEncoder, ToyDecoder]
) -> None:
    other = fresh(ToyDecoder, (CodecConfig(latent_channels=3),), 0)
    with pytest.raises(CheckpointError, match="different configs"):
        weights.save_checkpoint([codec[0], other], tmp_path, contract=None, card="")
