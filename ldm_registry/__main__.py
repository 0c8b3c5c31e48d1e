"""`ldm`, also as `python -m ldm_registry`.

`ldm list` and `ldm --version` are answered ahead of typer, which costs more to import than they take.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its words, without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 healthy, 1 findings, 2 usage, 3 not found, 4 refused, 5 network, 6 plugin, 70 our bug.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"ldm-registry {version('ldm-registry')}")
        return 0
    from ldm_registry.cli.outcome import conclude

    if words[:1] == ["list"]:
        from ldm_registry.cli.listing import list_components, quick_arguments

        quick = quick_arguments(words[1:])
        if quick is not None:
            return conclude(lambda: list_components(quick.kind), as_json=quick.as_json)
    from ldm_registry.cli.app import invoke

    return conclude(lambda: invoke(words or ["--help"]), as_json="--json" in words)


if __name__ == "__main__":
    sys.exit(main())
