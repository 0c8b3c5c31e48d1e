"""Image sets: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from ldm_registry import data
from ldm_registry.data import read_images, to_uint8, to_unit
from ldm_registry.errors import DataError, NotFoundError

PEAK_BYTES = 20 * 2**20


def png(width: int = 4, height: int = 3, value: int = 0, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    pixels = (numpy.arange(height * width * 3, dtype=numpy.uint8) + value).reshape(height, width, 3)
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def forged_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that nothing follows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    return b"\x89PNG\r\n\x1a\n" + chunk


def label(value: Any = 1) -> bytes:
    return json.dumps({"label": value, "name": "somebody"}).encode()


def good(index: int = 0) -> dict[str, bytes]:
    return {f"{index:05d}.png": png(value=index), f"{index:05d}.json": label(index)}


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def with_member(path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in good().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("00001.png")
        change(member)
        tar.addfile(member)
    return path


def test_images_labels_and_names_come_out_as_they_went_in(tmp_path: Path) -> None:
    found = read_images(tar_of(tmp_path / "set.tar", good(0) | good(1)))
    assert found.images.shape == (2, 3, 3, 4)
    assert found.images.dtype == torch.uint8
    assert found.images[1].permute(1, 2, 0).flatten().tolist() == list(range(1, 37))
    assert found.labels.tolist() == [0, 1]
    assert found.names == ("somebody", "somebody")
    assert len(found) == 2


def test_a_limit_reads_the_first_images_alone(tmp_path: Path) -> None:
    files = good(0) | good(1) | good(2)
    files["00002.png"] = b"broken"
    assert len(read_images(tar_of(tmp_path / "set.tar", files), limit=2)) == 2


def test_members_of_a_pair_may_stand_in_either_order(tmp_path: Path) -> None:
    files = dict(reversed(good(0).items()))
    assert len(read_images(tar_of(tmp_path / "set.tar", files))) == 1


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_images_become_rgb(tmp_path: Path, mode: str) -> None:
    files = good() | {"00000.png": png(mode=mode)}
    assert read_images(tar_of(tmp_path / "set.tar", files)).images.shape == (1, 3, 3, 4)


def test_every_8_bit_value_survives_the_way_to_unit_range_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    unit = to_unit(values)
    assert (unit.min(), unit.max()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(unit), values)
    assert torch.equal(to_uint8(to_unit(values, torch.float64)), values)


def test_pixels_out_of_range_are_clamped_and_others_rounded() -> None:
    pixels = torch.tensor([-3.0, 3.0, -1.0 + 0.6 / 127.5, -1.0 + 0.4 / 127.5])
    assert to_uint8(pixels).tolist() == [0, 255, 1, 0]


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no image set"):
        read_images(tmp_path / "none.tar")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../00000.png": png(), "../00000.json": label()}, "leads out of the set"),
        ({"/tmp/00000.png": png(), "/tmp/00000.json": label()}, "leads out of the set"),
        ({"a\\..\\b.png": png(), "a\\..\\b.json": label()}, "leads out of the set"),
        (good() | {"run.py": b"print()"}, "neither .png nor .json"),
        ({"00000.png": png()}, "has no 00000.json"),
        ({"00000.json": label()}, "has no 00000.png"),
        (good() | {"00001.json": b"", "00001.png": png()}, "has 0 bytes"),
        (good() | {"00000.json": b" " * (data.MAX_JSON_BYTES + 1)}, "expected 1 to 65536"),
        ({}, "it is empty"),
        (good() | {"00000.json": b"{"}, "is not JSON"),
        (good() | {"00000.json": b"[" * 50_000}, "is not JSON"),
        (good() | {"00000.json": b"[]"}, "has label None"),
        (good() | {"00000.json": label("6")}, "has label '6'"),
        (good() | {"00000.json": label(-1)}, "has label -1"),
        (good() | {"00000.json": label(True)}, "has label True"),
        (good() | {"00000.json": label(2**70)}, "expected a whole number"),
        (good() | {"00000.png": b"GIF89a" + bytes(64)}, "does not begin as a PNG"),
        (good() | {"00000.png": png()[:-20]}, "broken PNG"),
        (good() | {"00000.png": png()[:60] + bytes([png()[60] ^ 255]) + png()[61:]}, "broken PNG"),
        (good() | {"00000.png": forged_png(100_000, 100_000)}, "claims 100000 x 100000"),
        (good() | {"00000.png": forged_png(4096, 4096)}, "claims 4096 x 4096"),
        (good() | {"00000.png": forged_png(0, 5)}, "claims 0 x 5"),
        (good() | {"00000.png": forged_png(64, 64)}, "broken PNG"),
        (good() | {"00000.png": png(mode="RGBA")}, "mode RGBA"),
        (good() | {"00001.png": png(5, 3), "00001.json": label()}, "00001.png is 5 x 3; expected 4 x 3"),
    ],
)
def test_a_hostile_set_is_refused_by_name_and_without_memory(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    path = tar_of(tmp_path / "set.tar", files)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_images(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert peak < PEAK_BYTES


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_only_regular_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, "/etc/passwd"

    with pytest.raises(DataError, match="not a regular file"):
        read_images(with_member(tmp_path / "set.tar", change))


def test_the_same_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (*good().items(), *good().items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="not an acceptable") as caught:
        read_images(path)
    assert caught.value.problems[0] == "member '00000.png' stands in the tar twice"


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    files = good() | {"run.py": b"x", "../up.png": png(), "00003.png": png()}
    with pytest.raises(DataError) as caught:
        read_images(tar_of(tmp_path / "set.tar", files))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(DataError, match="uncompressed tar"):
        read_images(tar_of(tmp_path / "set.tar", good(), mode))


@pytest.mark.parametrize("content", [b"", b"hello", bytes(10_240)], ids=["empty", "text", "zeros"])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_images(path)


def test_a_tar_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "set.tar", good(0) | good(1))
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(DataError):
        read_images(path)


def test_a_header_that_asks_for_terabytes_is_refused_unread(tmp_path: Path) -> None:
    """An extended header whose size field claims 2**40 bytes: the reader would ask for them in one piece."""
    member = tarfile.TarInfo("00000.png")
    member.type, member.size = tarfile.XHDTYPE, 2**40
    path = tmp_path / "set.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(DataError, match="asks for"):
        read_images(path)


def test_a_set_too_large_for_memory_is_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MAX_SET_BYTES", 40)
    with pytest.raises(DataError, match="2 images of 4 x 3 take 72 bytes; at most 40"):
        read_images(tar_of(tmp_path / "set.tar", good(0) | good(1)))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 members"):
        read_images(tar_of(tmp_path / "set.tar", good(0) | good(1)))
