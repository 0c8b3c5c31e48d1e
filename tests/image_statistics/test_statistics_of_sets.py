"""Sets of shards on the disk: runs, folders, single tars, and what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_pipelines
from scipy.linalg import sqrtm

import ldm_registry as ldm
from ldm_registry.cli.app import invoke
from ldm_registry.errors import NotFoundError
from ldm_registry.image_statistics import ImageStatistics, statistics_of

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


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_workers_on_ray_find_the_same_to_the_bit(first: Path, damaged: Path) -> None:
    here = statistics_of(damaged.parent, first)
    there = statistics_of(damaged.parent, first, on="ray", workers=2)
    assert there.to_document() == here.to_document()
    assert len(there.unread) == 1
