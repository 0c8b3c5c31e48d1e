"""`ldm plugin install`, `list`, `verify`, `update`, `remove`: plugins from the Hub, and the consent that they need."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm_registry.cli.arguments import Json
from ldm_registry.cli.outcome import Result
from ldm_registry.errors import IntegrityError

if TYPE_CHECKING:
    from ldm_registry.travel.plugin_offer import Offer

Lock = Annotated[Path, typer.Option("--lock", metavar="FILE", help="Lock file that names the plugins.")]
Trust = Annotated[
    str | None,
    typer.Option(
        "--trust-code", metavar="sha256:DIGEST", help="Of exactly the code that you have read; asks nothing."
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Also where something that it needs is not installed.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be installed.")]
Plugin = Annotated[str, typer.Argument(metavar="NAME", help="Of the distribution, or of a component of it.")]
LOCK = Path("ldm.lock")


def install(
    address: Annotated[
        str,
        typer.Argument(
            metavar="REPO", help="Such as hf://org/ldm-x@v1.0.0; a tag or a branch is resolved to a commit."
        ),
    ],
    trust_code: Trust = None,
    allow_missing: AllowMissing = False,
    dry_run: DryRun = False,
    lock: Lock = LOCK,
    json: Json = False,
) -> Result:
    """Show what a plugin on the Hub holds, ask, and install just that. Nothing of it runs before."""
    from ldm_registry.hub import Hub
    from ldm_registry.travel.consent import require_allowed, require_digest
    from ldm_registry.travel.plugin_install import record
    from ldm_registry.travel.plugin_offer import Offer, offer
    from ldm_registry.travel.plugin_store import environment_site

    require_allowed()
    require_digest(trust_code)
    site = environment_site()
    found = offer(Hub.from_environment(), address, site, lock)
    if isinstance(found, Offer):
        return _settle(found, site, lock, trust_code, allow_missing=allow_missing, dry_run=dry_run)
    if not dry_run:
        record(found, site, lock)
    return Result(
        {"installed": found.distribution, "changed": False},
        f"{found.distribution} is installed at that commit already, file by file as it was",
    )


def update(
    name: Plugin,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="REVISION", help="Tag, branch or commit; default: the newest version tag."
        ),
    ] = None,
    trust_code: Trust = None,
    allow_missing: AllowMissing = False,
    dry_run: DryRun = False,
    lock: Lock = LOCK,
    json: Json = False,
) -> Result:
    """Show what a newer state of a plugin changes in its code, ask, and put it in the place of the old one."""
    from ldm_registry.hub import Hub
    from ldm_registry.travel.consent import require_allowed, require_digest
    from ldm_registry.travel.plugin_offer import Offer, offer_update
    from ldm_registry.travel.plugin_store import environment_site

    require_allowed()
    require_digest(trust_code)
    site = environment_site()
    found = offer_update(Hub.from_environment(), name, to, site, lock)
    if isinstance(found, Offer):
        return _settle(found, site, lock, trust_code, allow_missing=allow_missing, dry_run=dry_run)
    return Result({"installed": found.distribution, "changed": False}, f"{found.distribution} is up to date")


def list_(lock: Lock = LOCK, json: Json = False) -> Result:
    """List the installed plugins: where each comes from, its commit, its digest, its state. Imports none of them."""
    from ldm_registry.travel.plugin_states import states
    from ldm_registry.travel.plugin_store import environment_site
    from ldm_registry.travel.plugin_text import render_states

    found = states(environment_site(), lock)
    return Result({"plugins": [one.to_dict() for one in found]}, render_states(found))


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Distributions; default: all from the Hub."),
    ] = None,
    lock: Lock = LOCK,
    json: Json = False,
) -> Result:
    """Compare plugins, file by file, with what was installed and with the lock; exit code 4 on a difference."""
    from ldm_registry.travel.plugin_states import verified
    from ldm_registry.travel.plugin_store import environment_site
    from ldm_registry.travel.plugin_text import render_states

    found = verified(names or (), environment_site(), lock)
    broken = any(one.problems for one in found)
    document = {"verified": not broken, "plugins": [one.to_dict() for one in found]}
    return Result(document, render_states(found), IntegrityError.exit_code if broken else 0)


def remove(name: Plugin, lock: Lock = LOCK, json: Json = False) -> Result:
    """Take away a plugin that was installed from the Hub, however broken it is, and out of the lock."""
    from ldm_registry.travel.plugin_install import remove as take_away
    from ldm_registry.travel.plugin_store import environment_site

    gone = take_away(name, environment_site(), lock)
    return Result({"removed": gone}, f"{gone} is removed")


def _settle(
    found: Offer, site: Path, lock: Path, trusted: str | None, *, allow_missing: bool, dry_run: bool
) -> Result:
    """Show an offer, obtain consent, install."""
    from ldm_registry.travel.plugin_install import install as put_in
    from ldm_registry.travel.plugin_install import require_installable
    from ldm_registry.travel.plugin_text import describe_offer, render_offer

    if dry_run:
        return Result({"installed": None, "changed": False, **describe_offer(found)}, render_offer(found))
    print(render_offer(found), file=sys.stderr)
    require_installable(found, allow_missing=allow_missing)
    if trusted is None and found.is_known_code:
        trusted = found.digest
    if trusted is None and sys.stdin.isatty():
        trusted = _typed(found)
    put_in(found, trusted, site, lock, allow_missing=allow_missing)
    return Result(
        {"installed": found.name, "changed": True, **describe_offer(found)},
        f"{found.name} {found.contents.manifest.version} is installed, pinned to {found.address} in {lock}",
    )


def _typed(found: Offer) -> str:
    """The digest of what was shown, if the person at the terminal types the plugin's name."""
    print(
        f"\nThis code will run with your rights. Type {found.name} to install it: ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    typed = sys.stdin.readline().strip()
    if typed != found.name:
        raise IntegrityError("not confirmed; nothing was installed", hint=f"expected {found.name}")
    return found.digest


COMMANDS = (install, list_, verify, update, remove)
