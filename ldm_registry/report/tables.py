"""Plain-text tables for a terminal. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns two blanks apart, without trailing blanks.

    Args:
        header: One word for each column.
        rows: As many cells each.
        right: Indices of the columns that are aligned to the right (numbers).
    """
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, (header, *rows)))


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: thousands separated, a dash for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
