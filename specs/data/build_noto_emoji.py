"""Build the two image sets of the bundled specs from Google's Noto emoji.

    python build_noto_emoji.py [FOLDER]

fetches the npm package `emoji-datasource-google` 16.0.0 with `npm pack`, takes its 64 x 64 images but for the five
bare skin tones, lays them on white, and writes `noto-emoji-64-train.tar` (3525 images) and `noto-emoji-64-val.tar`
(256) in WebDataset form: `NNNNN.png` beside `NNNNN.json`. Needs npm and Pillow. The result depends on the package
alone, bit for bit where zlib is the same.

Images: Noto Emoji by Google, Apache License 2.0.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
INDEX = "package/emoji.json"
IMAGES = "package/img/google/64"
LEFT_OUT = "Component"
VALIDATION_IMAGES = 256
SPLIT_SEED = 0
ORDER_SEED = 1

Emoji = dict[str, Any]
Package = dict[str, bytes]


def main(folder: Path) -> None:
    """Fetch the package and write both sets into a folder."""
    package = fetched()
    groups = [group for entry in json.loads(package[INDEX]) if (group := variants(entry))]
    labels = {name: label for label, name in enumerate(sorted({group[0]["category"] for group in groups}))}
    chosen = validation_names(groups)
    for split, held_out in (("train", False), ("val", True)):
        emoji = [one for group in groups if (group[0]["short_name"] in chosen) is held_out for one in group]
        random.Random(ORDER_SEED).shuffle(emoji)
        write(folder / f"noto-emoji-64-{split}.tar", emoji, labels, package)
        print(f"{split}: {len(emoji)} images", file=sys.stderr)


def fetched() -> Package:
    """Index and images of the package, read once and in order; npm's own client checks its digest."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            wanted = (member for member in tar if member.name == INDEX or member.name.startswith(IMAGES))
            return {member.name: file.read() for member in wanted if (file := tar.extractfile(member))}


def variants(entry: Emoji) -> list[Emoji]:
    """An emoji and its skin tones, as far as Noto draws them; empty for the bare tones themselves."""
    if entry["category"] == LEFT_OUT:
        return []
    common = {key: entry[key] for key in ("name", "short_name", "category", "subcategory")}
    plain = [(None, entry), *entry.get("skin_variations", {}).items()]
    return [
        {**common, "unicode": one["unified"], "image": one["image"], **({"skin_tone": tone} if tone else {})}
        for tone, one in plain
        if one["has_img_google"]
    ]


def validation_names(groups: Sequence[Sequence[Emoji]]) -> set[str]:
    """Whole groups, drawn at random until there are enough images: no twin of one is left to train on."""
    drawn = sorted(groups, key=lambda group: str(group[0]["short_name"]))
    random.Random(SPLIT_SEED).shuffle(drawn)
    names: set[str] = set()
    count = 0
    for group in drawn:
        if count + len(group) <= VALIDATION_IMAGES:
            names.add(group[0]["short_name"])
            count += len(group)
    return names


def write(path: Path, emoji: Sequence[Emoji], labels: dict[str, int], package: Package) -> None:
    """One set as a WebDataset tar without times or owners."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, one in enumerate(emoji):
            for suffix, data in files(one, labels, package):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def files(one: Emoji, labels: dict[str, int], package: Package) -> Iterator[tuple[str, bytes]]:
    """The PNG on white and the JSON of an emoji."""
    with Image.open(io.BytesIO(package[f"{IMAGES}/{one['image']}"])) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    png = io.BytesIO()
    Image.alpha_composite(white, drawn).convert("RGB").save(png, "PNG", optimize=True)
    yield "png", png.getvalue()
    described = {key: value for key, value in one.items() if key != "image"}
    yield "json", json.dumps({**described, "label": labels[one["category"]]}, sort_keys=True).encode()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
