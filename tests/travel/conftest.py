"""The loopback Hub, an empty cache, and no waiting between tries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toy_plugin
from loopback_hub import LoopbackHub
from toy_plugin import CodecConfig, DenoiserConfig, ToyDecoder, ToyDenoiser, ToyEncoder
from toy_project import Place

from ldm_registry.__main__ import main
from ldm_registry.assembly import assemble
from ldm_registry.build import build_schedule, fresh
from ldm_registry.contracts import Contract
from ldm_registry.hub import Hub
from ldm_registry.interfaces import Trained
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec, load_spec
from ldm_registry.travel.references import Reference
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import save_checkpoint

REGISTRY = Registry([toy_plugin])
TOKEN = "hf_loopbackTokenThatNobodyMaySee"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The library's own upload warns of how it calls its HTTP client; that is no business of ours."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's: no token, no cache, no proxy; and tries follow one another at once."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as http

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "LDM_OFFLINE", "LDM_NO_REMOTE_CODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    # The library waits seconds between its tries.
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A running Hub, named in HF_ENDPOINT, on which `org` is who HF_TOKEN says."""
    with LoopbackHub() as running:
        running.add_user("org", TOKEN, orgs=("lab",))
        running.add_user("stranger", "hf_stranger")
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def client(hub: LoopbackHub) -> Hub:
    """Our client of it."""
    return Hub.from_environment()


@dataclass(frozen=True)
class ToyRepositories:
    """A codec and a denoiser on the Hub, and a spec that names them.

    Attributes:
        hub: Where they are.
        codec: `org/toy-codec`, its commit.
        denoiser: `org/toy-denoiser`, its commit.
        files: Of each repository, by path.
        folder: Where the spec lies.
    """

    hub: LoopbackHub
    codec: Reference
    denoiser: Reference
    files: dict[str, dict[str, bytes]]
    folder: Path

    def spec(self, text: str | None = None) -> PipelineSpec:
        """The spec, written to `spec.yaml` and read again."""
        path = self.folder / "spec.yaml"
        path.write_text(text or self.text, "utf-8")
        return load_spec(path)

    @property
    def text(self) -> str:
        return (
            "version: 1\nimage: {channels: 3, size: 16}\n"
            f"encoder: {{use: toy-codec, checkpoint: {self.codec}}}\n"
            f"denoiser: {{use: toy-denoiser, checkpoint: {self.denoiser}}}\n"
            "scheduler: {use: toy-scheduler, config: {steps: 3}}\n"
            f"decoder: {{use: toy-codec, checkpoint: {self.codec}}}\n"
            "condition: {class_label: [0, 2]}\n"
        )

    def assembled(self) -> Pipeline:
        """The pipeline of the spec."""
        return assemble(self.spec(), REGISTRY)


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of two small checkpoints, as `save_checkpoint` writes them."""
    folder = tmp_path_factory.mktemp("toys")
    codec = (fresh(ToyEncoder, (CodecConfig(),), 1), fresh(ToyDecoder, (CodecConfig(),), 2))
    said = Contract(components={"encoder": "toy-codec", "decoder": "toy-codec"})
    save_checkpoint(codec, folder / "toy-codec", contract=said, card="")
    schedule = build_schedule("toy_schedule", {}, REGISTRY)
    denoiser = fresh(ToyDenoiser, (DenoiserConfig(), Trained(Prediction.V, schedule)), 3)
    trained = Contract(
        components={"denoiser": "toy-denoiser"}, prediction=Prediction.V, schedule={"name": "toy_schedule"}
    )
    save_checkpoint([denoiser], folder / "toy-denoiser", contract=trained, card="")
    return {
        part.name: {path.name: path.read_bytes() for path in sorted(part.iterdir())}
        for part in sorted(folder.iterdir())
    }


@pytest.fixture
def toys(hub: LoopbackHub, toy_files: dict[str, dict[str, bytes]], tmp_path: Path) -> ToyRepositories:
    """Both checkpoints on the Hub, tagged v1.0.0."""
    commits = {
        name: Reference(f"org/{name}", hub.publish(f"org/{name}", dict(files), tag="v1.0.0"))
        for name, files in toy_files.items()
    }
    hub.requests.clear()
    folder = tmp_path / "project"
    folder.mkdir()
    return ToyRepositories(hub, commits["toy-codec"], commits["toy-denoiser"], toy_files, folder)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it has to be."""
        return json.loads(self.out)


@pytest.fixture
def ldm(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs one command in this process."""

    def run(*words: str | Path) -> Ended:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        assert TOKEN not in captured.out + captured.err
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def place(client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty environment to install plugins into."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("LDM_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.chdir(tmp_path)
    return Place(client, site, tmp_path / "ldm.lock", tmp_path / "mark")
