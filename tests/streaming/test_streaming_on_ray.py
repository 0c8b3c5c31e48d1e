from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_pipelines import SPEC, toy
from toy_workshop import installed, search_path, toy_spec

from ldm_registry.assembly import assemble
from ldm_registry.data import read_images
from ldm_registry.errors import CheckpointError, LdmError, PluginError, ResourceError, SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.spec import load_spec, swap
from ldm_registry.streaming import shared_folder, stream
from ldm_registry.streaming.elsewhere import template
from ldm_registry.streaming.identity import identity_of
from ldm_registry.streaming.on_ray import wants_gpu

N, BATCH, SHARD = 17, 3, 6


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def pictures(folder: Path) -> Tensor:
    """uint8 [N, C, H, W], in order."""
    return torch.cat([read_images(path).images for path in sorted(folder.glob("*.tar"))])


def test_a_finished_run_needs_no_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pipe = toy()
    list(stream(pipe, N, tmp_path, batch=BATCH, shard_size=SHARD))
    first, again = stream(pipe, N, tmp_path, on="ray", address="127.0.0.1:1")
    assert (first.found, again.made, again.stopped) == (N, 0, "finished")
    with pytest.raises(LdmError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        list(stream(pipe, N + 1, tmp_path, on="ray", address="127.0.0.1:1"))
    assert sum(path.name.endswith(".tar") for path in tmp_path.iterdir()) == 3


def test_options_of_ray_are_for_ray_and_for_shards(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SpecError, match="--on ray"):
        next(stream(toy(), N, tmp_path / "run", workers=2))
    assert not (tmp_path / "run").exists()


def test_without_ray_the_command_says_what_to_install_and_touches_nothing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from ldm_registry.__main__ import main; sys.exit(main())"
    words = ["run", str(toy_spec(tmp_path)), "-n", "4", "--on", "ray", "-o", str(tmp_path / "run")]
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert 'pip install "ldm-registry[ray]"' in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_worker_takes_a_gpu_where_a_stage_wants_one_and_never_two() -> None:
    assert not wants_gpu(SPEC)
    assert wants_gpu(swap(SPEC, denoiser_device="cuda"))
    assert wants_gpu(swap(SPEC, decoder_device="cuda:0"))
    with pytest.raises(SpecError, match="one GPU") as raised:
        wants_gpu(swap(SPEC, denoiser_device="cuda:1"))
    assert raised.value.problems == ("denoiser is to run on cuda:1",)


@pytest.mark.plugins
def test_the_driver_tells_what_workers_have_to_hold_without_their_gpu_or_compiler() -> None:
    spec = load_spec("emoji-kl-dit")
    assert identity_of(template(spec)).differences(identity_of(assemble(spec))) == []
    changes: dict[str, Any] = {"denoiser_device": "cuda", "denoiser_runtime": {"compile": True}}
    there = template(swap(spec, **changes))
    assert {str(one.device) for one in there.denoiser.parameters()} == {"cpu"}
    assert there.spec.denoiser.device == "cuda"
    assert identity_of(there).parts_sha256 == identity_of(assemble(spec)).parts_sha256


def test_a_folder_of_the_same_name_on_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "PATIENCE_S", 0.0)
    (tmp_path / "there").mkdir()
    with shared_folder.marked(tmp_path) as mark:
        shared_folder.check_shared(tmp_path, mark)
        with pytest.raises(ResourceError, match="not the folder that the run is written to"):
            shared_folder.check_shared(tmp_path / "there", mark)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The toy plugins installed for this process and for the workers of a Ray that is started while this is there."""
    site = installed(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", search_path(site))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else runs on the machine goes first
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.syspath_prepend(str(site))
        yield site


@pytest.fixture(scope="module")
def one_node(site: Path) -> Iterator[None]:
    """A Ray that this process has joined."""
    pytest.importorskip("ray")
    from ldm_registry.engines.ray_cluster import connected

    with connected(workers=2):
        yield


def troubled(folder: Path, kind: str) -> Pipeline:
    """Toys that get into trouble with the third shard."""
    return assemble(
        load_spec(toy_spec(folder, scheduler=f"{{use: toy-trouble, config: {{kind: {kind}, seed: 14}}}}"))
    )


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_an_error_that_leaves_the_finished_shards(
    one_node: None, tmp_path: Path
) -> None:
    list(stream(troubled(tmp_path, "none"), N, tmp_path / "whole", batch=BATCH, shard_size=SHARD))
    whole = pictures(tmp_path / "whole")

    def broken(kind: str) -> LdmError:
        folder = tmp_path / kind
        run = stream(troubled(tmp_path, kind), N, folder, batch=BATCH, shard_size=SHARD, on="ray", workers=1)
        with pytest.raises(ResourceError) as raised:
            list(run)
        listed = json.loads((folder / "manifest.json").read_text())["shards"]
        assert [entry["file"] for entry in listed] == ["images-000000.tar", "images-000001.tar"]
        assert [path.name for path in sorted(folder.glob("*.tar"))] == [entry["file"] for entry in listed]
        assert torch.equal(pictures(folder), whole[: 2 * SHARD])
        assert list(folder.glob(".*.partial")) == []
        return raised.value

    memory, disk, killed = broken("memory"), broken("disk"), broken("killed")
    assert "node " in memory.summary
    assert "3 images at once do not fit into memory" in memory.summary
    assert "images-000002.tar could not be written" in disk.summary
    assert "finished shards are whole" in str(disk)
    assert killed.summary == "images-000002.tar is given up: its worker has died, 3 times"
    assert "--workers" in str(killed.hint)

    pipe = troubled(tmp_path, "none")
    other = replace(pipe, denoiser=troubled(tmp_path, "none").denoiser)
    other.denoiser.mix.bias.data += 1e-3  # type: ignore[union-attr, operator]  # a ToyDenoiser
    with pytest.raises(CheckpointError, match="not those that the run was started with") as raised:
        list(stream(other, N, tmp_path / "other", batch=BATCH, on="ray", workers=1))
    assert [line.partition(":")[0] for line in raised.value.problems] == ["denoiser"]


class Workshop:
    """A cluster of several nodes on this machine, and runs on it in processes of their own."""

    def __init__(self, site: Path, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.spec = toy_spec(folder, scheduler="{use: toy-trouble, config: {kind: none}}")
        self.started: list[subprocess.Popen[str]] = []
        head = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def run(self, name: str, *options: str) -> subprocess.Popen[str]:
        sizes = ["--n", "240", "--batch", "4", "--shard-size", "8"]
        words = ["run", self.spec, *sizes, "-o", self.folder / name]
        process = subprocess.Popen(
            [sys.executable, "-m", "ldm_registry", *map(str, words), "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TOY_PAUSE_S": "0"},
        )
        self.started.append(process)
        return process

    def on_ray(self, name: str) -> subprocess.Popen[str]:
        return self.run(name, "--on", "ray", "--address", self.cluster.address)

    def wait_for(self, count: int, name: str, process: subprocess.Popen[str]) -> None:
        """Until so many shards are finished."""
        deadline = time.monotonic() + 60
        while len(list((self.folder / name).glob("images-*.tar"))) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def workshop(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    pytest.importorskip("ray")
    # Workers wait rather than compute, so that nodes die while shards are under way on any machine.
    monkeypatch.setenv("TOY_PAUSE_S", "0.6")
    made = Workshop(site, tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    made.cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types here


@pytest.mark.slow
def test_nodes_that_die_and_nodes_that_come_change_no_byte(workshop: Workshop, site: Path) -> None:
    whole = workshop.run("whole")
    chance = random.Random(5)
    process = workshop.on_ray("there")
    workshop.wait_for(3, "there", process)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate()
    assert process.returncode == 130, errors
    found = json.loads(out)["images"]
    assert found >= 8  # what a worker has not reported yet does not count

    process = workshop.on_ray("there")
    workshop.wait_for(5, "there", process)
    workshop.others.append(workshop.cluster.add_node(num_cpus=1))
    for count in sorted(chance.sample(range(8, 22), 2)):
        workshop.wait_for(count, "there", process)
        time.sleep(chance.random())
        node = workshop.others.pop(chance.randrange(len(workshop.others)))
        workshop.cluster.remove_node(node, allow_graceful=False)
        assert process.poll() is None
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    document = json.loads(out)
    assert "a worker has died" in errors
    assert (document["found"], document["images"]) == (found, 240)
    whole.communicate()
    assert len(shards(workshop.folder / "there")) == 30
    assert shards(workshop.folder / "there") == shards(workshop.folder / "whole")
    listed = [
        json.loads((workshop.folder / name / "manifest.json").read_text()) for name in ("there", "whole")
    ]
    assert listed[0]["shards"] == listed[1]["shards"]

    before = {path: path.stat().st_mtime_ns for path in (workshop.folder / "there").glob("*.tar")}
    again = workshop.run("there", "--on", "ray", "--address", "127.0.0.1:1")
    again.communicate()
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    odd = installed(workshop.folder / "odd", "toy", "2.0")
    workshop.cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": search_path(odd)})
    refused = workshop.on_ray("elsewhere")
    out, _ = refused.communicate()
    assert refused.returncode == PluginError.exit_code
    assert "toy is 1.0 here, 2.0 there" in "\n".join(json.loads(out)["problems"])
