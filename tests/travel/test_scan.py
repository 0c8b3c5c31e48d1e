from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm_registry.errors import IntegrityError, NotFoundError
from ldm_registry.travel.scan import CHECKPOINT, PROJECT, Finding, Rules, gather, refuse, scan

# Put together here, so that no secret of any form stands in this file.
LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7" * 3
SECRETS = {
    "Hugging Face": "hf_" + LETTERS[:34],
    "AWS": "AKIA" + "ABCDEFGH12345678",
    "secret key of AWS": "aws_secret_access_key = " + LETTERS[:40],
    "GitHub": "ghp_" + LETTERS[:36],
    "fine-grained": "github_pat_" + LETTERS[:60],
    "GitLab": "glpat-" + LETTERS[:20],
    "registry": "pypi-AgE" + LETTERS[:60],
    "npm": "npm_" + LETTERS[:36],
    "Slack": "xoxb-" + "123456789012-" + LETTERS[:20],
    "Google": "AIza" + LETTERS[:35],
    "OpenAI": "sk-proj-" + LETTERS[:40],
    "Anthropic": "sk-ant-" + "api03-" + LETTERS[:40],
    "Stripe": "sk_live_" + LETTERS[:24],
    "W&B": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "bare private key": "-----BEGIN " + "PRIVATE KEY-----",
    "web token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:30] + "." + LETTERS[:20],
    "password": "https://me:" + "hunter2" + "@example.org/x",
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def problems(files: dict[str, Path | bytes], rules: Rules = CHECKPOINT) -> list[str]:
    return [str(finding) for finding in scan(files, rules)]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_found_with_file_and_line_and_is_not_shown(secret: str) -> None:
    (found,) = scan({"README.md": f"# Card\n\nUse {secret} here\n".encode()}, CHECKPOINT)
    assert (found.path, found.line) == ("README.md", 3)
    assert not any(secret[at : at + 8] in str(found) for at in range(4, len(secret) - 8))


@pytest.mark.parametrize(
    "path", ["config.json", "ldm_x/net.py", "pyproject.toml", "x.yaml", "tests/test_x.py"]
)
def test_a_secret_is_found_in_every_sort_of_text(path: str) -> None:
    (found,) = scan({path: f'a = "{SECRETS["Hugging Face"]}"'.encode()}, PROJECT)
    assert str(found).startswith(f"{path}:1: what looks like a token of the Hugging Face Hub")


@pytest.mark.parametrize(
    "innocent",
    [
        "hf_hub_download(repo_id, filename)",
        "hf://org/name@" + "0123456789abcdef0123456789abcdef01234567",
        "sha256:" + "0123456789abcdef" * 4,
        "the risk-free-and-entirely-harmless-words-of-a-card",
        "`https://example.org:8080/x@v1` and git@example.org:a/b",
        "see mailto:someone@example.org",
        "task-specific sk-learn estimator",
        "the PRIVATE KEY of a lock",
    ],
)
def test_what_only_resembles_a_secret_is_let_through(innocent: str) -> None:
    assert problems({"README.md": innocent.encode()}) == []


def test_a_secret_is_found_in_pictures_and_in_headers_of_weights(tmp_path: Path) -> None:
    secret = SECRETS["GitHub"]
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(1)}, weights, metadata={"made by": secret})
    found = problems({"a.png": PNG + secret.encode(), weights.name: weights})
    assert found == [
        "a.png: what looks like a token of GitHub",
        f"{weights.name}: what looks like a token of GitHub",
    ]


def test_a_secret_in_the_name_of_a_file_is_found_and_not_shown() -> None:
    secret = SECRETS["Hugging Face"]
    found = problems({f"{secret}.json": b"{}"})
    assert found == ["a file's name: what looks like a token of the Hugging Face Hub"]


def test_our_own_token_is_found_whatever_it_looks_like() -> None:
    token = b"no-form-that-anybody-knows"
    (found,) = scan({"README.md": b"x " + token}, CHECKPOINT, lambda content: token in content)
    assert "the very token" in found.problem
    assert token.decode() not in str(found)


@pytest.mark.parametrize(
    "path",
    [
        "model.bin",
        "model.ckpt",
        "model.pt",
        "weights.pkl",
        "array.npy",
        "lib.so",
        "run.sh",
        "net.py",
        "x.exe",
        "a.zip",
        "noending",
        "x.safetensors.py",
    ],
)
def test_only_data_goes_with_a_checkpoint(path: str) -> None:
    (found,) = scan({path: b"text"}, CHECKPOINT)
    assert found.path == path


@pytest.mark.parametrize("path", ["lib.so", "ldm_x/a.pyc", "ldm_x/a.pyd", "a.whl", "weights.pt", "run.sh"])
def test_only_source_and_data_go_with_a_plugin(path: str) -> None:
    (found,) = scan({path: b"text"}, PROJECT)
    assert found.path == path


def test_the_usual_files_of_both_are_let_through(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    checkpoint: dict[str, Path | bytes] = {
        "config.json": b"{}",
        "README.md": "# Čard".encode(),
        "LICENSE": b"Apache",
        "w.safetensors": weights,
        "w.safetensors.index.json": b"{}",
        "spiece.model": b"\x0a\x0e\x00",
        "a.png": PNG,
    }
    assert problems(checkpoint) == []
    project: dict[str, Path | bytes] = {
        "pyproject.toml": b"",
        "ldm_x/__init__.py": b"",
        "ldm_x/py.typed": b"",
        "LICENSE.txt": b"",
        "checkpoint/w.safetensors": weights,
    }
    assert problems(project, PROJECT) == []


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("config.json", b"\x80\x04\x95pickle", "a pickle"),
        ("spiece.model", b"\x80\x02}q\x00.", "a pickle"),
        ("README.md", b"\x7fELF\x02\x01\x01\x00", "native code"),
        ("notes.txt", b"PK\x03\x04\x14\x00\x00\xff", "an archive"),
        ("a.png", b"GIF89a", "no png picture"),
        ("b.jpg", PNG, "no jpg picture"),
        ("notes.txt", b"a\x00b", "no text in UTF-8"),
        ("notes.txt", "hidden".encode("utf-16"), "no text in UTF-8"),
    ],
)
def test_a_content_that_is_not_what_its_ending_says_is_found(path: str, content: bytes, says: str) -> None:
    assert any(says in problem for problem in problems({path: content}))


def test_broken_weights_are_found(tmp_path: Path) -> None:
    broken = tmp_path / "w.safetensors"
    broken.write_bytes(b"\x80\x02 pickle" + bytes(30))
    (found,) = problems({"w.safetensors": broken})
    assert "header" in found


@pytest.mark.parametrize(
    "path",
    [
        "optimizer.safetensors",
        "state.safetensors",
        "training_state.json",
        "trainer_state.json",
        "a/optimizer-1.json",
    ],
)
def test_the_state_of_a_training_is_found_by_its_name(path: str, tmp_path: Path) -> None:
    held = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, held)
    content: Path | bytes = held if path.endswith("safetensors") else b"{}"
    assert any("state of an optimizer" in problem for problem in problems({path: content}))


@pytest.mark.parametrize("name", ["optimizer.exp_avg.weight", "conv.exp_avg_sq", "a/momentum_buffer"])
def test_the_state_of_an_optimizer_is_found_among_the_weights(name: str, tmp_path: Path) -> None:
    held = tmp_path / "w.safetensors"
    save_file({"conv.weight": torch.zeros(1), name: torch.zeros(1)}, held)
    (found,) = problems({"w.safetensors": held})
    assert name in found


@pytest.mark.parametrize(
    "path",
    ["../x.json", "/etc/x.json", "a\\b.json", "a/../b.json", "con.json", " x.json", "a\x1bb.json"],
)
def test_a_path_that_nobody_could_pull_is_found(path: str) -> None:
    assert problems({path: b"{}"}) != []


def test_files_that_are_one_where_case_does_not_count_are_found() -> None:
    (found,) = problems({"Config.json": b"{}", "config.json": b"{}"})
    assert "one file where case does not count" in found


def test_everything_is_found_at_once() -> None:
    files: dict[str, Path | bytes] = {
        "a.pkl": b"x",
        "b.so": b"x",
        "README.md": f"{SECRETS['GitHub']}\n\n{SECRETS['AWS']}\n".encode(),
    }
    with pytest.raises(IntegrityError) as caught:
        refuse(scan(files, CHECKPOINT), "x")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "a.pkl",
        "b.so",
        "README.md:1",
        "README.md:3",
    ]


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").symlink_to(outside / "secret.json")
    (folder / "more").symlink_to(outside)
    gathered = gather(folder, CHECKPOINT)
    assert gathered.files == {}
    assert [finding.path for finding in gathered.findings] == ["config.json", "more"]


def test_what_is_no_file_is_found(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (found,) = gather(tmp_path, CHECKPOINT).findings
    assert found == Finding("pipe.json", "neither a file nor a folder")


def test_hidden_files_and_what_builds_leave_behind_stay_at_home(tmp_path: Path) -> None:
    for path in (
        ".training/state.safetensors",
        ".git/config",
        ".env",
        "ldm_x/__pycache__/a.pyc",
        "ldm_x.egg-info/PKG-INFO",
        "dist/x.whl",
        "out/a.png",
        "ldm_x/out/table.json",
        "ldm_x/__init__.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    gathered = gather(tmp_path, PROJECT)
    assert list(gathered.files) == ["ldm_x/__init__.py", "ldm_x/out/table.json"]
    assert gathered.left_out == (
        ".env",
        ".git",
        ".training",
        "dist",
        "ldm_x.egg-info",
        "ldm_x/__pycache__",
        "out",
    )
    assert gathered.findings == ()


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        gather(tmp_path / "no", CHECKPOINT)
