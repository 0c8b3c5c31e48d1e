"""A training that was stopped, at any moment and in any way, ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_parts
import torch
import toy_plugin
from conftest import blobs
from safetensors.torch import load_file
from torch import Tensor

from ldm_registry.interfaces import Trained
from ldm_registry.training.codec import train_codec
from ldm_registry.training.denoiser import train_denoiser
from ldm_registry.training.gaussian import GaussianFit
from ldm_registry.training.latents import Latents
from ldm_registry.training.seeds import seeded
from ldm_registry.training.settings import CodecTraining, DenoiserTraining
from ldm_registry.training.state import FILE
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import WEIGHTS

SCRIPT = Path(__file__).with_name("run_training.py")
PATH = os.pathsep.join(str(folder) for folder in (*SCRIPT.parents[:2], SCRIPT.parents[2]))


def weights_after(settings: CodecTraining, folder: Path, stops: list[int]) -> dict[str, Tensor]:
    """Train a tiny codec, abandoning the run after each of the given steps; the final weights."""
    images, validation = blobs(20, 0), blobs(4, 1)
    before = 0
    for stop in [*stops, settings.steps]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = (
                tiny_parts.TinyEncoder(tiny_parts.TinyConfig()),
                tiny_parts.TinyDecoder(tiny_parts.TinyConfig()),
            )
        torch.manual_seed(random.randrange(2**31))  # the global generator is nobody's business
        seen = []
        for progress in train_codec(*parts, settings, images, validation=validation, folder=folder):
            seen.append(progress.step)
            if progress.step >= stop and progress.stopped is None:
                break
        # A run that started afresh would end with the same bits: it has to go on from where the last one was.
        assert seen[0] > before
        before = stop - 1
    return {f"{part.kind}.{name}": tensor for part in parts for name, tensor in part.state_dict().items()}


VARIANTS = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "bfloat16": {"precision": "bfloat16"},
    "float16 with its loss scale": {"precision": "float16"},
    "adversarial": {"adversarial": 0.5, "adversarial_start": 3},
    "accumulated": {"accumulate": 2},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_ends_with_the_same_bits(variant: dict[str, object], tmp_path: Path) -> None:
    settings = CodecTraining(
        steps=9, batch=4, warmup=2, validate_every=1, checkpoint_every_s=1e-9, ema_half_life=3.0, **variant
    )
    whole = weights_after(settings, tmp_path / "whole", [])
    pieces = weights_after(settings, tmp_path / "pieces", [2, 3, 7])
    assert whole.keys() == pieces.keys()
    assert [name for name in whole if not torch.equal(whole[name], pieces[name])] == []


def denoiser_after(settings: DenoiserTraining, folder: Path, stops: list[int]) -> dict[str, Tensor]:
    """Train a toy denoiser, abandoning the run after each of the given steps; the final weights."""
    values = torch.randn(2, 32, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    latents = Latents(values, torch.arange(32) % 3)
    before = 0
    for stop in [*stops, settings.steps]:
        schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            denoiser = toy_plugin.ToyDenoiser(
                toy_plugin.DenoiserConfig(channels=2), Trained(Prediction.V, schedule)
            )
        torch.manual_seed(random.randrange(2**31))  # the global generator is nobody's business
        yardstick = GaussianFit.of(latents.flat())
        run = train_denoiser(
            denoiser, settings, latents, validation=latents, gaussian=yardstick, folder=folder, identity={}
        )
        seen = []
        for progress in run:
            seen.append(progress.step)
            if progress.step >= stop and progress.stopped is None:
                break
        assert seen[0] > before
        before = stop - 1
    return denoiser.state_dict()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_denoiser_ends_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    settings = DenoiserTraining(
        steps=9,
        batch=4,
        warmup=2,
        validate_every=1,
        checkpoint_every_s=1e-9,
        ema_half_life=3.0,
        label_dropout=0.3,
        optimizer=optimizer,
    )
    whole = denoiser_after(settings, tmp_path / "whole", [])
    pieces = denoiser_after(settings, tmp_path / "pieces", [2, 3, 7])
    assert [name for name in whole if not torch.equal(whole[name], pieces[name])] == []


def test_training_does_not_touch_the_weights_it_forgot(tmp_path: Path) -> None:
    """The runs above would agree trivially if nothing were trained."""
    settings = CodecTraining(steps=9, batch=4, warmup=2, validate_every=0)
    trained = weights_after(settings, tmp_path, [])
    torch.manual_seed(0)
    before = tiny_parts.TinyEncoder(tiny_parts.TinyConfig()).state_dict()
    assert all(not torch.equal(before[name], trained[f"encoder.{name}"]) for name in before)


def spawn(stage: str, spec: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), stage, str(spec)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
    )


def killed_while_training(spec: Path, state: Path, stream: random.Random) -> bool:
    """Start the training, wait for a saved state, kill it a random moment later; whether it was still running."""
    process = spawn("encoder", spec)
    while not state.exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(stream.uniform(0.0, 0.3))
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


@pytest.mark.slow
def test_a_training_that_is_killed_ends_with_the_same_bits(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    text = spec.read_text().replace("codec: {steps: 12", "codec: {steps: 200")
    spec.write_text(text.replace("checkpoint_every_s: 0.0001", "checkpoint_every_s: 0.05"))
    killed = killed_while_training(spec, tmp_path / "codec" / ".training" / FILE, random.Random(0))
    assert killed, "the training was over before it could be killed; give it more steps"
    resumed = spawn("encoder", spec)
    output, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0
    assert int(output.split()[0]) > 1, "it started afresh"
    assert output.splitlines()[-1] == "200 finished"
    got = load_file(tmp_path / "codec" / WEIGHTS)
    (tmp_path / "codec").rename(tmp_path / "killed")
    whole = spawn("encoder", spec)
    whole.communicate(timeout=60)
    expected = load_file(tmp_path / "codec" / WEIGHTS)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_sigterm_ends_a_training_with_a_whole_checkpoint(
    workshop: Callable[..., Path], tmp_path: Path
) -> None:
    spec = workshop()
    spec.write_text(spec.read_text().replace("codec: {steps: 12", "codec: {steps: 100000"))
    process = spawn("encoder", spec)
    state = tmp_path / "codec" / ".training" / FILE
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1].endswith("interrupted")
    assert {entry.name for entry in (tmp_path / "codec").iterdir()} == {
        ".training",
        "README.md",
        "config.json",
        "contract.json",
        WEIGHTS,
    }


def test_noise_depends_on_its_words_alone() -> None:
    first = torch.randn(4, generator=seeded(0, "noise", 7))
    torch.randn(100)
    assert torch.equal(first, torch.randn(4, generator=seeded(0, "noise", 7)))
    assert not torch.equal(first, torch.randn(4, generator=seeded(0, "noise", 8)))
    assert not torch.equal(first, torch.randn(4, generator=seeded(1, "noise", 7)))
