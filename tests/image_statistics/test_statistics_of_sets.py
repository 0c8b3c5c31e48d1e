"""Sets of shards on the disk: runs, folders, single tars, and what is wrong with them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_pipelines
from PIL import Image
from scipy.linalg import sqrtm

import ldm_registry as ldm
from ldm_registry.__main__ import main
from ldm_registry.cli.app import invoke
from ldm_registry.digests import sha256
from ldm_registry.engines.here import Here
from ldm_registry.engines.outcome import Outcome
from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.image_statistics import ImageStatistics, gathered, statistics_of
from ldm_registry.report.image_statistics import render

N = 11


def run(folder: Path, *, seed: int = 0, n: int = N, shard_size: int = 4) -> Path:
    *_, last = ldm.stream(toy_pipelines.toy(seed=seed), n, folder, batch=2, shard_size=shard_size)
    assert last.stopped == "finished"
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return run(tmp_path_factory.mktemp("sets") / "first")


@pytest.fixture
def damaged(first: Path, tmp_path: Path) -> Path:
    """A copy whose second shard is cut off in the middle of an image."""
    shutil.copytree(first, tmp_path / "damaged")
    path = tmp_path / "damaged" / "images-000001.tar"
    path.write_bytes(path.read_bytes()[:700])
    return path


def test_a_run_is_measured_as_its_images_are(first: Path) -> None:
    found = statistics_of(first)
    sets = [ldm.read_images(path) for path in sorted(first.glob("*.tar"))]
    assert (found.shards, found.done, found.statistics.images) == (3, 3, N)
    expected = [0, 0, 0]
    for one in sets:
        for label in one.labels.tolist():
            expected[label] += 1
    assert found.statistics.labels == dict(enumerate(expected))
    one_by_one = [ImageStatistics.of(one) for one in sets]
    assert sum(one.images for one in one_by_one) == N


def test_a_set_is_at_no_distance_from_itself(first: Path) -> None:
    found = statistics_of(first, first)
    assert found.pairing is not None
    assert (found.pairing.images, found.pairing.equal) == (N, N)
    assert found.frechet_distances().keys() == found.statistics.features.keys()
    for name, distance in found.frechet_distances().items():
        scale = float(found.statistics.features[name].covariance.trace())
        assert distance < 1e-6 * scale


def test_images_of_one_index_meet_whatever_the_sizes_of_shards(first: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", n=N - 2, shard_size=6)
    found = statistics_of(first, other)
    assert found.pairing is not None
    assert (found.pairing.images, found.pairing.equal) == (N - 2, N - 2)


def test_another_seed_is_another_set(first: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", seed=100)
    found = statistics_of(first, other)
    assert found.pairing is not None
    assert found.pairing.images == found.pairing.beyond_one_level == N
    assert min(found.frechet_distances().values()) > 0
    for name, distance in found.frechet_distances().items():
        assert found.against is not None
        one, two = found.statistics.features[name], found.against.features[name]
        if one.count > 2 * len(one.mean):  # the root of a singular product is beyond scipy
            root = sqrtm((one.covariance @ two.covariance).numpy()).real.trace()
            covered = float(one.covariance.trace() + two.covariance.trace()) - 2 * root
            assert distance == pytest.approx(float((one.mean - two.mean).square().sum()) + covered, rel=1e-6)


def test_a_folder_without_a_manifest_and_a_single_tar_are_sets_too(first: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in first.glob("*.tar"):
        shutil.copy(path, plain)
    assert statistics_of(plain).to_document() == statistics_of(first).to_document()
    assert statistics_of(plain / "images-000000.tar").statistics.images == 4
    assert statistics_of(plain, first).pairing is None


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_measured(damaged: Path) -> None:
    before = {path: path.read_bytes() for path in damaged.parent.iterdir()}
    ended = invoke(["statistics", str(damaged.parent)])
    assert ended is not None
    assert ended.exit_code == 4
    assert ended.document["images"] == N - 4
    (unread,) = ended.document["unread"]
    assert unread["file"] == str(damaged)
    assert "DataError" in unread["error"]
    assert str(damaged) in ended.text
    assert {path: path.read_bytes() for path in damaged.parent.iterdir()} == before


def test_a_shard_that_was_exchanged_is_refused_by_its_digest(damaged: Path) -> None:
    shutil.copy(damaged.with_name("images-000000.tar"), damaged)
    (unread,) = statistics_of(damaged.parent).unread
    assert "not what its manifest says" in unread.error


def test_a_shard_that_is_missing_is_named(damaged: Path) -> None:
    damaged.unlink()
    (unread,) = statistics_of(damaged.parent).unread
    assert "NotFoundError" in unread.error


def test_no_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no images"):
        statistics_of(tmp_path)
    with pytest.raises(NotFoundError, match="there are no images"):
        statistics_of(tmp_path / "absent")


def png(side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (10, 20, 30)).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w") as made:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                made.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return info


LABEL = b'{"label": 0}'
HOSTILE: dict[str, tuple[dict[str, bytes | tarfile.TarInfo], tuple[str, ...]]] = {
    "a broken PNG": ({"7.png": png()[:60], "7.json": LABEL}, ("7.png", "broken PNG")),
    "no PNG at all": ({"7.png": b"GIF89a" * 9, "7.json": LABEL}, ("7.png", "does not begin as a PNG")),
    "images of two sizes": (
        {"6.png": png(), "6.json": LABEL, "7.png": png(24), "7.json": LABEL},
        ("7.png", "24 x 24", "16 x 16"),
    ),
    "a label that is no number": ({"7.png": png(), "7.json": b'{"label": "cat"}'}, ("7.json", "'cat'")),
    "no label": ({"7.png": png()}, ("no 7.json",)),
    "a path that leads out": ({"../7.png": png(), "../7.json": LABEL}, ("../7.png", "out of the set")),
    "a link": ({"7.png": link("7.png"), "7.json": LABEL}, ("7.png", "not a regular file")),
    "nothing": ({}, ("empty",)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_wrong_with_a_shard_is_said_with_file_and_member(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members, words = HOSTILE[what]
    tar(tmp_path / "a.tar", {"1.png": png(), "1.json": LABEL})
    tar(tmp_path / "b.tar", members)
    tar(tmp_path / "c.tar", {"2.png": png(), "2.json": b'{"label": 3}'})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["statistics", str(tmp_path), "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["labels"]) == (2, {"0": 1, "3": 1})
    (unread,) = document["unread"]
    assert unread["file"] == str(tmp_path / "b.tar")
    for word in words:
        assert word in " ".join([unread["error"], *unread["problems"]])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_called_a_tar_is_an_unread_shard(first: Path, tmp_path: Path) -> None:
    shutil.copy(first / "images-000000.tar", tmp_path)
    (tmp_path / "z.tar").mkdir()
    found = statistics_of(tmp_path)
    assert (found.statistics.images, [one.path.name for one in found.unread]) == (4, ["z.tar"])


def test_a_broken_partner_takes_its_pairs_and_nothing_else(first: Path, damaged: Path) -> None:
    found = statistics_of(first, damaged.parent)
    assert found.statistics.images == N
    assert found.against is not None
    assert found.against.images == N - 4
    assert found.pairing is not None
    assert (found.pairing.images, found.pairing.unread) == (N - 4, 4)
    assert [one.path for one in found.unread] == [damaged]
    assert "4 more have their partner in a shard that could not be read" in render(found)


def test_sizes_that_differ_are_said(first: Path, tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.png": png(8), "1.json": LABEL})
    found = statistics_of(first, tmp_path)
    assert found.to_document()["against"]["sizes"] == {"8 x 8": 1}
    assert "of different sizes (8 x 8, " in render(found)
    assert "of different sizes" not in render(statistics_of(first, first))


def test_pairs_of_two_sizes_are_counted_and_not_compared(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "small")
    path = tmp_path / "small" / "images-000002.tar"
    tar(
        path,
        {f"{index}.{end}": one for index in range(8, N) for end, one in (("png", png(8)), ("json", LABEL))},
    )
    change(path.parent, 2, sha256=sha256(path))
    found = statistics_of(first, path.parent)
    assert not found.unread
    assert found.pairing is not None
    assert (found.pairing.images, found.pairing.unlike) == (8, 3)


def change(folder: Path, number: int, **values: object) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["shards"][number].update(values)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "values",
    [
        {"file": "../images-000001.tar"},
        {"file": "/etc/hostname"},
        {"file": 3},
        {"first": 0},
        {"first": -4},
        {"first": 1.5},
        {"first": 10**30},
        {"count": "4"},
        {"count": 10**18},
    ],
    ids=str,
)
def test_a_manifest_cannot_name_what_its_run_does_not_have(
    damaged: Path, values: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    change(damaged.parent, 1, **values)
    assert main(["statistics", str(damaged.parent)]) == SpecError.exit_code
    assert "lists shards that its run does not have" in capsys.readouterr().err


def test_figures_of_a_set_do_not_depend_on_what_it_is_compared_with(first: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", seed=100, shard_size=2)
    alone, beside, second = statistics_of(first), statistics_of(first, other), statistics_of(other, first)
    assert second.against is not None
    for one in (beside.statistics, second.against):
        for name, features in alone.statistics.features.items():
            assert torch.equal(one.features[name].mean, features.mean)
            assert torch.equal(one.features[name].scatter, features.scatter)


def test_the_order_in_which_shards_are_done_does_not_matter_to_the_bit(
    first: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = statistics_of(first, damaged.parent).to_document()

    class Backwards:
        def outcomes(self, function: Any, tasks: Any) -> Iterator[Outcome[Any, Any]]:
            yield from reversed(list(Here().outcomes(function, tasks)))

    monkeypatch.setattr(gathered, "engine", lambda *_, **__: nullcontext(Backwards()))
    assert statistics_of(first, damaged.parent).to_document() == straight


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_workers_on_ray_find_the_same_to_the_bit(first: Path, damaged: Path) -> None:
    here = statistics_of(damaged.parent, first)
    there = statistics_of(damaged.parent, first, on="ray", workers=2)
    assert there.to_document() == here.to_document()
    assert len(there.unread) == 1
