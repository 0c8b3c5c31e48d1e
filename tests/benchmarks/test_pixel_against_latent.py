"""One step of the same UNet on the pixels of an image and on its latent: values, time and memory."""

from __future__ import annotations

import json
import statistics

import processes
import pytest
from race import Race
from result import Result

pytestmark = [
    pytest.mark.benchmark(group="pixel against latent space, one step of one UNet"),
    pytest.mark.plugins,
]

STEP = """
import time
import torch
from ldm_registry.build import build_schedule
from ldm_registry.costs.resident_memory import forget_peak, peak_resident_mib, resident_mib
from ldm_registry.interfaces import Trained
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind, Prediction

registry = Registry.discover()
schedule = build_schedule("scaled_linear", {}, registry)
unet = registry.get(Kind.DENOISER, "unet")
torch.manual_seed(0)
network = unet(unet.Config(**CONFIG), Trained(Prediction.EPSILON, schedule)).eval()
z, level = torch.randn(1, CONFIG["in_channels"], SIDE, SIDE), schedule.level(torch.tensor(500)).normalised()
times = []
with torch.inference_mode():
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    before = resident_mib()
    forget_peak()
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        network(z, level, {})
        times.append(time.perf_counter() - begin)
print([z.numel(), min(times[1:]), (peak_resident_mib() - before) * 2**20])
"""
TURNS = 2


def test_a_step_in_either_space(race: Race, smoke: bool) -> None:
    pixels, widths = (64, (8, 8, 16, 16)) if smoke else (512, (32, 64, 128, 128))
    network = {
        "block_out_channels": widths,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
    }
    spaces = {"pixels": (3, pixels), "latent": (4, pixels // 8)}
    found: dict[str, list[list[float]]] = {space: [] for space in spaces}
    for _ in range(1 if smoke else TURNS):
        for space, (channels, side) in spaces.items():
            config = {**network, "in_channels": channels, "out_channels": channels, "sample_size": side}
            code = processes.python(STEP, CONFIG=config, SIDE=side, REPEATS=1)
            found[space].append(json.loads(processes.output(code)))
    middle = {
        space: [statistics.median(column) for column in zip(*turns, strict=True)]
        for space, turns in found.items()
    }
    lines = []
    for index, (what, unit) in enumerate((("values", ""), ("time", "s"), ("memory beside the weights", "B"))):
        more, less = middle["pixels"][index], middle["latent"][index]
        times_less = f"{more / less:.3g} times less"
        lines.append(Result(f"{what}, {pixels} px as pixels", more, unit, turns=TURNS))
        lines.append(Result(f"{what}, as a latent of stride 8", less, unit, turns=TURNS, note=times_less))
    race.found(*lines)
