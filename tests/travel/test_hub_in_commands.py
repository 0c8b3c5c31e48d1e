"""Every command on a spec whose parts are on the Hub: it does what it does with the folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from loopback_hub import LoopbackHub

from ldm_registry.hub import Hub
from ldm_registry.spec import bundled_dir
from ldm_registry.travel.lock import LOCK
from ldm_registry.travel.pinning import pinned

pytestmark = [pytest.mark.plugins]
Ldm = Callable[..., Any]
PARTS = ("emoji-kl-vae", "emoji-kl-dit")


@pytest.fixture
def spec(hub: LoopbackHub, client: Hub, tmp_path: Path) -> Iterator[Path]:
    """The bundled `emoji-kl-dit` with its checkpoints on the Hub; in the end nothing was asked for twice."""
    text = (bundled_dir() / "emoji-kl-dit.yaml").read_text("utf-8")
    for name in PARTS:
        files = (bundled_dir() / "checkpoints" / name).iterdir()
        hub.publish(f"org/{name}", {path.name: path.read_bytes() for path in files}, tag="v1.0.0")
        text = text.replace(f"checkpoints/{name}", str(pinned(f"org/{name}@v1.0.0", client)))
    text = text.replace("data/", f"{bundled_dir() / 'data'}/")
    folder = tmp_path / "project"
    folder.mkdir()
    path = folder / "emoji.yaml"
    path.write_text(text, "utf-8")
    yield path
    weights = [request for request in hub.requests if request.method == "GET" and "/store/" in request.path]
    assert len(weights) == len({request.path for request in weights})


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.mark.slow
def test_a_run_makes_the_same_images_as_from_the_folders(spec: Path, ldm: Ldm, tmp_path: Path) -> None:
    assert ldm("run", spec, "-o", tmp_path / "a", "-n", 1).code == 0
    assert ldm("run", "emoji-kl-dit", "-o", tmp_path / "b", "-n", 1).code == 0
    assert images(tmp_path / "a") == images(tmp_path / "b")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert "hf://org/emoji-kl-vae@" in record["spec"]


@pytest.mark.slow
def test_commands_take_parts_from_the_hub(
    spec: Path, ldm: Ldm, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ldm("lock", spec).code == 0
    asked = len(hub.requests)
    monkeypatch.setenv("LDM_OFFLINE", "1")
    checked = ldm("check", spec, "--json").document
    assert checked["stages"]["decoder"]["checkpoint"].startswith("hf://org/emoji-kl-vae@")
    assert ldm("run", spec, "-o", tmp_path / "run", "-n", 1).code == 0
    assert ldm("run", tmp_path / "run" / "run.json", "-o", tmp_path / "again").code == 0
    assert ldm("trace", spec).code == 0
    assert ldm("compare", spec, "emoji-kl-dit", "-n", 1, "-o", tmp_path / "compared").code == 0
    assert ldm("diagnose", spec, "--quick").code == 0
    assert ldm("inject", spec, "time-scale", "-o", spec.with_name("faulty.yaml")).code == 0
    assert ldm("diagnose", spec.with_name("faulty.yaml"), "denoiser", "--quick").code == 1
    images = bundled_dir() / "data" / "noto-emoji-64-val.tar"
    training = f"extends: {spec.name}\ntrain: {{images: {images}, denoiser: {{steps: 1, batch: 8}}}}\n"
    spec.with_name("train.yaml").write_text(training, "utf-8")
    trained = tmp_path / "trained"
    assert ldm("train", "denoiser", spec.with_name("train.yaml"), "-o", trained).code == 0
    assert ldm("plugin", "test", "dit", "--checkpoint", trained).code == 0
    assert len(hub.requests) == asked


@pytest.mark.slow
def test_a_pipeline_whose_folders_are_on_the_hub_is_exported(
    hub: LoopbackHub, client: Hub, ldm: Ldm, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    tiny_pipelines.dit(tmp_path / "dit")
    assert ldm("import", tmp_path / "dit", "-o", tmp_path / "local.yaml").code == 0
    files = {
        path.relative_to(tmp_path / "dit").as_posix(): path.read_bytes()
        for path in (tmp_path / "dit").rglob("*")
        if path.is_file()
    }
    hub.publish("org/dit", files)
    address = str(pinned("org/dit", client))
    text = (tmp_path / "local.yaml").read_text().replace("checkpoint: dit/", f"checkpoint: {address}/")
    assert text.count(address) == 3
    (tmp_path / "remote.yaml").write_text(text)
    for name in ("local", "remote"):
        ended = ldm("export", tmp_path / f"{name}.yaml", tmp_path / name)
        assert ended.code == 0, ended.err
    for path in (tmp_path / "local").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "remote" / path.relative_to(tmp_path / "local")).read_bytes()


@pytest.mark.slow
def test_swap_takes_a_part_from_the_hub_by_its_address(
    spec: Path, ldm: Ldm, client: Hub, tmp_path: Path
) -> None:
    codec = pinned("org/emoji-kl-vae", client)
    for word in (f"decoder={codec}", f"decoder=kl-vae:{codec}", f"decoder.checkpoint={codec}"):
        ended = ldm("swap", "emoji-kl-dit", word, "-o", tmp_path / "new.yaml", "--overwrite")
        assert ended.code == 0, ended.err
        assert str(codec) in (tmp_path / "new.yaml").read_text()
    ended = ldm("swap", spec, "scheduler=euler", "-o", spec.with_name("euler.yaml"))
    assert ended.code == 0, ended.err
    ended = ldm("swap", "emoji-kl-dit", "decoder=hf://org/emoji-kl-vae@main")
    assert ended.code == 2
    assert "ldm pull org/emoji-kl-vae@main" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "run", "trace", "compare", "diagnose", "export", "swap"])
def test_no_command_uses_a_part_that_was_altered(spec: Path, ldm: Ldm, tmp_path: Path, command: str) -> None:
    words: dict[str, tuple[str | Path, ...]] = {
        "run": ("-o", tmp_path / "out"),
        "export": (tmp_path / "out",),
        "swap": ("scheduler=euler",),
        "compare": ("emoji-kl-dit", "-n", "1"),
    }
    assert ldm("lock", spec).code == 0
    document = json.loads((spec.parent / LOCK).read_text())
    document["checkpoints"][0]["files"][0]["sha256"] = "0" * 64
    (spec.parent / LOCK).write_text(json.dumps(document))
    ended = ldm(command, spec, *words.get(command, ()))
    assert ended.code == 4, ended.err
    assert "is not what ldm.lock says" in ended.err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
