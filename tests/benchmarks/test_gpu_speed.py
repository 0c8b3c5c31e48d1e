"""The cases for an accelerator, `--device cuda`: DiT-XL/2, the decoder of Stable Diffusion, a loop that never waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import networks
import pytest
import torch
from network_cases import DIT, Contestants, contestants
from pair import Pair
from race import Race
from result import Result
from torch.profiler import ProfilerActivity, profile, record_function

from ldm_registry.assembly import assemble
from ldm_registry.interfaces import Decoder
from ldm_registry.pipeline import Event, Stepped
from ldm_registry.runtime.compiled import CompiledCall
from ldm_registry.runtime.entry import put_in
from ldm_registry.spec import PipelineSpec

pytestmark = [
    pytest.mark.benchmark(group="on an accelerator, bfloat16"),
    pytest.mark.plugins,
    pytest.mark.filterwarnings("ignore"),  # what PyTorch says to itself while it compiles
]

DTYPE = torch.bfloat16
TOLERANCE = 0.05
"""Seven bits of mantissa through 28 blocks."""
XL = replace(
    DIT,
    label="DiT-XL/2, 256 px",
    config={**DIT.config, "num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28},
)
SD_WIDTHS, SCALING = (128, 256, 512, 512), 0.18215
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH")


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("how", ["eager", "compiled", "compiled with CUDA graphs"])
def test_dit_xl(gpu_race: Race, how: str, batch: int, tmp_path: Path, smoke: bool) -> None:
    if smoke and (how != "eager" or batch > 1):
        pytest.skip("compiling is tried on the CPU in test_compiled_speed.py")
    both = contestants(XL, batch, tmp_path / "model", smoke=smoke, device=gpu_race.device, dtype=DTYPE)
    pair = both.pair(TOLERANCE) if how == "eager" else compiled(both, cuda_graphs="graphs" in how)
    note = "at least 50 % of the ceiling wanted" if batch == 32 else ""
    goal = 0.95 if how == "eager" else 0.9
    gpu_race(f"{XL.label}, batch {batch}, {how}", pair, goal=goal, dtype=DTYPE, note=note)


def compiled(both: Contestants, *, cuda_graphs: bool) -> Pair:
    """Both sides under `torch.compile`, in the same mode."""
    put_in(both.denoiser, CompiledCall(both.denoiser, cuda_graphs=cuda_graphs))
    both.network.compile(dynamic=False, mode="reduce-overhead" if cuda_graphs else None)
    pair = both.pair(TOLERANCE)

    def theirs() -> torch.Tensor:
        if cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return pair.diffusers().clone()

    for _ in range(3):
        pair.ours(), theirs()
    return replace(pair, diffusers=theirs)


def test_decode(gpu_race: Race, tmp_path: Path, smoke: bool) -> None:
    widths, pixels = ((8, 16), 32) if smoke else (SD_WIDTHS, 512)
    model = networks.codec("AutoencoderKL", widths, scaling_factor=SCALING).to(DTYPE)
    decoder = cast(Decoder, networks.ours("decoder", model, tmp_path / "vae")).to(gpu_race.device, DTYPE)
    model.to(gpu_race.device)
    space = decoder.latent_space
    z = networks.noise(1, space.channels, pixels // space.stride, pixels // space.stride)
    z = z.to(gpu_race.device, DTYPE)
    pair = Pair(lambda: decoder.decode(z), lambda: model.decode(z / SCALING).sample, TOLERANCE)
    gpu_race(f"AutoencoderKL decode, {pixels} px", pair, goal=0.9, dtype=DTYPE)


def test_the_loop_never_waits_for_the_device(gpu_race: Race, smoke: bool) -> None:
    stage: dict[str, Any] = {"device": str(gpu_race.device), "dtype": "bfloat16"}
    small = {"num_layers": 2, "num_attention_heads": 2}
    codec = {
        "use": "kl-vae",
        "config": {"block_out_channels": (32,) * 4, **BLOCKS},
        "device": stage["device"],
    }
    config = XL.config | (small if smoke else {})
    trained = {"prediction": "epsilon", "schedule": {"name": "scaled_linear"}}
    spec = {
        "version": 1,
        "image": {"channels": 3, "size": 256},
        "encoder": codec,
        "denoiser": {"use": "dit", "config": config, "trained": trained, **stage},
        "scheduler": {"use": "ddim", "config": {"steps": 10}},
        "decoder": codec,
        "condition": {"class_label": (3,)},
        "guidance": {"scale": 4.0},
    }
    pipe = assemble(PipelineSpec.model_validate(spec), init_seed=0)
    events = pipe.trace(1, seed=0, synchronise=False)
    to_step(events, 0)  # kernels are chosen and loaded in the first one
    on_gpu = gpu_race.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as watched, record_function("loop"):
        to_step(events, 9)
    found = watched.events()
    (loop,) = (event.time_range for event in found if event.name == "loop" and event.cpu_time_total > 0)
    waits = [
        event.name
        for event in found
        if event.name.startswith(WAITS) and loop.start <= event.time_range.start <= loop.end
    ]
    note = ", ".join(sorted(set(waits)))
    gpu_race.found(
        Result("waits for the device in 9 steps of the sampling loop", len(waits), "", limit=0, note=note)
    )


def to_step(events: Iterator[Event], index: int) -> None:
    for event in events:
        if isinstance(event, Stepped) and event.index == index:
            return
