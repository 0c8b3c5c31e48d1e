"""How often the verdict was right: the confusion matrix, the rates, and every cell that was not right.

As text for a terminal, or as Markdown for a page of documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ldm_registry.diagnostics.benchmark import CONTROL, Score, confusion, rates, verdict_names
from ldm_registry.matrix import Failed
from ldm_registry.report.tables import number, table

NONE = "-"
_RATES: dict[str, tuple[str, str, Callable[[float], bool]]] = {
    "right": (
        "right stage, where the images are visibly other ones",
        "at least 95%",
        lambda share: share >= 0.95,
    ),
    "undecided": ("undecided", "the rest", lambda share: True),
    "wrong": ("another stage, or none", "at most 2%", lambda share: share <= 0.02),
    "class_right": (
        "right class of fault, where the stage is right",
        "at least 80%",
        lambda share: share >= 0.8,
    ),
    "false_alarms": ("a part blamed in a healthy pipeline", "none", lambda share: share == 0.0),
    "healthy_undecided": ("undecided about a healthy pipeline", "none", lambda share: share == 0.0),
}
"""What a rate is, what is asked of it, and whether a share meets that."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table of the result.

    Attributes:
        title: Above it.
        header: Names of the columns.
        rows: As many texts each.
        right: Columns that are aligned to the right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()

    def text(self) -> str:
        """For a terminal."""
        return f"{self.title}\n\n{table(self.header, self.rows, right=self.right)}"

    def markdown(self) -> str:
        """For documentation."""
        rule = ("---:" if index in self.right else "---" for index in range(len(self.header)))
        rows = (self.header, tuple(rule), *self.rows)
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        return "\n".join([f"### {self.title[:1].upper()}{self.title[1:]}", "", *lines])


def describe(scores: Sequence[Score], refused: int = 0, failed: Sequence[Failed] = ()) -> dict[str, Any]:
    """The scores as a JSON document.

    Args:
        scores: Of all cells that could be made.
        refused: How many faults could not be put into a spec.
        failed: Cells that could not be diagnosed.
    """
    return {
        "rates": rates(scores),
        "confusion": confusion(scores),
        "refused": refused,
        "failed": [{"key": one.name, **one.to_document()} for one in failed],
        "scores": [{**asdict(one), "visible": one.is_visible} for one in scores],
    }


def render(
    scores: Sequence[Score], refused: int = 0, failed: Sequence[Failed] = (), *, markdown: bool = False
) -> str:
    """The matrix, the rates as a whole and by spec, strength and fault, and the cells that were not right.

    Args:
        scores: Of all cells that could be made.
        refused: How many faults could not be put into a spec.
        failed: Cells that could not be diagnosed; in no figure.
        markdown: For documentation instead of a terminal.
    """
    if failed:
        rest = render(scores, refused, markdown=markdown) if scores else ""
        blocks = [_failed(failed)]
        return "\n\n".join([*filter(None, [rest]), *_in_text(blocks, markdown=markdown)])
    if not scores:
        return "nothing to score: no fault is installed, and no healthy control was asked for"
    faults = [one for one in scores if one.truth != CONTROL]
    unseen = sum(not one.is_visible for one in faults)
    counts = (
        f"{len(scores)} pipelines: {len(faults)} with a fault, of which {unseen} make no visible difference, and"
        f" {len(scores) - len(faults)} healthy ones; {refused} faults do not apply to a spec"
    )
    blocks = [block for block in _blocks(scores) if block.rows]
    return "\n\n".join([counts, *_in_text(blocks, markdown=markdown)])


def _in_text(blocks: Iterable[Block], *, markdown: bool) -> list[str]:
    return [block.markdown() if markdown else block.text() for block in blocks]


def _blocks(scores: Sequence[Score]) -> Iterator[Block]:
    yield _matrix(scores)
    yield _rates(scores)
    yield _split("by spec", "spec", scores, lambda one: one.spec)
    faults = [one for one in scores if one.truth != CONTROL]
    yield _split("by strength", "strength", faults, lambda one: f"{one.strength:g}")
    yield _by_fault(faults)
    yield _healthy([one for one in scores if one.truth == CONTROL])
    yield _missed("not the right part", [one for one in scores if not one.is_right and _counts(one)])
    other = [one for one in scores if one.is_visible and one.is_right and one.is_class_right is False]
    yield _missed("the right part, but another class of fault", other)


def _matrix(scores: Sequence[Score]) -> Block:
    columns, matrix = verdict_names(scores), confusion(scores)
    rows = tuple(
        (truth, *(str(row.get(column, 0) or ".") for column in columns))
        for truth, row in sorted(matrix.items())
    )
    return Block(
        "verdicts on faults that can be seen, and on healthy pipelines",
        ("truth \\ verdict", *columns),
        rows,
        tuple(range(1, len(columns) + 1)),
    )


def _rates(scores: Sequence[Score]) -> Block:
    found = rates(scores)
    rows = []
    for name, (about, asked, is_met) in _RATES.items():
        share = found[name]
        met = NONE if share is None else "yes" if is_met(share) else "no"
        rows.append((about, _percent(share), asked, met))
    return Block("rates", ("", "share", "asked for", "met"), tuple(rows), (1,))


def _split(title: str, name: str, scores: Sequence[Score], group: Callable[[Score], str]) -> Block:
    rows = []
    for value in sorted({group(one) for one in scores}):
        some = [one for one in scores if group(one) == value]
        found, seen = rates(some), sum(one.is_visible for one in some if one.truth != CONTROL)
        shares = [
            _percent(found[one]) for one in ("right", "undecided", "wrong", "class_right", "false_alarms")
        ]
        rows.append((value, str(seen), *shares))
    header = (name, "visible faults", "right", "undecided", "wrong", "right class", "false alarms")
    return Block(title, header, tuple(rows), tuple(range(1, len(header))))


def _by_fault(faults: Sequence[Score]) -> Block:
    """A row for each fault; for each strength, in how many of the specs in which it can be seen it was found."""
    strengths = sorted({one.strength for one in faults})
    rows = []
    for name in sorted({one.case for one in faults}):
        own = [one for one in faults if one.case == name]
        seen, unseen = [one for one in own if one.is_visible], [one for one in own if not one.is_visible]
        classes = [one for one in seen if one.is_class_right is not None]
        cells = [_of(one for one in seen if one.strength == strength) for strength in strengths]
        instead = Counter(one.verdict for one in seen if not one.is_right)
        rows.append(
            (
                name,
                own[0].truth.replace("/", " or "),
                *cells,
                f"{sum(bool(one.is_class_right) for one in classes)} of {len(classes)}" if classes else NONE,
                ", ".join(f"{verdict} {count}" for verdict, count in instead.most_common()) or NONE,
                _of(unseen),
            )
        )
    at = tuple(f"at {strength:g}" for strength in strengths)
    header = ("fault", "at fault", *at, "right class", "named instead", "found unseen")
    return Block("by fault: specs with the right part, of those where it can be seen", header, tuple(rows))


def _healthy(scores: Sequence[Score]) -> Block:
    rows = []
    for name in sorted({one.case for one in scores}):
        own = [one for one in scores if one.case == name]
        blamed = Counter(one.verdict for one in own if one.verdict != CONTROL)
        instead = ", ".join(f"{verdict} {count}" for verdict, count in blamed.most_common())
        rows.append((name, f"{sum(one.verdict == CONTROL for one in own)} of {len(own)}", instead or NONE))
    return Block("healthy pipelines", ("change", "called healthy", "named instead"), tuple(rows))


def _missed(title: str, scores: Iterable[Score]) -> Block:
    rows = tuple(
        (
            one.key,
            one.truth,
            one.verdict,
            f"{one.confidence:.2f}",
            number(one.visible_psnr_db),
            one.fault or NONE,
        )
        for one in scores
    )
    header = ("pipeline", "truth", "verdict", "confidence", "agreement [dB]", "what it says")
    return Block(title, header, rows, (3, 4))


def _failed(failed: Sequence[Failed]) -> Block:
    rows = tuple((one.name, "; ".join([one.error, *one.lines])) for one in failed)
    return Block(f"failed, and in no figure: {len(failed)}", ("pipeline", "why"), rows)


def _counts(one: Score) -> bool:
    return one.is_visible or one.truth == CONTROL


def _of(scores: Iterable[Score]) -> str:
    found = [one.is_right for one in scores]
    return f"{sum(found)} of {len(found)}" if found else NONE


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"
