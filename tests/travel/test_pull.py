from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_plugin
from toy_plugin import ToyDecoder

from ldm_registry.assembly import assemble, load_component
from ldm_registry.errors import IntegrityError, NetworkError, NotFoundError, SpecError
from ldm_registry.hub import Hub
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec
from ldm_registry.travel import verified
from ldm_registry.travel.in_specs import addresses, located, lock_spec
from ldm_registry.travel.lock import LOCK, read_lock
from ldm_registry.travel.pinning import pinned
from ldm_registry.travel.pull import held_commits, obtain
from ldm_registry.travel.references import Reference, parse_reference, parse_repository

TOKEN = "hf_loopbackTokenThatNobodyMaySee"
REGISTRY = Registry([toy_plugin])


def test_an_address_names_a_commit_and_maybe_a_folder() -> None:
    commit = "0a" * 20
    assert parse_reference(f"hf://org/x@{commit}") == Reference("org/x", commit)
    inner = parse_reference(f"hf://org/x.y-z_1@{commit}/a/b")
    assert (inner.folder, inner.name, str(inner)) == ("a/b", "b", f"hf://org/x.y-z_1@{commit}/a/b")


@pytest.mark.parametrize(
    "text", ["hf://org/x@main", "hf://org/x", "hf://org/x@v1.0.0", f"hf://org/x@{'0a' * 19}", "org/x@main"]
)
def test_a_branch_or_tag_is_refused_with_the_command_that_pins_it(text: str) -> None:
    with pytest.raises(SpecError, match="does not name one commit") as caught:
        parse_reference(text)
    assert "`ldm pull org/x" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", "hf://x", "org/../x", "org/x@../y", "org/x@a b", "org/x@-f", "hf://org/x@é", "a/b/c"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_repository(text)


def test_a_spec_with_addresses_makes_the_images_of_the_folders(toys: Any, tmp_path: Path) -> None:
    pipe = toys.assembled()
    for name, files in toys.files.items():
        for path, content in files.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path).write_bytes(content)
    local = toys.text.replace(str(toys.codec), str(tmp_path / "toy-codec"))
    local = local.replace(str(toys.denoiser), str(tmp_path / "toy-denoiser"))
    (tmp_path / "local.yaml").write_text(local)
    expected = assemble(load_spec(tmp_path / "local.yaml"), REGISTRY).sample(2, seed=4)
    assert torch.equal(pipe.sample(2, seed=4), expected)
    assert pipe.spec.encoder.checkpoint == str(toys.codec)


def test_after_the_first_pull_no_request_is_made(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.assembled()
    asked = len(toys.hub.requests)
    assert asked > 0
    toys.assembled()
    assert len(toys.hub.requests) == asked
    toys.hub.faults.answer(503)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    toys.assembled()
    assert len(toys.hub.requests) == asked


def test_offline_a_checkpoint_that_was_never_pulled_is_asked_of_nobody(
    toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_OFFLINE", "1")
    with pytest.raises(NetworkError, match="offline mode is on") as caught:
        toys.assembled()
    assert f"ldm pull {toys.codec}" in str(caught.value)
    assert toys.hub.requests == []


def test_only_data_is_fetched(toys: Any) -> None:
    more = {
        "evil.py": b"raise SystemExit",
        "model.bin": b"\x80\x02",
        "run.sh": b"",
        "lib.so": b"\x7fELF",
        "picture.png": b"",
    }
    commit = toys.hub.publish("org/toy-codec", more)
    held = obtain(Reference("org/toy-codec", commit))
    assert {path.name for path in held.folder.rglob("*")} == set(toys.files["toy-codec"])
    assert not any(toys.hub.count(path=name) for name in more)


def test_a_folder_of_a_repository_is_pulled_alone(toys: Any) -> None:
    files = {f"vae/{path}": content for path, content in toys.files["toy-codec"].items()}
    commit = toys.hub.publish("org/whole", {**files, "unet/config.json": b"{}", "model_index.json": b"{}"})
    reference = parse_reference(f"hf://org/whole@{commit}/vae")
    held = obtain(reference)
    assert (held.folder.name, set(held.files)) == ("vae", set(toys.files["toy-codec"]))
    part = load_component("decoder", str(reference), registry=REGISTRY)
    assert isinstance(part, ToyDecoder)


def test_nothing_but_the_checkpoint_is_left_after_a_pull(toys: Any, tmp_path: Path) -> None:
    obtain(toys.codec)
    cache = tmp_path / "cache"
    assert list((cache / "staging").iterdir()) == []
    place = cache / "checkpoints" / "org--toy-codec" / toys.codec.commit
    assert sorted(path.name for path in place.iterdir()) == ["record.json", "toy-codec"]
    assert held_commits("org/toy-codec") == [toys.codec.commit]
    assert not any(path.is_symlink() for path in cache.rglob("*"))


def test_weights_are_hashed_once_while_they_stay_the_same_file(
    toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = obtain(toys.codec)
    monkeypatch.setattr(verified, "_TICK_NS", 0)
    obtain(toys.codec)
    read: list[str] = []
    whole = verified.facts_of

    def counted(path: Path) -> verified.FileFacts:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(verified, "facts_of", counted)
    obtain(toys.codec)
    assert sorted(read) == ["README.md", "config.json", "contract.json"]
    weights = held.folder / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    obtain(toys.codec)
    assert weights.name in read


def test_a_lock_names_every_file_and_is_sorted(toys: Any) -> None:
    spec = toys.spec()
    path = toys.folder / LOCK
    lock_spec(spec, path)
    text = path.read_text()
    lock = read_lock(path)
    assert sorted(lock.checkpoints) == [toys.codec, toys.denoiser] == addresses(spec)
    assert set(lock.checkpoints[toys.codec]) == set(toys.files["toy-codec"])
    lock_spec(spec, path)
    assert path.read_text() == text
    assert f'"commit": "{toys.codec.commit}"' in text
    toys.assembled()


def test_a_lock_keeps_what_other_specs_and_plugins_wrote(toys: Any) -> None:
    path = toys.folder / LOCK
    first = toys.text.replace(str(toys.denoiser), str(toys.codec))
    lock_spec(toys.spec(first), path)
    document = path.read_text().replace('"version": 1', '"plugins": [{"a": 1}],\n  "version": 1')
    path.write_text(document)
    lock_spec(toys.spec(), path)
    lock = read_lock(path)
    assert set(lock.checkpoints) == {toys.codec, toys.denoiser}
    assert lock.rest["plugins"] == [{"a": 1}]


def test_a_spec_without_addresses_is_located_as_it_is(toys: Any) -> None:
    spec = toys.spec(
        toys.text.replace(f", checkpoint: {toys.codec}", "").replace(f", checkpoint: {toys.denoiser}", "")
    )
    assert located(spec) is spec
    assert toys.hub.requests == []


def test_every_place_of_a_spec_that_names_a_checkpoint_is_located(toys: Any) -> None:
    text = toys.text + (
        f"conditioners:\n  t: {{use: clip, checkpoint: {toys.codec}, tokenizer: {toys.codec}}}\n"
        f"train: {{denoiser: {{initialise_from: {toys.denoiser}}}}}\n"
    )
    here = located(toys.spec(text))
    assert here.train is not None
    assert here.train.denoiser is not None
    paths = [
        here.encoder.checkpoint,
        here.denoiser.checkpoint,
        here.decoder.checkpoint,
        here.conditioners["t"].checkpoint,
        here.conditioners["t"].tokenizer,
        here.train.denoiser.initialise_from,
    ]
    assert all(path is not None and Path(path).is_dir() for path in paths)
    assert here.source == toys.folder / "spec.yaml"


def test_a_pull_names_the_commit_that_a_tag_stands_for(toys: Any, client: Hub) -> None:
    assert pinned("org/toy-codec@v1.0.0", client) == toys.codec
    assert pinned("hf://org/toy-codec", client) == toys.codec
    toys.hub.requests.clear()
    assert pinned(str(toys.codec), client) == toys.codec
    assert toys.hub.requests == []


def test_a_newer_version_is_pulled_beside_the_older(toys: Any, client: Hub) -> None:
    obtain(pinned("org/toy-codec@v1.0.0", client))
    newer = toys.hub.publish("org/toy-codec", {"NOTES.md": b"new"}, tag="v1.1.0")
    assert pinned("org/toy-codec", client).commit == newer
    obtain(pinned("org/toy-codec@v1.1.0", client))
    assert held_commits("org/toy-codec") == sorted([toys.codec.commit, newer])


def test_a_repository_without_a_checkpoint_is_not_found(toys: Any) -> None:
    commit = toys.hub.publish("org/empty", {"README.md": b"hello"})
    with pytest.raises(NotFoundError, match="holds no checkpoint"):
        obtain(Reference("org/empty", commit))


def test_a_repository_of_folders_or_of_code_says_what_to_name(toys: Any) -> None:
    several = toys.hub.publish("org/several", {"vae/config.json": b"{}", "unet/config.json": b"{}"})
    with pytest.raises(NotFoundError, match="--folder unet or vae"):
        obtain(Reference("org/several", several))
    plugin = toys.hub.publish("org/ldm-x", {"pyproject.toml": b"", "ldm_x/__init__.py": b""})
    with pytest.raises(NotFoundError, match=f"ldm plugin install hf://org/ldm-x@{plugin}"):
        obtain(Reference("org/ldm-x", plugin))


def test_a_pickle_is_not_fetched(toys: Any) -> None:
    commit = toys.hub.publish("org/old", {"config.json": b"{}", "diffusion_pytorch_model.bin": b"\x80\x02"})
    with pytest.raises(IntegrityError, match="a pickle can run code"):
        obtain(Reference("org/old", commit))


def test_a_cache_that_was_removed_is_pulled_again(toys: Any, tmp_path: Path) -> None:
    held = obtain(toys.codec)
    shutil.rmtree(tmp_path / "cache" / "checkpoints")
    assert obtain(toys.codec).files == held.files


def test_the_cache_is_where_ldm_cache_says_else_beside_the_hubs_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert verified.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("LDM_CACHE")
    assert verified.cache_root() == tmp_path / "hf" / "ldm-registry"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert verified.cache_root() == tmp_path / "xdg" / "huggingface" / "ldm-registry"


Ldm = Callable[..., Any]


def test_ldm_pull_prints_the_lines_to_paste(toys: Any, ldm: Ldm) -> None:
    ended = ldm("pull", "org/toy-codec@v1.0.0")
    assert ended.code == 0
    assert f"decoder: {{use: toy-codec, checkpoint: {toys.codec}}}" in ended.out
    document = ldm("pull", str(toys.codec), "--json").document
    assert document["checkpoint"] == str(toys.codec)
    assert {file["path"] for file in document["files"]} == set(toys.files["toy-codec"])


def test_neither_token_nor_signature_is_shown_or_written(toys: Any, tmp_path: Path, ldm: Ldm) -> None:
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]  # all it has to do
    logging.getLogger("huggingface_hub").addHandler(handler)
    toys.hub.faults.answer(429, "/store/")
    ended = ldm("pull", str(toys.codec))
    assert ended.code == 5
    toys.hub.faults.clear()
    toys.hub.faults.answer(429, "/store/", times=1)
    again = ldm("pull", str(toys.codec))
    assert again.code == 0
    logging.getLogger("huggingface_hub").removeHandler(handler)
    assert "X-Signature" not in ended.err + again.err + " ".join(logged)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not any(
        token in path.read_bytes() for path in written for token in (TOKEN.encode(), b"X-Signature")
    )


def test_ldm_lock_writes_the_lock_beside_the_spec(toys: Any, ldm: Ldm) -> None:
    toys.spec()
    ended = ldm("lock", toys.folder / "spec.yaml", "--json")
    assert (ended.code, len(ended.document["checkpoints"])) == (0, 2)
    assert (toys.folder / LOCK).is_file()


@pytest.mark.parametrize(("word", "exit_code"), [("v1.0.0", 2), ("main", 2)])
def test_a_spec_with_a_branch_or_tag_is_told_the_line_that_pins_it(
    toys: Any, ldm: Ldm, monkeypatch: pytest.MonkeyPatch, word: str, exit_code: int
) -> None:
    path = toys.folder / "spec.yaml"
    path.write_text(toys.text.replace(toys.codec.commit, word))
    ended = ldm("check", path)
    assert ended.code == exit_code
    assert f"  checkpoint: {toys.codec}" in ended.err
    monkeypatch.setenv("LDM_OFFLINE", "1")
    toys.hub.requests.clear()
    ended = ldm("check", path, "--json")
    assert ended.code == exit_code
    assert f"ldm pull org/toy-codec@{word}" in ended.out
    assert toys.hub.requests == []


def test_ldm_search_filters_by_kind_and_latent(toys: Any, ldm: Ldm) -> None:
    def card(*tags: str) -> dict[str, bytes]:
        return {"README.md": f"---\nlicense: mit\ntags: [{', '.join(tags)}]\n---\n".encode()}

    toys.hub.publish("org/one", card("ldm-component", "ldm-encoder", "ldm-decoder", "ldm-latent-4ch-f8"))
    toys.hub.publish("org/two", card("ldm-component", "ldm-denoiser", "ldm-latent-4ch-f8"))
    toys.hub.publish("org/three", card("ldm-encoder"))
    toys.hub.publish("org/ldm-four", card("ldm-component", "ldm-plugin", "ldm-scheduler"))
    assert [one["repository"] for one in ldm("search", "--json").document["found"]] == [
        "org/ldm-four",
        "org/one",
        "org/two",
    ]
    (plugin,) = ldm("search", "--kind", "scheduler", "--json").document["found"]
    assert (plugin["plugin"], plugin["checkpoint"]) == (True, None)
    by_kind = ldm("search", "--kind", "encoder", "--latent", "4ch-f8", "--json").document["found"]
    assert [(one["repository"], one["kinds"], one["latents"], one["license"]) for one in by_kind] == [
        ("org/one", ["encoder", "decoder"], ["4ch-f8"], "mit")
    ]
    assert "org/two" in ldm("search", "two").out
    assert ldm("search", "nothing-like-it").out == "nothing was found\n"
