"""What a person is shown of a plugin before they decide, and of what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldm_registry.hub import clean
from ldm_registry.travel.plugin_changes import ascii_path
from ldm_registry.travel.plugin_offer import Offer
from ldm_registry.travel.plugin_states import State

MAX_FINDINGS = 40
MAX_DIFF_LINES = 2000


def render_offer(offer: Offer) -> str:
    """Everything that is known about a plugin without running it.

    Args:
        offer: What was looked at.
    """
    manifest, review = offer.contents.manifest, offer.review
    lines = [
        f"{offer.name} {manifest.version}: {clean(manifest.description)}",
        f"from        {offer.address}",
        *(
            [f"            ({clean(offer.revision)} stands for that commit now)"]
            if offer.revision != offer.commit
            else []
        ),
        f"components  {', '.join(f'{one.kind}.{one.name}' for one in manifest.components)}",
        f"packages    {', '.join(offer.contents.packages)}",
        f"code        {review.lines} lines in {review.files} Python files; {len(offer.files)} files in all:",
        *(
            f"              {ascii_path(path)} ({facts.size:,} bytes)"
            for path, facts in sorted(offer.facts.items())
        ),
        f"imports     {', '.join(clean(name) for name in sorted(review.imports)) or 'nothing'}",
    ]
    if offer.changes:
        lines += ["", "what changes:", *_shortened(offer.changes.splitlines())]
    if review.findings:
        lines.append("deserves a look:")
        lines += [
            f"  {ascii_path(one.path)}:{one.line}  {clean(one.what)}  ({one.why})"
            for one in review.findings[:MAX_FINDINGS]
        ]
        if len(review.findings) > MAX_FINDINGS:
            lines.append(f"  ... and {len(review.findings) - MAX_FINDINGS} more; --json has them all")
    lines += [f"missing     {clean(text)}" for text in offer.missing]
    lines += [f"not here    {clean(name)}, which its code imports" for name in offer.unsupplied]
    lines.append(f"code digest {offer.digest}")
    return "\n".join(lines)


def describe_offer(offer: Offer) -> dict[str, Any]:
    """The same as a JSON document."""
    manifest = offer.contents.manifest
    return {
        "distribution": offer.name,
        "version": manifest.version,
        "repository": offer.repository,
        "revision": offer.revision,
        "commit": offer.commit,
        "components": [f"{one.kind}.{one.name}" for one in manifest.components],
        "packages": list(offer.contents.packages),
        "files": {path: {"size": one.size, "sha256": one.sha256} for path, one in offer.facts.items()},
        "code": offer.review.to_dict(),
        "missing": list(offer.missing),
        "unsupplied": list(offer.unsupplied),
        "changes": offer.changes,
        "digest": offer.digest,
    }


def render_states(states: Sequence[State]) -> str:
    """One block for each installed plugin."""
    return "\n".join(line for one in states for line in _state(one)) or "no plugin is installed"


def _state(one: State) -> list[str]:
    lines = [f"{one.distribution} {one.version}".strip() + f"  {'ALTERED' if one.problems else 'ok'}"]
    lines.append(f"  components  {', '.join(one.components) or 'unknown'}")
    if one.commit:
        lines.append(f"  from        {one.origin}@{one.commit} ({clean(one.revision)})")
        lines.append(f"  code digest {one.digest}{'' if one.locked else '  (not in the lock)'}")
    else:
        lines.append(f"  from        {one.origin}")
    return [*lines, *(f"  ! {problem}" for problem in one.problems)]


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MAX_DIFF_LINES
    return [*lines[:MAX_DIFF_LINES], *([f"... and {more} more lines"] if more > 0 else [])]
