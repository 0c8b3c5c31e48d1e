"""Several specs of a command line, each of which becomes a row of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_registry.cli.arguments import resolve
from ldm_registry.errors import LdmError

if TYPE_CHECKING:
    from ldm_registry.matrix import Failed
    from ldm_registry.spec import PipelineSpec


def read_specs(
    sources: Sequence[str], *, seed: int | None = None, device: str | None = None
) -> list[tuple[str, PipelineSpec] | Failed]:
    """Each with its name; in place of one that cannot be read, the row that says why.

    Args:
        sources: As for `resolve`.
        seed: As for `resolve`.
        device: As for `resolve`.
    """
    from ldm_registry.matrix import Failed

    found: list[tuple[str, PipelineSpec] | Failed] = []
    for source in sources:
        name = Path(source).stem
        try:
            found.append((name, resolve(source, seed=seed, device=device)))
        except LdmError as error:
            found.append(Failed.of(name, error))
    return found
