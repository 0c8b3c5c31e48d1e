"""The loopback Hub, an empty cache, and no waiting between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

from ldm_registry.hub import Hub

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
    http.close_session()


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
