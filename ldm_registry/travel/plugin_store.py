"""Where installed plugins lie, and how one is switched on and off in a single step.

A plugin from the Hub lies in a sealed folder (`sealed_code`) of its own inside site-packages, laid out as an installed
wheel is. It is switched on by one line in `ldm-plugin-<name>.pth`, which Python reads as it starts, and which is
replaced atomically: at whatever moment a process is killed, the old state or the new one is there, whole. No build
backend runs and no pip is needed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import site
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

from ldm_registry.errors import IntegrityError, LdmError, NetworkError, PluginError
from ldm_registry.hub_local import alone
from ldm_registry.travel.sealed_code import BYTE_CODE, RECORD, STORE, Seal, SealedFile, altered, read_seal

SWITCH = re.compile(r"ldm-plugin-(?P<name>[a-z0-9-]+)\.pth")
LINE = re.compile(rf"{re.escape(STORE)}/(?P<name>[a-z0-9-]+)/(?P<seal>[0-9a-f]{{64}})")
STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that is switched on.

    Attributes:
        distribution: Its name, in the normal form.
        folder: Where it lies; None where the switch names none.
        seal: Its record; None where that is broken.
        problems: Whatever is not as it was installed.
    """

    distribution: str
    folder: Path | None
    seal: Seal | None
    problems: tuple[str, ...] = ()


def environment_site() -> Path:
    """Where this Python's packages are installed: its own place, or the user's where that is not writable.

    Raises:
        PluginError: Neither can be written to.
    """
    own = Path(sysconfig.get_path("purelib"))
    users = Path(site.getusersitepackages())
    if os.access(own, os.W_OK) or (own / STORE).is_dir():
        return own
    if site.ENABLE_USER_SITE:
        return users
    raise PluginError(
        f"plugins cannot be installed for this Python: {own} is not writable",
        hint="make an environment of your own: `python -m venv DIR`",
    )


@contextmanager
def held(site_folder: Path) -> Iterator[None]:
    """Keep other processes from changing the plugins meanwhile.

    Raises:
        NetworkError: The disk is full, or the folder cannot be written to.
    """
    with _disk_trouble(site_folder), alone(site_folder / STORE / ".lock"):
        yield


def filled(seal: Seal, contents: Mapping[str, bytes], sources: Mapping[str, str]) -> Seal:
    """A record with the files that are going to be installed.

    Args:
        seal: Without files.
        contents: Every file, by path inside the folder.
        sources: By path inside the folder, the path in the repository, where it comes from there.
    """
    files = {
        path: SealedFile(len(content), hashlib.sha256(content).hexdigest(), sources.get(path))
        for path, content in contents.items()
    }
    return replace(seal, files=files)


def lay_down(site_folder: Path, name: str, seal: Seal, contents: Mapping[str, bytes]) -> Path:
    """Write a sealed folder, whole or not at all. Nothing sees it before `switch_on`.

    Args:
        site_folder: Of the environment; `held`.
        name: Of the distribution, in its normal form.
        seal: The record.
        contents: What the record describes.

    Returns:
        The folder.

    Raises:
        IntegrityError: What was written is not what was meant.
    """
    store = site_folder / STORE
    sweep(site_folder)
    target = store / name / seal.name
    if target.exists():
        if not _problems(target):
            return target
        _discard(target)
    staging = Path(mkdtemp(prefix=STAGING, dir=store))
    try:
        for path, content in {**contents, RECORD: seal.dump()}.items():
            _write(staging / path, content)
        problems = altered(staging, seal)
        if problems:
            raise IntegrityError("what was written to the disk is not what was meant", problems)
        staging.chmod(0o755)
        target.parent.mkdir(exist_ok=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def switch_on(site_folder: Path, name: str, folder: Path) -> None:
    """Make a sealed folder the plugin that Python finds from its next start on; whatever was on is off."""
    line = f"{STORE}/{name}/{folder.name}\n"
    fresh = site_folder / STORE / f"{STAGING}{name}"
    _write(fresh, line.encode())
    fresh.replace(_switch(site_folder, name))
    _sync(site_folder)


def is_on(site_folder: Path, folder: Path) -> bool:
    """Whether a sealed folder is the one that its plugin's switch names."""
    return any(one.folder == folder for one in installed(site_folder, check=False))


def switch_off(site_folder: Path, name: str) -> None:
    """Make Python find the plugin no more."""
    _switch(site_folder, name).unlink(missing_ok=True)
    _sync(site_folder)


def sweep(site_folder: Path) -> None:
    """Take away what no switch names: what was removed, and what a killed process left behind.

    What cannot be taken away now is seen by nobody, and is tried again next time.
    """
    kept = {one.folder for one in installed(site_folder, check=False)}
    for entry in (site_folder / STORE).iterdir():
        if entry.name.startswith(STAGING):
            _discard(entry)
        elif entry.is_dir():
            for folder in entry.iterdir():
                if folder not in kept:
                    _discard(folder)
            with suppress(OSError):
                entry.rmdir()


def installed(site_folder: Path, *, check: bool = True) -> list[Installed]:
    """Every plugin that is switched on, broken ones included. Imports nothing and never fails.

    Args:
        site_folder: Of the environment.
        check: Compare every file with the record.
    """
    found = []
    for path in sorted(site_folder.glob("ldm-plugin-*.pth")):
        switch = SWITCH.fullmatch(path.name)
        if switch is None:
            continue
        try:
            line = LINE.fullmatch(path.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError):
            line = None
        name = switch["name"]
        if line is None or line["name"] != name:
            problem = f"{path} does not name one folder of {STORE}/{name}"
            found.append(Installed(name, None, None, (problem,)))
            continue
        folder = site_folder / line[0]
        found.append(_described(name, folder) if check else Installed(name, folder, None))
    return found


def unwritten(code: Iterable[str]) -> dict[str, bytes]:
    """The empty files that keep byte code out of each folder with code.

    Args:
        code: Paths of the plugin's files inside the sealed folder.
    """
    folders = {path.rpartition("/")[0] for path in code if path.endswith(".py")}
    return {f"{folder}/{BYTE_CODE}".lstrip("/"): b"" for folder in folders}


def _described(name: str, folder: Path) -> Installed:
    try:
        seal = read_seal(folder)
    except LdmError as error:
        return Installed(name, folder, None, (error.summary, *error.problems))
    return Installed(name, folder, seal, tuple(altered(folder, seal)))


def _problems(folder: Path) -> tuple[str, ...]:
    return _described(folder.parent.name, folder).problems


def _switch(site_folder: Path, name: str) -> Path:
    return site_folder / f"ldm-plugin-{name}.pth"


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a change of a folder's entries last; a system that cannot open folders does without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_trouble(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space is left on the disk" if full else f"{type(error).__name__}: {error.strerror}"
        raise NetworkError(
            f"{place}: {what}; the plugins are as they were",
            hint="free some space and try again" if full else "check who may write there, and try again",
        ) from error
