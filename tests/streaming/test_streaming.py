from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_pipelines import toy

from ldm_registry.data import read_images, to_uint8
from ldm_registry.errors import ResourceError, SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.report.streamed import describe, line, summary
from ldm_registry.spec import spec_digest, swap
from ldm_registry.streaming import Progress, stream
from ldm_registry.streaming.shard_file import Sidecars

N, BATCH, SHARD = 17, 3, 6
"""Two full shards of two batches and a shard of five images, whose last batch is ragged."""
LABELS = (0, 2, 1)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return toy(seed=40)


@pytest.fixture(scope="module")
def unbroken(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of a run that nothing interrupted."""
    return shards(finished(pipe, tmp_path_factory.mktemp("unbroken") / "run"))


def finished(pipe: Pipeline, folder: Path, n: int = N, **options: Any) -> Path:
    *_, last = stream(pipe, n, folder, **{"batch": BATCH, "shard_size": SHARD, **options})
    assert last.stopped == "finished"
    assert last.whole == n
    return folder


def broken_off(pipe: Pipeline, folder: Path, reports: int) -> bool:
    """Pull so many reports of a run and leave it; whether it was over by then."""
    happening = stream(pipe, N, folder, batch=BATCH, shard_size=SHARD)
    try:
        return any(next(happening).stopped == "finished" for _ in range(reports))
    finally:
        happening.close()  # type: ignore[attr-defined]  # a generator


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def pictures(folder: Path) -> Tensor:
    """uint8 [N, C, H, W], in order."""
    return torch.cat([read_images(path).images for path in sorted(folder.glob("*.tar"))])


@pytest.mark.parametrize("reports", [1, 10, 14])
def test_a_run_that_was_broken_off_again_and_again_gives_the_same_bytes(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path, reports: int
) -> None:
    sessions = 0
    while sessions < 3 and not broken_off(pipe, tmp_path, reports):
        sessions += 1
    assert sessions > 0
    assert shards(finished(pipe, tmp_path)) == unbroken
    assert list(tmp_path.glob(".*.partial")) == []


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_pixels_are_those_of_sample_within_one_level_whatever_the_batch(
    pipe: Pipeline, tmp_path: Path, batch: int
) -> None:
    made = pictures(finished(pipe, tmp_path, batch=batch, shard_size=20)).int()
    assert (made - to_uint8(pipe.sample(N)).int()).abs().max() <= 1


def test_a_shard_is_an_image_set_and_groups_as_webdataset_does(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    assert list(unbroken) == [f"images-00000{number}.tar" for number in range(3)]
    index = 0
    for name, content in unbroken.items():
        (tmp_path / name).write_bytes(content)
        held = read_images(tmp_path / name)
        assert held.labels.tolist() == [LABELS[(index + at) % 3] for at in range(len(held))]
        with tarfile.open(tmp_path / name) as tar:
            members = tar.getmembers()
            for png, note in zip(members[::2], members[1::2], strict=True):
                key = f"{index:09d}"
                assert (png.name, note.name) == (f"{key}.png", f"{key}.json")
                assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in (png, note)} == {
                    (0, 0, 0, "", 0o644)
                }
                file = tar.extractfile(note)
                assert file is not None
                assert json.load(file) == {
                    "index": index,
                    "seed": 40 + index,
                    "label": LABELS[index % 3],
                    "condition": {"class_label": LABELS[index % 3]},
                    "spec_sha256": spec_digest(pipe.spec),
                }
                index += 1
    assert index == N


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    grey: dict[str, Any] = {"channels": 1}
    pipe = toy(image={"channels": 1, "size": 16}, encoder_config=grey, decoder_config=grey)
    finished(pipe, tmp_path, 2, shard_size=2, batch=2)
    with tarfile.open(tmp_path / "images-000000.tar") as tar:
        file = tar.extractfile("000000001.png")
        assert file is not None
        with Image.open(io.BytesIO(file.read())) as image:
            assert image.mode == "L"
            expected = to_uint8(pipe.sample(2))[1, 0].numpy()
            assert numpy.abs(numpy.array(image).astype(int) - expected).max() <= 1


def test_images_that_no_png_holds_are_refused(tmp_path: Path) -> None:
    wide: dict[str, Any] = {"channels": 5}
    pipe = toy(image={"channels": 5, "size": 16}, encoder_config=wide, decoder_config=wide)
    with pytest.raises(SpecError, match="5 channels"):
        next(stream(pipe, 2, tmp_path))


def test_the_manifest_says_what_there_is(pipe: Pipeline, tmp_path: Path) -> None:
    import hashlib

    finished(pipe, tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert (document["n"], document["batch"], document["shard_size"]) == (N, BATCH, SHARD)
    assert document["spec_sha256"] == spec_digest(pipe.spec)
    assert {"denoiser", "scheduler", "decoder"} <= set(document["parts_sha256"])
    assert [(entry["first"], entry["count"]) for entry in document["shards"]] == [
        (0, 6),
        (6, 6),
        (12, 5),
    ]
    for entry in document["shards"]:
        content = (tmp_path / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) == entry["bytes"]


def test_a_second_start_does_nothing(pipe: Pipeline, tmp_path: Path) -> None:
    finished(pipe, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    first, last = stream(pipe, N, tmp_path)  # what was not said is taken from the earlier session
    assert (first.found, last.made, last.stopped) == (N, 0, "finished")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "already" in summary(last)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"seed": 41}, {}, "seed: 41"),
        ({"seed": 40, "scheduler_config": {"steps": 5}}, {}, "steps: 5"),
        ({"seed": 40}, {"batch": 4}, "batch: 4 here, 3 there"),
        ({"seed": 40}, {"shard_size": 9}, "shard_size: 9 here, 6 there"),
        ({"seed": 40}, {"n": 16}, "n: 16 here, 17 there"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_with_what_differs(
    pipe: Pipeline, tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    assert not broken_off(pipe, tmp_path, 12)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = toy(**changes)
    with pytest.raises(SpecError, match="holds another run") as raised:
        next(stream(other, **{"n": N, "folder": tmp_path, **options}))
    assert said in "\n".join(raised.value.problems)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_run_is_replaced_when_that_is_asked_for_and_the_same_one_is_gone_on_with(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    finished(toy(seed=41), tmp_path, 24)
    first, *_ = stream(pipe, N, tmp_path, batch=BATCH, shard_size=SHARD, overwrite=True)
    assert first.found == 0
    assert shards(tmp_path) == unbroken
    first, *_ = stream(pipe, N, tmp_path, overwrite=True)
    assert first.found == N


def test_other_weights_under_the_same_spec_are_another_run(pipe: Pipeline, tmp_path: Path) -> None:
    assert not broken_off(pipe, tmp_path, 12)
    other = toy(seed=40)
    with torch.no_grad():
        other.decoder.decoder.bias[0] += 1e-3  # type: ignore[union-attr, index, operator]  # a ToyDecoder
    with pytest.raises(SpecError) as raised:
        next(stream(other, N, tmp_path))
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["decoder"]


def test_more_images_add_to_a_run(pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    finished(pipe, tmp_path, 10)
    kept = (tmp_path / "images-000000.tar").stat().st_ino
    assert shards(finished(pipe, tmp_path)) == unbroken
    assert (tmp_path / "images-000000.tar").stat().st_ino == kept


def test_only_what_is_missing_or_changed_is_made_again(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    finished(pipe, tmp_path)
    inodes = {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")}
    (tmp_path / "images-000000.tar").unlink()
    (tmp_path / "images-000002.tar").write_bytes(b"\0" * len(unbroken["images-000002.tar"]))
    first, *_, last = stream(pipe, N, tmp_path)
    assert first.notes == (
        "images-000000.tar is missing; it is made again",
        "images-000002.tar was changed; it is made again",
    )
    assert (first.found, last.made) == (6, 11)
    assert shards(tmp_path) == unbroken
    assert (tmp_path / "images-000001.tar").stat().st_ino == inodes["images-000001.tar"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_at_hand(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path, number: int
) -> None:
    reports: list[Progress] = []
    for report in stream(pipe, N, tmp_path, batch=BATCH, shard_size=SHARD):
        reports.append(report)
        if len(reports) == 12:
            os.kill(os.getpid(), number)
    assert len(reports) == 13
    assert reports[-1].stopped == "interrupted"
    assert reports[-1].whole == 6
    assert "same command goes on" in summary(reports[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "images-000000.tar", "manifest.json"]
    assert shards(finished(pipe, tmp_path)) == unbroken


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Meanwhile no file grows beyond so many bytes: the system itself refuses it, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_an_error_and_finished_shards_stay(
    pipe: Pipeline, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    assert not broken_off(pipe, tmp_path, 12)
    kept = shards(tmp_path)
    assert kept
    with largest_file(8192), pytest.raises(ResourceError, match="could not be written") as raised:
        list(stream(pipe, N, tmp_path))
    assert "finished shards are whole" in str(raised.value)
    assert shards(tmp_path) == kept
    assert list(tmp_path.glob(".*.partial")) == []
    assert shards(finished(pipe, tmp_path)) == unbroken


def test_no_space_at_the_last_moment_leaves_no_file_of_that_name(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not broken_off(pipe, tmp_path, 12)
    kept = shards(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    happening = stream(pipe, N, tmp_path)
    next(happening)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left") as raised:
        list(happening)
    assert "MiB are free" in str(raised.value)
    assert shards(tmp_path) == kept


def test_too_little_memory_is_an_error_that_names_the_batch(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(pipe.decoder), "decode", short)
    with pytest.raises(ResourceError, match="3 images at once do not fit") as raised:
        list(stream(pipe, N, tmp_path, batch=BATCH))
    assert "--batch" in str(raised.value)
    with pytest.raises(ResourceError, match="a single image"):
        list(stream(pipe, N, tmp_path / "sized"))


def test_a_folder_with_something_else_in_it_is_refused(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SpecError, match="not empty"):
        next(stream(pipe, N, tmp_path))
    with pytest.raises(SpecError, match="is a file"):
        next(stream(pipe, N, tmp_path / "thesis.txt"))
    finished(pipe, tmp_path, 2, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_two_runs_do_not_write_to_one_folder_at_once(pipe: Pipeline, tmp_path: Path) -> None:
    happening = stream(pipe, N, tmp_path, batch=BATCH)
    next(happening)
    with pytest.raises(SpecError, match="another run is writing"):
        next(stream(pipe, N, tmp_path, batch=BATCH))
    happening.close()  # type: ignore[attr-defined]  # a generator
    next(stream(pipe, N, tmp_path))


def test_the_label_of_an_image_without_a_class_is_0(pipe: Pipeline) -> None:
    spec = swap(pipe.spec, condition={"class_label": None, "prompt": ["a kite", "the sea"]})
    note = Sidecars(spec).of(3)
    assert (note["label"], note["condition"]) == (0, {"prompt": "the sea"})


@pytest.mark.gpu
def test_on_an_accelerator_too_a_broken_run_gives_the_same_bytes(tmp_path: Path) -> None:
    there = toy(**{f"{stage}_device": "cuda" for stage in ("encoder", "denoiser", "scheduler", "decoder")})
    whole = shards(finished(there, tmp_path / "whole", batch=None))
    batch = json.loads((tmp_path / "whole" / "manifest.json").read_text())["batch"]
    happening = stream(there, N, tmp_path / "broken", batch=batch, shard_size=SHARD)
    for _ in range(7):
        next(happening)
    happening.close()  # type: ignore[attr-defined]  # a generator
    assert shards(finished(there, tmp_path / "broken", batch=None)) == whole


@pytest.mark.parametrize("text", ["{}", '{"format": 2}', "[]", "{"])
def test_what_is_no_manifest_is_refused(pipe: Pipeline, tmp_path: Path, text: str) -> None:
    from ldm_registry.errors import LdmError

    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(LdmError, match=r"manifest\.json"):
        next(stream(pipe, N, tmp_path))


def test_reports_count_up_and_tell_rate_and_time_left(pipe: Pipeline, tmp_path: Path) -> None:
    reports = list(stream(pipe, N, tmp_path, batch=BATCH, shard_size=SHARD))
    made = [report.made for report in reports]
    assert made == sorted(made)
    assert (made[0], made[-1]) == (0, N)
    middle = reports[len(reports) // 2]
    assert middle.images_per_s is not None
    assert middle.left_s == pytest.approx((N - middle.made) / middle.images_per_s)
    assert line(middle).startswith(f"{int(middle.made)} of 17 images, ")
    assert line(middle).endswith(" left")
    assert describe(reports[-1])["images"] == N


def test_the_callers_gradients_are_left_as_they_are(pipe: Pipeline, tmp_path: Path) -> None:
    for _ in stream(pipe, 4, tmp_path, batch=2):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
