"""What may be published: which files of a folder go, and what must not be among them. Everything at once.

What is once on the Hub has been copied; so anything that looks like a secret, that could run where data is expected,
or that could not be pulled again stops a publication before it begins.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import final

from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError
from ldm_registry.hub import Listing, RemoteFile, clean
from ldm_registry.safetensors_header import MAX_HEADER_BYTES, read_header
from ldm_registry.travel.listing import CHECKPOINT_LIMITS, Limits, checked_listing

MAX_TEXT_BYTES = 64 * 2**20
"""A tokenizer's vocabulary is the longest text that belongs to a component."""
MAX_FINDINGS = 50

TEXTS = frozenset({".json", ".md", ".txt", ".yaml", ".yml"})
SOURCES = frozenset({".py", ".pyi", ".typed", ".toml", ".csv", ".rst"})
SIGNATURES: Mapping[str, tuple[bytes, ...]] = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".webp": (b"RIFF",),
}
"""How the content of a picture begins."""
WEIGHTS = ".safetensors"
VOCABULARY = ".model"
"""Of sentencepiece."""
LICENCES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)[\w.-]{0,32}", re.IGNORECASE | re.ASCII)

_NOT_DATA = {
    "a pickle, which can run code": (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    "an archive": (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf"),
    "native code": (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"),
}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".h5")
_OPTIMISER_NAME = re.compile(
    r"(^|[._/-])(optimi[sz]er|optim|training_state|trainer_state|grad_scaler|rng_state)s?([._/-]|$)|(^|/)state\.",
    re.IGNORECASE,
)
_OPTIMISER_TENSOR = re.compile(
    r"(^|[./])(exp_avg(_sq)?|max_exp_avg_sq|momentum_buffer|optimi[sz]ers?|grad_scaler)([./]|$)"
)

SECRETS: Mapping[str, str] = {
    "a token of the Hugging Face Hub": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b",
    "a key of AWS": r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
    "a secret key of AWS": r"(?i:aws_?secret(?:_?access)?_?key)\W{1,6}[A-Za-z0-9/+=]{40}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a token of a package registry": r"\b(?:pypi-AgE[A-Za-z0-9_-]{40,}|npm_[A-Za-z0-9]{36}\b)",
    "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a key of Google": r"\b(?:AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,})",
    "a key of OpenAI or Anthropic": r"\bsk-(?:[A-Za-z0-9]{1,12}-){0,4}[A-Za-z0-9_]{20,}",
    "a key of Stripe": r"\b[sr]k_live_[0-9A-Za-z]{20,}",
    "a key of Weights & Biases": r"(?i:wandb(?:_api)?_?key)\W{1,6}[0-9a-f]{40}\b",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,}",
    "an address with a password in it": r"\b[a-z][a-z0-9+.-]*://[^\s:/@\"'<>{}$]+:[^\s/@\"'<>{}$]{3,}@[\w.-]+",
}
"""What a secret looks like, by what it is."""
_SECRETS = {what: re.compile(form.encode()) for what, form in SECRETS.items()}


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to publish.

    Attributes:
        path: Of the file.
        problem: What is wrong with it; never shows a secret.
        line: Where, from 1; None where it is the whole file.
    """

    path: str
    problem: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{clean(where)}: {self.problem}"


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """What a folder of one sort may hold.

    Attributes:
        what: The sort, in words.
        endings: Of its files, in lower case.
        left_out: Patterns of names that stay at home without a word of complaint, at the top of the folder.
        limits: How many and how large files there may be.
    """

    what: str
    endings: frozenset[str]
    left_out: tuple[str, ...] = ()
    limits: Limits = CHECKPOINT_LIMITS


CHECKPOINT = Rules("a checkpoint", TEXTS | {*SIGNATURES, WEIGHTS, VOCABULARY})
PROJECT = Rules(
    "a plugin's project",
    TEXTS | SOURCES | {*SIGNATURES, WEIGHTS, VOCABULARY},
    left_out=("build", "dist", "out", "runs", "venv", "env", "htmlcov", "*.egg-info"),
)


@final
@dataclass(frozen=True, slots=True)
class Gathered:
    """The files of a folder.

    Attributes:
        files: What would go, by path inside the folder, in order.
        left_out: What stays, as far as it was looked at.
        findings: What can neither go nor stay unmentioned.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def gather(folder: Path, rules: Rules) -> Gathered:
    """The files of a folder, without following a link and without reading one.

    Hidden files and byte code stay at home, and what the rules leave out.

    Args:
        folder: To be published.
        rules: For its sort.

    Raises:
        NotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}")
    files: dict[str, Path] = {}
    left_out: list[str] = []
    findings: list[Finding] = []
    pending = [("", folder)]
    while pending:
        prefix, place = pending.pop()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path = prefix + entry.name
            if _stays(entry.name, rules.left_out if not prefix else ()):
                left_out.append(path)
            elif entry.is_symlink():
                findings.append(Finding(path, "a link; copy what it leads to into its place"))
            elif entry.is_dir(follow_symlinks=False):
                pending.append((f"{path}/", Path(entry.path)))
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                files[path] = Path(entry.path)
            else:
                findings.append(Finding(path, "neither a file nor a folder"))
    return Gathered(dict(sorted(files.items())), tuple(sorted(left_out)), tuple(findings))


def scan(
    files: Mapping[str, Path | bytes],
    rules: Rules,
    knows_secret: Callable[[bytes], bool] = lambda content: False,
) -> tuple[Finding, ...]:
    """Every reason not to publish some files.

    Args:
        files: By path: where each lies, or what it holds.
        rules: For their sort.
        knows_secret: Whether a content holds a secret of ours, such as the token that is about to be used.
    """
    findings = [*_paths(files, rules)]
    for path, content in files.items():
        findings += _of_name(path, rules)
        findings += _of_content(path, content, knows_secret)
    named = "\n".join(files).encode()
    # A name that is a secret is not shown either.
    findings += (
        Finding("a file's name", found.problem) for found in _secrets("", named, knows_secret, lines=False)
    )
    return tuple(findings)


def refuse(findings: Iterable[Finding], what: str) -> None:
    """Stop where there is anything not to be published.

    Raises:
        IntegrityError: Every finding.
    """
    shown = [str(finding) for finding in findings]
    if shown:
        more = [f"... and {len(shown) - MAX_FINDINGS} more"] if len(shown) > MAX_FINDINGS else []
        raise IntegrityError(
            f"{what} is not published",
            [*shown[:MAX_FINDINGS], *more],
            hint="take these out of the folder; a secret that others may have seen has to be revoked besides",
        )


def _stays(name: str, patterns: Iterable[str]) -> bool:
    return (
        name.startswith(".")
        or name == "__pycache__"
        or any(fnmatchcase(name.casefold(), pattern) for pattern in patterns)
    )


def _paths(files: Mapping[str, Path | bytes], rules: Rules) -> Iterator[Finding]:
    """What nobody could pull again."""
    listed = tuple(RemoteFile(path, _size(content), "0" * 40) for path, content in files.items())
    try:
        checked_listing(Listing(listed), rules.what, rules.limits)
    except IntegrityError as error:
        for problem in error.problems:
            yield Finding("listing", problem)


def _of_name(path: str, rules: Rules) -> Iterator[Finding]:
    pure = PurePosixPath(path)
    ending = pure.suffix.lower()
    if ending in _PICKLES:
        yield Finding(path, "a pickle or its like, which can run code; store tensors as safetensors")
    elif ending not in rules.endings and not LICENCES.fullmatch(pure.name):
        yield Finding(path, f"not a file of {rules.what}; allowed are {', '.join(sorted(rules.endings))}")
    elif ending in (WEIGHTS, ".json") and _OPTIMISER_NAME.search(path):
        yield Finding(
            path, "the state of an optimizer or of a training; nobody needs it to use the component"
        )


def _of_content(path: str, content: Path | bytes, knows_secret: Callable[[bytes], bool]) -> Iterator[Finding]:
    ending = PurePosixPath(path).suffix.lower()
    size = _size(content)
    if ending == WEIGHTS:
        yield from _of_weights(path, content, knows_secret)
        return
    if size > MAX_TEXT_BYTES:
        yield Finding(path, f"{size} bytes; at most {MAX_TEXT_BYTES} are allowed of a file of this kind")
        return
    held = content if isinstance(content, bytes) else content.read_bytes()
    wrong = _disguise(ending, held)
    if wrong:
        yield Finding(path, wrong)
    yield from _secrets(path, held, knows_secret, lines=ending not in SIGNATURES and ending != VOCABULARY)


def _disguise(ending: str, content: bytes) -> str | None:
    """What a content is, where it is not what its ending says."""
    for what, signatures in _NOT_DATA.items():
        # MZ may well begin a text; what it begins on Windows is never one.
        if content.startswith(signatures) and not _is_text(content):
            return f"its content is {what}"
    if ending in SIGNATURES:
        return None if content.startswith(SIGNATURES[ending]) else f"its content is no {ending[1:]} picture"
    if ending != VOCABULARY and not _is_text(content):
        return "its content is no text in UTF-8"
    return None


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _of_weights(path: str, content: Path | bytes, knows_secret: Callable[[bytes], bool]) -> Iterator[Finding]:
    if isinstance(content, bytes):
        yield Finding(path, "weights are published from a file")
        return
    try:
        tensors = read_header(content)
    except CheckpointError as error:
        yield from (Finding(path, problem) for problem in error.problems)
        return
    training = sorted(name for name in tensors if _OPTIMISER_TENSOR.search(name))
    if training:
        yield Finding(
            path, f"holds the state of an optimizer: {', '.join(training[:3])} ({len(training)} tensors)"
        )
    with content.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, MAX_HEADER_BYTES))
    yield from _secrets(path, header, knows_secret, lines=False)


def _secrets(
    path: str, content: bytes, knows_secret: Callable[[bytes], bool], *, lines: bool
) -> Iterator[Finding]:
    found: dict[int, str] = {}
    for what, form in _SECRETS.items():
        for match in form.finditer(content):
            found.setdefault(content.count(b"\n", 0, match.start()) + 1, f"what looks like {what}")
    if not found and knows_secret(content):
        found[1] = "the very token that we are known by to the Hub"
    for line, problem in sorted(found.items()):
        yield Finding(path, problem, line if lines else None)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
