"""Large images decoded in tiles: memory against what was stated in advance, and how time grows with area."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import networks
import processes
import pytest
from race import Race
from result import Result

pytestmark = [pytest.mark.benchmark(group="decoding large images in tiles, float32"), pytest.mark.plugins]

DECODE = """
import json, time
import torch
from torch.nn import functional
from ldm_registry import load_component
from ldm_registry.costs.resident_memory import MIB, forget_peak, peak_resident_mib, resident_mib
from ldm_registry.runtime.heap import return_freed

decoder = load_component("decoder", FOLDER)
decoder.tile_pixels = TILE
attend, attending = functional.scaled_dot_product_attention, []

def timed(*args, **options):
    begin = time.perf_counter()
    mixed = attend(*args, **options)
    attending.append(time.perf_counter() - begin)
    return mixed

functional.scaled_dot_product_attention = timed
channels, stride = decoder.latent_space.channels, decoder.latent_space.stride
for side in SIDES:
    z = torch.randn(1, channels, side // stride, side // stride, generator=torch.Generator().manual_seed(0))
    return_freed()
    forget_peak()
    attending.clear()
    before, begin = resident_mib(), time.perf_counter()
    with torch.inference_mode():
        image = decoder.decode(z)
    taken, peak = time.perf_counter() - begin, peak_resident_mib()
    stated = decoder.working_memory(1, side, side)
    print(json.dumps([side, taken, sum(attending), (peak - before) * MIB, peak * MIB, stated]))
    del image
"""
SD_WIDTHS = (128, 256, 512, 512)
LIMIT_BYTES = 6e9
SLOPE = "slope of log time (attention aside) over log area"


@dataclass(frozen=True)
class Decoded:
    """One image: side in pixels, seconds, those of them for attention between all positions, and bytes.

    The bytes are those above what was there before, those of the whole process, and those stated in advance.
    """

    side: int
    taken_s: float
    attention_s: float
    working: float
    process: float
    stated: float


def decoded(folder: Path, sides: tuple[int, ...], tile: int | None) -> list[Decoded]:
    code = DECODE.replace("TILE", str(tile))
    lines = processes.output(processes.python(code, FOLDER=folder, SIDES=sides)).splitlines()
    return [Decoded(*json.loads(line)) for line in lines]


def slope(images: list[Decoded]) -> float:
    """Of the logarithm of time over that of area, least squares; attention grows with its square and is left out."""
    points = [(2 * math.log(image.side), math.log(image.taken_s - image.attention_s)) for image in images]
    middle_x, middle_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum(
        (x - middle_x) ** 2 for x, _ in points
    )


def test_a_narrow_decoder(race: Race, tmp_path: Path, smoke: bool) -> None:
    widths, tile, sides = ((8, 16), 32, (48, 64)) if smoke else ((32, 64, 128, 128), 256, (512, 768, 1024))
    networks.codec("AutoencoderKL", widths).save_pretrained(tmp_path / "vae")
    tiled = decoded(tmp_path / "vae", (tile, *sides), tile)[1:]  # the first one is for warming up
    *_, whole = decoded(tmp_path / "vae", (tile, sides[-1]), None)
    label = f"a quarter of the width of Stable Diffusion, {sides[-1]} px"
    race.found(
        Result(f"{label}, whole: memory", whole.working, "B"),
        Result(f"{label}, in tiles of {tile} px: memory", tiled[-1].working, "B", note=stated(tiled[-1])),
        Result(f"{label}, whole: time", whole.taken_s),
        Result(f"{label}, in tiles of {tile} px: time", tiled[-1].taken_s),
        Result(f"{SLOPE}, {sides[0]} to {sides[-1]} px", slope(tiled), unit=""),
    )


@pytest.fixture
def _poster(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--poster"):
        pytest.skip("4096 px take half an hour or more on two cores: ask for them with --poster")


@pytest.mark.benchmark(group="decoding a poster of 4096 px in tiles, float32")
@pytest.mark.usefixtures("_poster")
def test_a_poster_of_stable_diffusion(race: Race, tmp_path: Path) -> None:
    networks.codec("AutoencoderKL", SD_WIDTHS).save_pretrained(tmp_path / "vae")
    images = decoded(tmp_path / "vae", (512, 1024, 2048, 4096), 192)
    lines = [
        Result(f"Stable Diffusion, {image.side} px: time", image.taken_s, note=attention(image))
        for image in images
    ]
    memory = images[-1]
    race.found(
        *lines,
        Result("Stable Diffusion, 4096 px: memory of the process", memory.process, "B", limit=LIMIT_BYTES),
        Result("Stable Diffusion, 4096 px: working memory", memory.working, "B", note=stated(memory)),
        Result(f"{SLOPE}, 1024 to 4096 px", slope(images[1:]), unit=""),
    )


def attention(image: Decoded) -> str:
    return f"of that for attention between all positions: {image.attention_s:.0f} s"


def stated(image: Decoded) -> str:
    return f"stated in advance: {image.stated / 2**20:.0f} MiB"
