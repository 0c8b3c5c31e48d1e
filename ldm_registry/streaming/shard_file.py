"""One shard: a WebDataset tar of `KEY.png` beside `KEY.json`. Nothing in it tells when or by whom it was made."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ldm_registry.digests import sha256
from ldm_registry.report.grid import to_picture
from ldm_registry.spec import PipelineSpec, spec_digest
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Shard
from ldm_registry.streaming.whole_file import written_whole

COMPRESSION = 3
"""Of zlib: half the time of the usual 6, for files that are a tenth larger."""
MAX_LABEL = 2**31 - 1


@final
class Sidecars:
    """What is noted beside each image.

    Args:
        spec: What the images are made from.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self._spec, self._digest = spec, spec_digest(spec)

    def of(self, index: int) -> dict[str, Any]:
        """The note of one image.

        Args:
            index: Of the image in the run.
        """
        condition = {name: values[index % len(values)] for name, values in self._spec.condition.items()}
        label = condition.get("class_label")
        return {
            "index": index,
            "seed": self._spec.seed + index,
            # Readers of image sets want a label; 0 stands for none.
            "label": label if isinstance(label, int) and 0 <= label <= MAX_LABEL else 0,
            "condition": condition,
            "spec_sha256": self._digest,
        }


@final
class OpenShard:
    """A shard that is being written, image by image.

    Attributes:
        shard: Which one.
        added: Images so far.
    """

    def __init__(self, shard: Shard, tar: tarfile.TarFile, sidecars: Sidecars) -> None:
        self.shard = shard
        self.added = 0
        self._tar, self._sidecars = tar, sidecars

    def add(self, pixels: Tensor) -> None:
        """Write the next images.

        Args:
            pixels: uint8 [B, H, W, C].
        """
        for image in pixels:
            index = self.shard.images[self.added]
            key, picture = f"{index:09d}", io.BytesIO()
            to_picture(image).save(picture, "PNG", compress_level=COMPRESSION)
            self._member(f"{key}.png", picture.getvalue())
            self._member(f"{key}.json", (json.dumps(self._sidecars.of(index)) + "\n").encode())
            self.added += 1

    def _member(self, name: str, content: bytes) -> None:
        # A new TarInfo has neither time nor owner.
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


@contextmanager
def open_shard(folder: Path, shard: Shard, sidecars: Sidecars) -> Iterator[OpenShard]:
    """A shard to be filled; it appears in the folder when the block ends, whole, and not at all where it fails.

    Args:
        folder: Where to.
        shard: Which one.
        sidecars: What is noted beside each image.

    Raises:
        ResourceError: The disk is full, or does not let itself be written to.
    """
    with (
        written_whole(folder / shard.file) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        yield OpenShard(shard, tar, sidecars)


def entry_of(folder: Path, shard: Shard) -> Entry:
    """The entry of a shard that was just written.

    Args:
        folder: Where it lies.
        shard: Which one.
    """
    path = folder / shard.file
    return Entry(shard.file, shard.images.start, len(shard.images), path.stat().st_size, sha256(path))
