"""Several processes train what one trains, whichever of them die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import blobs, write_tar
from safetensors.torch import load_file
from torch import Tensor

from ldm_registry.errors import LdmError, SpecError
from ldm_registry.training.processes import Processes, processes
from ldm_registry.training.seeds import rows_of_step
from ldm_registry.training.settings import DenoiserTraining
from ldm_registry.training.sharding import is_sharded
from ldm_registry.training.state import FILE, read_notes

STEPS = 50
SPEC = """
version: 1
image: {channels: 3, size: 16}
encoder: {use: identity}
denoiser:
  use: dit
  checkpoint: denoiser
  config: {num_attention_heads: 2, attention_head_dim: 8, in_channels: 3, out_channels: 3, num_layers: 2,
           sample_size: 16, patch_size: 4, num_embeds_ada_norm: 3, dropout: 0.0}
  trained: {prediction: v, schedule: {name: cosine}}
scheduler: {use: ddim, config: {steps: 4}}
decoder: {use: identity}
data: {images: val.tar, train: train.tar}
train:
  denoiser: {steps: 50, batch: 6, accumulate: 2, warmup: 5, validate_every: 20, ema_half_life: 10,
             checkpoint_every_s: 600}
"""
CPU = torch.device("cpu")


def ranks(count: int) -> list[Processes]:
    """What each process of a training knows of its place."""
    made = []
    for rank in range(count):
        process = Processes(CPU)
        process.rank, process.count = rank, count
        made.append(process)
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_processes_take_every_sample_of_an_epoch_once(count: int) -> None:
    samples, batch = 84, 12
    taken: list[list[int]] = [[] for _ in range(count)]
    for step in range(samples // batch):
        rows = rows_of_step(samples, batch, seed=3, step=step)
        for process in ranks(count):
            taken[process.rank] += rows[process.share(batch)].tolist()
    assert sorted(row for rows in taken for row in rows) == list(range(samples))
    assert max(map(len, taken)) - min(map(len, taken)) <= samples // batch


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_mean_over_processes_of_weighted_means_is_that_over_samples(count: int) -> None:
    values = torch.randn(11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [process.weight(11) * values[process.share(11)].mean() for process in ranks(count)]
    assert float(sum(parts) / count) == pytest.approx(float(values.mean()), rel=1e-12)


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(SpecError, match="a batch of 3 cannot be shared by 4 processes"):
        ranks(4)[0].share(3)


def test_what_cannot_be_sharded_is_refused_by_name() -> None:
    settings = DenoiserTraining(sharded=True, optimizer="muon", precision="float16", compile=True)
    group: Any = SimpleNamespace(count=2)
    with pytest.raises(SpecError) as caught:
        is_sharded(settings, group)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "optimizer",
        "precision",
        "compile",
    ]
    group.count = 1
    assert not is_sharded(settings, group)


def test_without_the_extra_several_processes_are_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SpecError) as caught, processes(DenoiserTraining(), CPU):
        pass
    assert caught.value.hint == 'pip install "ldm-registry[train]"'


def test_a_launcher_that_contradicts_the_spec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(SpecError, match="told of mixed precision bf16"), processes(DenoiserTraining(), CPU):
        pass


def test_one_process_imports_no_accelerate() -> None:
    code = (
        "import sys, torch\n"
        "from ldm_registry.training.processes import processes\n"
        "from ldm_registry.training.settings import DenoiserTraining\n"
        "with processes(DenoiserTraining(), torch.device('cpu')) as group: assert group.largest([3]) == [3]\n"
        "assert not {'accelerate', 'torch.distributed.tensor', 'torch.distributed.fsdp'} & set(sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


class Workshop:
    """A folder with a spec, in which trainings are run by the command line."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("accelerate")
        self.folder = folder
        write_tar(folder / "train.tar", blobs(20, 0))
        write_tar(folder / "val.tar", blobs(6, 1))
        (folder / "spec.yaml").write_text(SPEC)
        (folder / "sharded.yaml").write_text(SPEC.replace("steps: 50,", "steps: 50, sharded: true,"))
        for spec in ("spec.yaml", "sharded.yaml"):
            often = (folder / spec).read_text().replace("checkpoint_every_s: 600", "checkpoint_every_s: 0.2")
            (folder / f"often-{spec}").write_text(often)

    def start(
        self, launcher: list[str], output: str, spec: str = "spec.yaml", *options: str
    ) -> subprocess.Popen[str]:
        words = ["-m", "ldm_registry", "train", "denoiser", spec, "-o", output, *options]
        return subprocess.Popen(
            [sys.executable, *launcher, *words],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def train(self, launcher: list[str], output: str, spec: str = "spec.yaml") -> str:
        with self.start(launcher, output, spec) as running:
            said, _ = running.communicate(timeout=180)
        assert running.returncode == 0, said
        return said

    def state(self, output: str) -> Path:
        return self.folder / output / ".training"

    def weights(self, output: str) -> dict[str, Tensor]:
        found = load_file(self.state(output) / FILE)
        return {
            name: value for name, value in found.items() if name.partition("/")[0] in ("module", "average")
        }


def torchrun(count: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One training by one process, which is what the others are compared with."""
    made = Workshop(tmp_path_factory.mktemp("processes"))
    made.train([], "one")
    return made


def assert_same(shop: Workshop, output: str) -> None:
    assert read_notes(shop.state(output))["step"] == STEPS
    expected, got = shop.weights("one"), shop.weights(output)
    assert got.keys() == expected.keys()
    largest = max(float((got[name] - expected[name]).abs().max()) for name in expected)
    assert largest < 1e-5


LAUNCHERS = {
    "two": (torchrun(2), "spec.yaml"),
    "four": (torchrun(4), "spec.yaml"),
    "four, sharded": (torchrun(4), "sharded.yaml"),
    "accelerate": (
        ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"],
        "spec.yaml",
    ),
}


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize("name", LAUNCHERS)
def test_several_processes_end_with_the_weights_of_one(shop: Workshop, name: str) -> None:
    launcher, spec = LAUNCHERS[name]
    said = shop.train(launcher, name, spec)
    assert said.count("finished at step 50") == 1  # one of them speaks
    assert_same(shop, name)


@pytest.mark.slow
@pytest.mark.plugins
@pytest.mark.parametrize(
    ("spec", "then"), [("often-spec.yaml", "sharded.yaml"), ("often-sharded.yaml", "spec.yaml")]
)
def test_a_killed_rank_ends_the_job_and_half_as_many_go_on(shop: Workshop, spec: str, then: str) -> None:
    output = f"killed {spec}"
    with shop.start(torchrun(4), output, spec) as running:
        state = shop.state(output)
        wait_until(lambda: (state / FILE).is_file() and read_notes(state)["step"] >= 2, running)
        os.kill(children(running.pid)[-1], signal.SIGKILL)
        said, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "SIGKILL" in said
    assert "the last saved state is whole" in said
    step = read_notes(state)["step"]
    assert 2 <= step < STEPS
    shop.train(torchrun(2), output, then)
    assert_same(shop, output)


def wait_until(holds: Any, running: subprocess.Popen[str]) -> None:
    for _ in range(2000):
        if running.poll() is not None:
            raise AssertionError(running.communicate()[0])
        try:
            if holds():
                return
        except LdmError:
            pass
        time.sleep(0.03)
    raise AssertionError("nothing was saved within a minute")


def children(pid: int) -> list[int]:
    """The trainings that a launcher has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    if not found.is_file():
        pytest.skip("this system does not say which processes a process has started")
    return [int(child) for child in found.read_text().split()]
