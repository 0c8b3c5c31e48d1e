"""Install what was offered and consented to, and take it away again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ldm_registry.authoring.manifest import FILE
from ldm_registry.errors import IntegrityError, MissingDependencyError, NotFoundError
from ldm_registry.hookspecs import PROJECT
from ldm_registry.hub import clean
from ldm_registry.travel.consent import require_allowed, require_digest
from ldm_registry.travel.plugin_contents import Contents, is_about, normal
from ldm_registry.travel.plugin_lock import change_locked, locked_of, read_locked
from ldm_registry.travel.plugin_offer import Offer, find_installed
from ldm_registry.travel.plugin_states import against_lock
from ldm_registry.travel.plugin_store import (
    Installed,
    filled,
    held,
    installed,
    is_on,
    lay_down,
    sweep,
    switch_off,
    switch_on,
    unwritten,
)
from ldm_registry.travel.sealed_code import Seal


def require_installable(offer: Offer, *, allow_missing: bool = False) -> None:
    """Stop before anybody is asked, where the plugin could not work anyway.

    Raises:
        MissingDependencyError: Something that it needs is not there. It is never installed in passing.
    """
    if offer.missing and not allow_missing:
        wanted = " ".join(f"'{text.partition(' (there is')[0]}'" for text in offer.missing)
        raise MissingDependencyError(
            f"{offer.name} needs what is not installed here; nothing was installed",
            offer.missing,
            hint=f"look at them, then `{sys.executable} -m pip install {wanted}`; or say --allow-missing",
        )


def require_consent(offer: Offer, digest: str | None) -> None:
    """Consent is given to exactly these bytes.

    Args:
        offer: What would be installed.
        digest: Of the code that somebody trusts, `sha256:...`.

    Raises:
        SpecError: That is no digest.
        IntegrityError: Nobody consented, or to other code.
    """
    if digest is None:
        raise IntegrityError(
            f"{offer.name} is code from the Hub, and nobody consented to it; nothing was installed",
            [f"code digest: {offer.digest}"],
            hint="read the code; then install it from a terminal, or with --trust-code and its digest",
        )
    require_digest(digest)
    if digest != offer.digest:
        raise IntegrityError(
            f"{offer.address} is not the code that is trusted; nothing was installed",
            [f"trusted: {digest}", f"found: {offer.digest}"],
            hint="compare the two before you trust the second",
        )


def install(
    offer: Offer, digest: str | None, site_folder: Path, lock: Path, *, allow_missing: bool = False
) -> Installed:
    """Install a plugin, or put it in the place of an earlier one; whole and recorded, or not at all.

    Args:
        offer: What was looked at.
        digest: Of the code that was consented to.
        site_folder: Of the environment.
        lock: The lock file that gets it.
        allow_missing: Also where something that it needs is missing.

    Returns:
        What is installed now.

    Raises:
        LdmError: As `require_allowed`, `require_consent` and `require_installable`.
        IntegrityError: The plugins changed since the offer was made, or what was written is not what was meant.
        NetworkError: The disk is full, or cannot be written to; everything is as it was.
    """
    require_allowed()
    require_consent(offer, digest)
    require_installable(offer, allow_missing=allow_missing)
    contents, sources = _laid_out(offer)
    seal = filled(_seal(offer), contents, sources)
    with held(site_folder):
        _require_unchanged(offer, site_folder)
        folder = lay_down(site_folder, offer.name, seal, contents)
        # The lock comes first: code that is switched on is never without its record.
        before = read_locked(lock).get(offer.name)
        change_locked(lock, offer.name, locked_of(offer.name, seal))
        try:
            switch_on(site_folder, offer.name, folder)
        except BaseException:
            if not is_on(site_folder, folder):
                change_locked(lock, offer.name, before)
            raise
        sweep(site_folder)
    return find_installed(offer.name, site_folder)


def record(plugin: Installed, site_folder: Path, lock: Path) -> None:
    """Name in a lock what is installed already; what a killed installation left unfinished ends here.

    Args:
        plugin: What is installed.
        site_folder: Of the environment.
        lock: The lock file that gets it.

    Raises:
        IntegrityError: The lock names another commit or other code of it.
    """
    if plugin.seal is None:
        return
    found = locked_of(plugin.distribution, plugin.seal)
    problems = against_lock(found, read_locked(lock).get(plugin.distribution), lock)
    if problems:
        raise IntegrityError(f"plugin {plugin.distribution} is not what {lock} names", problems)
    with held(site_folder):
        change_locked(lock, plugin.distribution, found)
        sweep(site_folder)


def remove(name: str, site_folder: Path, lock: Path) -> str:
    """Take a plugin away, however broken it is, and out of the lock.

    Args:
        name: Of the distribution, or of a component of it.
        site_folder: Of the environment.
        lock: The lock file; it need not exist.

    Returns:
        The distribution that is gone.

    Raises:
        NotFoundError: No such plugin was installed from the Hub, and the lock names none.
        LdmError: The disk cannot be written to, or the lock is broken.
    """
    wanted = name if "/" in name else normal(name)
    with held(site_folder):
        try:
            wanted = find_installed(wanted, site_folder).distribution
        except NotFoundError:
            if wanted not in read_locked(lock):
                raise
        switch_off(site_folder, wanted)
        sweep(site_folder)
        if lock.exists():
            change_locked(lock, wanted, None)
    return wanted


def _seal(offer: Offer) -> Seal:
    manifest = offer.contents.manifest
    return Seal(
        distribution=offer.name,
        version=manifest.version,
        repository=offer.repository,
        revision=offer.revision,
        commit=offer.commit,
        digest=offer.digest,
        components=tuple(f"{one.kind}.{one.name}" for one in manifest.components),
        files={},
    )


def _laid_out(offer: Offer) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
    """Every file by its path in the installed folder, and where those of the repository come from."""
    about = offer.contents.metadata_folder
    sources = {}
    for source, path in offer.contents.sources.items():
        if is_about(source):
            path = f"{about}/{path}" if path == FILE else f"{about}/licenses/{path}"
        sources[path] = source
    contents = {path: offer.files[source] for path, source in sources.items()}
    contents |= unwritten([path for path, source in sources.items() if not is_about(source)])
    contents |= {f"{about}/{path}": text.encode() for path, text in _described(offer.contents).items()}
    return contents, sources


def _described(contents: Contents) -> dict[str, str]:
    """The files that tell Python and pip what is installed.

    There is no RECORD on purpose: pip then neither replaces nor removes what is not its own.
    """
    manifest = contents.manifest
    about = [
        "Metadata-Version: 2.1",
        f"Name: {manifest.distribution}",
        f"Version: {manifest.version}",
        f"Summary: {clean(manifest.description)}",
        *([f"Requires-Python: {clean(contents.requires_python)}"] if contents.requires_python else []),
        *(f"Requires-Dist: {clean(needed, most=500)}" for needed in contents.requirements),
    ]
    points = [f"{one.kind}.{one.name} = {one.module}" for one in manifest.components]
    return {
        "METADATA": "\n".join(about) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: ldm-registry\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "ldm-registry\n",
        "entry_points.txt": "\n".join([f"[{PROJECT}]", *points]) + "\n",
        "top_level.txt": "\n".join(contents.packages) + "\n",
    }


def _require_unchanged(offer: Offer, site_folder: Path) -> None:
    now = {one.distribution: one.folder for one in installed(site_folder, check=False)}.get(offer.name)
    before = offer.before.folder if offer.before else None
    if now != before:
        raise IntegrityError(
            f"plugin {offer.name} was installed or changed meanwhile",
            hint="look at it again: run the command again",
        )
