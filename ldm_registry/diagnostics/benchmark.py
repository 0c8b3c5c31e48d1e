"""Score the verdict: every installed modifier that declares itself a fault, on specs, beside healthy controls.

The diagnosis is handed nothing but the pipeline; which fault was put in is known here alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ldm_registry.assembly import assemble
from ldm_registry.diagnostics.diagnosis import diagnose, subject_of
from ldm_registry.diagnostics.injection import injected, known_faults
from ldm_registry.diagnostics.probe import mse_per_image
from ldm_registry.diagnostics.report import Outcome, stages_name
from ldm_registry.errors import LdmError, NetworkError, ResourceError, SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec, swap
from ldm_registry.spec_text import plain
from ldm_registry.vocabulary import STAGES, Kind

STRENGTHS = (0.25, 0.5, 1.0)
VISIBLE_PSNR_DB = 30.0
"""Samples or round trips that agree less with the healthy pipeline's are visibly other images."""
SAMPLES = 4
CONTROL = "healthy"
OTHER_SAMPLERS = ("euler", "heun", "dpmpp-2m", "euler-ancestral", "unipc")


@dataclass(frozen=True, slots=True)
class Cell:
    """One pipeline to diagnose.

    Attributes:
        spec: Name of the spec.
        fault: The modifier's name, or what kind of healthy control it is.
        strength: Of the fault; 0 for a control.
        stages: Who would be rightly blamed, by name; empty for a control.
        words: Any of them in the verdict's fault makes the fault class right.
        changed: The spec with the fault in it, or changed as the control says.
    """

    spec: str
    fault: str
    strength: float
    stages: tuple[str, ...]
    words: tuple[str, ...]
    changed: PipelineSpec

    @property
    def key(self) -> str:
        """Under which its score is stored."""
        return f"{self.spec} {self.fault} {self.strength:g}"


@dataclass(frozen=True, slots=True)
class Score:
    """How one diagnosis came out.

    Attributes:
        key: Of the cell.
        truth: The stage that was changed, or `healthy`.
        verdict: The stage that was named, `healthy` or `undecided`.
        confidence: Of the verdict.
        fault: What the verdict says is wrong.
        is_right: Whether the stage is right; an interface that holds the stage is.
        is_class_right: Whether the fault class is right too; None where the fault does not say how it is called.
        visible_psnr_db: Agreement with the healthy pipeline's images, the worse of samples and round trip; None where
            they are identical, or for a control.
        seconds: Of the diagnosis.
    """

    key: str
    truth: str
    verdict: str
    confidence: float
    fault: str | None
    is_right: bool
    is_class_right: bool | None
    visible_psnr_db: float | None
    seconds: float

    @property
    def is_visible(self) -> bool:
        """Whether the images are visibly other ones."""
        return self.visible_psnr_db is not None and self.visible_psnr_db < VISIBLE_PSNR_DB

    @property
    def spec(self) -> str:
        """Name of the spec."""
        return self.key.partition(" ")[0]

    @property
    def case(self) -> str:
        """The modifier's name, or what kind of healthy control it is."""
        return self.key.partition(" ")[2].rpartition(" ")[0]

    @property
    def strength(self) -> float:
        """Of the fault; 0 for a control."""
        return float(self.key.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Refused:
    """A fault that cannot be put into a spec.

    Attributes:
        key: Of the cell.
        refused: Why.
    """

    key: str
    refused: str


def cells(
    specs: Sequence[tuple[str, PipelineSpec]],
    faults: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    *,
    controls: bool = True,
    registry: Registry | None = None,
) -> Iterator[Cell]:
    """What there is to diagnose.

    Args:
        specs: Healthy ones, by name.
        faults: Names of modifiers; None takes all that are installed and are faults.
        strengths: Of each fault.
        controls: Also the specs as they are, with other seeds, fewer steps and other samplers.
        registry: None discovers what is installed.

    Raises:
        NotFoundError: There is no such fault.
    """
    registry = registry or Registry.discover()
    for name, spec in specs:
        if controls:
            yield from _controls(name, spec, registry)
        for fault in faults if faults is not None else [one.name for one in known_faults(registry)]:
            for strength in strengths:
                yield _faulty(name, spec, fault, strength, registry)


def score(spec: PipelineSpec, cell: Cell, *, quick: bool) -> Score | Refused:
    """Diagnose one cell, unless the fault cannot be put into this spec.

    Args:
        spec: The healthy one, to compare with.
        cell: The other.
        quick: As for `diagnose`.

    Raises:
        LdmError: The healthy spec cannot be assembled either.
    """
    try:
        pipe = assemble(cell.changed)
    except (ResourceError, NetworkError):
        raise
    except LdmError as error:
        assemble(spec)
        return Refused(cell.key, str(error).partition("\n")[0])
    report = diagnose(pipe, quick=quick, with_costs=False)
    verdict = report.verdict
    named = {stage.value for stage in verdict.stages} if verdict.outcome is Outcome.FAULT else set()
    is_right = bool(named & set(cell.stages)) if cell.stages else not named
    if cell.stages and verdict.outcome is Outcome.UNDECIDED:
        is_right = False
    told = (verdict.fault or "").lower()
    return Score(
        cell.key,
        "/".join(cell.stages) or CONTROL,
        verdict.stage,
        verdict.confidence,
        verdict.fault,
        is_right,
        any(word.lower() in told for word in cell.words) if cell.words and is_right else None,
        _agreement(assemble(spec), pipe) if cell.stages else None,
        report.seconds,
    )


def confusion(scores: Sequence[Score]) -> dict[str, dict[str, int]]:
    """How often each truth got each verdict; only faults that can be seen, and all controls."""
    table: dict[str, dict[str, int]] = {}
    for one in scores:
        if one.truth == CONTROL or one.is_visible:
            row = table.setdefault(one.truth, {})
            row[one.verdict] = row.get(one.verdict, 0) + 1
    return table


def rates(scores: Sequence[Score]) -> dict[str, float | None]:
    """The shares that the verdict is judged by; None where nothing was tried."""
    seen = [one for one in scores if one.is_visible and one.truth != CONTROL]
    healthy = [one for one in scores if one.truth == CONTROL]
    wrong = [one for one in seen if not one.is_right and one.verdict != Outcome.UNDECIDED]
    classes = [one.is_class_right for one in seen if one.is_class_right is not None]
    return {
        "right": _share(sum(one.is_right for one in seen), len(seen)),
        "undecided": _share(sum(one.verdict == Outcome.UNDECIDED for one in seen), len(seen)),
        "wrong": _share(len(wrong), len(seen)),
        "class_right": _share(sum(classes), len(classes)),
        "false_alarms": _share(sum(not one.is_right for one in healthy), len(healthy)),
        "healthy_undecided": _share(sum(one.verdict == Outcome.UNDECIDED for one in healthy), len(healthy)),
    }


def stored(path: Path) -> list[Score | Refused]:
    """What an earlier run found; nothing where there is no such file.

    Raises:
        SpecError: The file holds something else.
    """
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Refused(**line) if "refused" in line else Score(**line) for line in lines]
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{path} holds no scores of an earlier run: {error}", hint="name another file"
        ) from error


def store(path: Path, one: Score | Refused) -> None:
    """Append what was found, one line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(one)) + "\n")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _faulty(name: str, spec: PipelineSpec, fault: str, strength: float, registry: Registry) -> Cell:
    """A fault where it is at home; one that does no harm has nobody to blame."""
    known: Any = registry.get(Kind.MODIFIER, fault)
    put_into = getattr(known, "stages", known.modifies)
    blames = () if getattr(known, "harmless", False) else getattr(known, "blames", put_into)
    words = tuple(getattr(known, "words", ()))
    changed = injected(spec, fault, registry, strength=strength)
    return Cell(name, fault, strength, tuple(str(kind) for kind in blames), words, changed)


def _controls(name: str, spec: PipelineSpec, registry: Registry) -> Iterator[Cell]:
    def control(about: str, **changes: Any) -> Cell:
        return Cell(name, about, 0.0, (), (), swap(spec, **changes))

    yield control("as it is")
    yield from (control(f"seed {seed}", seed=seed) for seed in (1, 2))
    yield control("10 steps", scheduler_config={"steps": 10})
    samplers = set(registry.names(Kind.SCHEDULER))
    for other in OTHER_SAMPLERS:
        if other in samplers and other != spec.scheduler.use:
            yield control(f"sampler {other}", scheduler=other, **_schedule(spec))


def _schedule(spec: PipelineSpec) -> dict[str, Any]:
    kept = plain(spec)[Kind.SCHEDULER.value].get("schedule")
    return {} if kept is None else {"scheduler_schedule": kept}


def _agreement(healthy: Pipeline, faulty: Pipeline) -> float | None:
    """As `_agreement_db`; a pipeline that fails to make images agrees with nothing."""
    try:
        return _agreement_db(healthy, faulty)
    except (LdmError, RuntimeError, ValueError, ArithmeticError, IndexError, TypeError):
        return 0.0


@torch.inference_mode()
def _agreement_db(healthy: Pipeline, faulty: Pipeline) -> float | None:
    """PSNR between the images of two pipelines, the worse of samples and round trips; None if they are the same."""
    images = subject_of(healthy, quick=True).images[: 2 * SAMPLES]
    pairs = [(healthy.reconstruct(images), faulty.reconstruct(images))]
    pairs.append((healthy.sample(SAMPLES, seed=0), faulty.sample(SAMPLES, seed=0)))
    errors = [float(mse_per_image(other.clamp(-1, 1), one).mean()) for one, other in pairs]
    worst = max(errors)
    if worst <= 1e-9:
        return None
    return float(10.0 * torch.log10(torch.tensor(4.0 / min(worst, 4.0))))


def verdict_names(scores: Sequence[Score]) -> list[str]:
    """The columns of the confusion matrix, in the order of the data flow."""
    singles = [stages_name(frozenset({stage})) for stage in STAGES]
    found = {one.verdict for one in scores}
    others = sorted(found - {*singles, CONTROL, Outcome.UNDECIDED.value})
    return [CONTROL, *singles, *others, Outcome.UNDECIDED.value]
