"""Image sets: WebDataset tars of PNGs with labels, read as if somebody had tampered with them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, final

import numpy
import torch
from PIL import Image
from torch import Tensor

from ldm_registry.errors import DataError, NotFoundError

MAX_MEMBERS = 200_000
MAX_PNG_BYTES = 16 * 2**20
MAX_JSON_BYTES = 64 * 2**10
MAX_SIDE = 4096
MAX_PIXELS = 2**22
MAX_SET_BYTES = 4 * 2**30
MAX_PROBLEMS = 20

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BROKEN_TAR = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError)
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: uint8 [N, 3, H, W].
        labels: int64 [N], each at least 0.
        names: What each image is called: the `name` in its JSON, or its file's stem.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def read_images(path: Path, limit: int | None = None) -> ImageSet:
    """Read a WebDataset tar of `KEY.png` beside `KEY.json`, the latter with an integer `label`.

    Names, types and sizes of all members are checked before a byte of them is read, each image's size before
    it is decoded, and the size of the whole set before memory is taken for it.

    Args:
        path: An uncompressed tar.
        limit: Read only the first so many images.

    Raises:
        NotFoundError: There is no such file.
        DataError: It is broken, oversized, or holds anything but regular files of these two sorts.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"there is no image set at {path}", hint="give the path of a WebDataset tar")
    with path.open("rb") as raw:
        try:
            with tarfile.open(fileobj=_Bounded(raw), mode="r:") as tar:  # type: ignore[call-overload]  # a file by duck
                pairs = _pairs(tar, path)[:limit]
                return _read_pairs(tar, pairs, path)
        except _BROKEN_TAR as error:
            raise DataError(f"{path} cannot be read as an uncompressed tar: {error}") from error


def to_unit(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images [..., H, W] to pixels in [-1, 1]."""
    return images.to(dtype).div_(127.5).sub_(1.0)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels, clamped to [-1, 1], to the nearest of 256 values; inverse of `to_unit`."""
    return pixels.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)


@final
class _Bounded:
    """A file that refuses single reads so large that only a forged tar header can ask for them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_PNG_BYTES:
            raise tarfile.ReadError(
                f"a header asks for {size} bytes at once; at most {MAX_PNG_BYTES} are read"
            )
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(frozen=True, slots=True)
class _Pair:
    key: str
    png: tarfile.TarInfo
    label: tarfile.TarInfo


def _pairs(tar: tarfile.TarFile, path: Path) -> list[_Pair]:
    """Every image with its JSON, after the names, types and sizes of all members have been checked."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    problems: list[str] = []
    for count, member in enumerate(tar):
        if count >= MAX_MEMBERS:
            raise DataError(f"{path} has more than {MAX_MEMBERS} members")
        problem = _member_problem(member)
        key, _, suffix = member.name.rpartition(".")
        if problem is None and suffix in found.setdefault(key, {}):
            problem = "stands in the tar twice"
        if problem is not None:
            problems.append(f"member {member.name[:200]!r} {problem}")
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        found[key][suffix] = member
    else:
        for key, files in found.items():
            problems += [
                f"image {key!r} has no {key}.{suffix}" for suffix in ("png", "json") if suffix not in files
            ]
        if not found:
            problems.append("it is empty; expected pairs of KEY.png and KEY.json")
    if problems:
        raise DataError(f"{path} is not an acceptable image set", problems[:MAX_PROBLEMS])
    return [_Pair(key, files["png"], files["json"]) for key, files in found.items()]


def _member_problem(member: tarfile.TarInfo) -> str | None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        return "has a path that leads out of the set"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        return "is not a regular file"
    largest = {".png": MAX_PNG_BYTES, ".json": MAX_JSON_BYTES}.get(name.suffix)
    if largest is None:
        return "is neither .png nor .json"
    if not 0 < member.size <= largest:
        return f"has {member.size} bytes; expected 1 to {largest}"
    return None


def _read_pairs(tar: tarfile.TarFile, pairs: list[_Pair], path: Path) -> ImageSet:
    """Decode the images straight into their place in the set."""
    labels, names = [], []
    images = torch.empty(0, dtype=torch.uint8)
    for index, pair in enumerate(pairs):
        meta = _meta(tar, pair, path)
        labels.append(meta["label"])
        names.append(str(meta.get("name", pair.key))[:200])
        png = _content(tar, pair.png, path)
        width, height = _png_size(png, pair.png.name, path)
        if index == 0:
            images = _allocate(len(pairs), height, width, path)
        if (height, width) != tuple(images.shape[2:]):
            raise DataError(
                f"{path}: {pair.png.name} is {width} x {height}; "
                f"expected {images.shape[3]} x {images.shape[2]}, the size of the first image"
            )
        images[index] = _decode(png, pair.png.name, path)
    return ImageSet(images, torch.tensor(labels, dtype=torch.int64), tuple(names))


def _allocate(count: int, height: int, width: int, path: Path) -> Tensor:
    size = count * 3 * height * width
    if size > MAX_SET_BYTES:
        raise DataError(
            f"{path}: {count} images of {width} x {height} take {size} bytes; at most {MAX_SET_BYTES}"
        )
    return torch.empty(count, 3, height, width, dtype=torch.uint8)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = tar.extractfile(member)
    content = file.read() if file is not None else b""
    if len(content) != member.size:
        raise DataError(f"{path}: {member.name} is cut off; got {len(content)} bytes, expected {member.size}")
    return content


def _meta(tar: tarfile.TarFile, pair: _Pair, path: Path) -> dict[str, Any]:
    """The JSON of one image, with a label that is a whole number."""
    where = f"{path}: {pair.label.name}"
    try:
        meta = json.loads(_content(tar, pair.label, path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    label = meta.get("label") if isinstance(meta, dict) else None
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**31:
        raise DataError(f"{where} has label {label!r:.100}; expected a whole number of at least 0")
    return dict(meta)


def _png_size(content: bytes, name: str, path: Path) -> tuple[int, int]:
    """Width and height from the header alone, before anything is decoded."""
    if len(content) < 24 or not content.startswith(_PNG_SIGNATURE) or content[12:16] != b"IHDR":
        raise DataError(f"{path}: {name} does not begin as a PNG does; got {content[:8]!r}")
    width, height = struct.unpack(">II", content[16:24])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise DataError(
            f"{path}: {name} claims {width} x {height} pixels; "
            f"expected at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
        )
    return width, height


def _decode(content: bytes, name: str, path: Path) -> Tensor:
    """One PNG to uint8 [3, H, W]."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.mode not in ("RGB", "L", "P"):
                raise DataError(
                    f"{path}: {name} has pixels of mode {image.mode}; expected RGB, grey or palette"
                )
            pixels = numpy.array(image.convert("RGB"))
    except _BROKEN_IMAGE as error:
        raise DataError(f"{path}: {name} is a broken PNG: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
