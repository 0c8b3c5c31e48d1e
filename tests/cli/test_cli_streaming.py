from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ldm_registry.cli.commands import making

Start = Callable[..., subprocess.Popen[str]]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_many_images_are_streamed_to_shards_unless_files_are_asked_for(
    ldm: Any, toy_spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert making.MOST_FILES == 256
    monkeypatch.setattr(making, "MOST_FILES", 8)
    ended = ldm("run", toy_spec, "--n", "9", "-o", tmp_path / "out", "--json")
    assert ended.code == 0
    document = ended.document
    assert (document["n"], document["images"], document["stopped"]) == (9, 9, "finished")
    assert len(list((tmp_path / "out").glob("images-*.tar"))) == document["shards"]
    assert json.loads(Path(document["manifest"]).read_text())["batch"] == document["batch"]
    assert f"{document['batch']} images at once" in ended.err
    assert ldm("run", toy_spec, "-n", "9", "--no-shards", "-o", tmp_path / "files").code == 0
    assert (tmp_path / "files" / "image-00008.png").is_file()


def test_few_images_are_streamed_when_that_is_asked_for(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    few = (
        "run",
        toy_spec,
        "-n",
        "5",
        "--batch",
        "2",
        "--shard-size",
        "4",
        "--shards",
        "-o",
        tmp_path / "few",
    )
    assert "5 images in 2 shards" in ldm(*few).out
    again = ldm(*few)
    assert (again.code, "already" in again.out) == (0, True)
    refused = ldm(*few, "--seed", "9")
    assert refused.code == 2
    assert "seed: 9" in refused.err
    assert "--overwrite" in refused.err
    assert ldm(*few, "--seed", "9", "--overwrite").code == 0


def test_options_that_contradict_one_another_are_refused(ldm: Any, toy_spec: Path, tmp_path: Path) -> None:
    both = ldm("run", toy_spec, "--no-shards", "--shard-size", "4", "-o", tmp_path / "both")
    record = ldm("run", tmp_path / "run.json", "--shards", "-o", tmp_path / "both")
    assert (both.code, record.code) == (2, 2)
    assert "--no-shards" in both.err
    assert "run.json" in record.err
    assert not (tmp_path / "both").exists()


@pytest.fixture
def start(tmp_path: Path, toy_spec: Path) -> Start:
    """Starts a streaming run of slow toys in a process of its own."""
    slow = toy_spec.with_name("slow.yaml")
    slow.write_text(
        "extends: toy.yaml\nimage: {size: 64}\nscheduler: {use: toy-scheduler, config: {steps: 30}}\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])

    def run(folder: Path, *options: str) -> subprocess.Popen[str]:
        words = ["run", slow, "--n", "320", "--batch", "4", "--shard-size", "8", "-o", folder, *options]
        return subprocess.Popen(
            [sys.executable, "-m", "ldm_registry", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    return run


def when_there_are(count: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until so many shards are finished."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("images-*.tar"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_that_was_killed_in_every_way_gives_the_shards_of_one_that_was_not(
    start: Start, tmp_path: Path
) -> None:
    with start(tmp_path / "whole") as whole:
        whole.communicate()
    assert whole.returncode == 0
    ways: Sequence[tuple[signal.Signals, int]] = [
        (signal.SIGKILL, -9),
        (signal.SIGINT, 130),
        (signal.SIGTERM, 130),
    ]
    for turn, (way, code) in enumerate(ways):
        process = start(tmp_path / "killed", "--json")
        when_there_are(9 * (turn + 1), tmp_path / "killed", process)
        time.sleep(0.013 * turn)
        process.send_signal(way)
        out, _ = process.communicate()
        assert process.returncode == code
        if code == 130:
            document = json.loads(out)
            assert document["stopped"] == "interrupted"
            assert 0 < document["images"] < 320
    last = start(tmp_path / "killed", "--json")
    out, errors = last.communicate()
    assert last.returncode == 0, errors
    assert 0 < json.loads(out)["found"] < 320
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert len(json.loads((tmp_path / "killed" / "manifest.json").read_text())["shards"]) == 40
    assert [path.name for path in (tmp_path / "killed").glob(".*.partial")] == []
