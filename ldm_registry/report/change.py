"""`STAGE=NAME` words to a changed spec that is known to fit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldm_registry.assembly import component_name
from ldm_registry.errors import LdmError, NotFoundError, SpecError, did_you_mean
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.report.fit import alternatives, checkpoints, fitted, schedule_to_keep
from ldm_registry.spec import PipelineSpec, bundled_dir, dump_spec
from ldm_registry.spec_paths import has_scheme
from ldm_registry.travel.pull import local_folder
from ldm_registry.travel.references import parse_reference
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.yaml_reader import resolve_scalar

EXAMPLE = "for example `denoiser=unet scheduler=euler scheduler.steps=20`"


def changed(spec: PipelineSpec, words: Sequence[str], registry: Registry) -> Pipeline:
    """The pipeline of a spec in which some parts were swapped.

    A new part that needs weights and is given none takes those that lie beside the spec or come with the
    package, when exactly one checkpoint of it fits.

    Args:
        spec: Left as it is.
        words: `STAGE=NAME`, `STAGE=CHECKPOINT`, `STAGE=NAME:CHECKPOINT`, or `STAGE.KEY=VALUE` where the key
            is `checkpoint`, `device`, `dtype`, `schedule` (a name), `runtime.` and what it is to say, or one of the
            component's config.
        registry: What there is.

    Raises:
        SpecError: A word is not of that form, or several checkpoints fit equally well.
        LdmError: What was asked for does not exist or does not fit; the hint says what would.
    """
    changes = _parse(spec, words, registry)
    stages = [stage for stage in STAGES if stage in changes]
    kept = {} if "scheduler_schedule" in changes else schedule_to_keep(spec, registry)
    fitting: list[Pipeline] = []
    reason: LdmError | None = None
    for attempt in _attempts(spec, changes, stages):
        try:
            fitting.append(fitted(spec, attempt, kept, registry))
        except LdmError as error:
            reason = error
        if fitting and attempt is changes:
            return fitting[0]
    if reason is not None and not fitting:
        raise _with_alternatives(reason, spec, stages, registry)
    fewest = min(len(pipe.warnings) for pipe in fitting)
    best = [pipe for pipe in fitting if len(pipe.warnings) == fewest]
    if len(best) > 1:
        raise SpecError(
            "several checkpoints fit equally well",
            [_weights_of(pipe, stages) for pipe in best],
            hint=f"name one: `{stages[0]}=NAME:CHECKPOINT`",
        )
    return best[0]


def write(path: Path, spec: PipelineSpec, *, overwrite: bool = False) -> str:
    """Write a spec with its paths relative to where it lies, and return the text.

    Args:
        path: A YAML file.
        spec: What to write.
        overwrite: Also replace a file.

    Raises:
        SpecError: The file exists.
    """
    if path.exists() and not overwrite:
        raise SpecError(f"{path} exists already", hint="name another file, or add --overwrite")
    text = dump_spec(spec, relative_to=path.absolute().parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return text


def _parse(spec: PipelineSpec, words: Sequence[str], registry: Registry) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for word in words:
        target, equals, value = word.partition("=")
        stage, dot, key = target.partition(".")
        if not equals or not value or (dot and not key):
            raise SpecError(f"cannot read {word!r}: expected STAGE=NAME or STAGE.KEY=VALUE", hint=EXAMPLE)
        if stage not in STAGES:
            raise SpecError(f"{word!r}: there is no stage {stage!r}", hint=did_you_mean(stage, list(STAGES)))
        if not dot:
            changes |= _part(spec, Kind(stage), value, registry)
        elif key == "checkpoint":
            changes[f"{stage}_checkpoint"] = str(_located(spec, value))
        elif key == "schedule":
            changes[f"{stage}_schedule"] = {"name": value}
        elif key in ("device", "dtype"):
            changes[f"{stage}_{key}"] = value
        elif key.startswith("runtime."):
            changes.setdefault(f"{stage}_runtime", {})[key.removeprefix("runtime.")] = _value(word, value)
        else:
            changes.setdefault(f"{stage}_config", {})[key] = _value(word, value)
    return changes


def _part(spec: PipelineSpec, stage: Kind, value: str, registry: Registry) -> dict[str, Any]:
    name, colon, checkpoint = value.partition(":")
    if colon and not checkpoint.startswith("//"):
        return {stage: name, f"{stage}_checkpoint": str(_located(spec, checkpoint))}
    if "/" not in value:
        return {stage: value}
    folder = _located(spec, value)
    return {stage: component_name(stage, local_folder(folder), registry), f"{stage}_checkpoint": str(folder)}


def _located(spec: PipelineSpec, checkpoint: str) -> Path | str:
    """A checkpoint on the Hub, or as seen from the current folder, from the spec, or among the bundled ones."""
    if has_scheme(checkpoint):
        return str(parse_reference(checkpoint))
    beside = [spec.source.parent] if spec.source else []
    for folder in (Path.cwd(), *beside, bundled_dir()):
        if (folder / checkpoint).is_dir():
            return folder / checkpoint
    raise NotFoundError(
        f"checkpoint {checkpoint!r} does not exist here, beside the spec or among the bundled ones"
    )


def _value(word: str, text: str) -> Any:
    try:
        return json.loads(text) if text.startswith("[") else resolve_scalar(text)
    except ValueError as error:
        raise SpecError(f"cannot read the value of {word!r}", [str(error)]) from error


def _attempts(
    spec: PipelineSpec, changes: dict[str, Any], stages: Sequence[Kind]
) -> Iterator[dict[str, Any]]:
    """The changes as they stand, then with every choice of checkpoints for the parts that were given none."""
    yield changes
    lacking = [
        stage for stage in stages if stage is not Kind.SCHEDULER and f"{stage}_checkpoint" not in changes
    ]
    choices = [[None, *checkpoints(spec, stage, changes[stage])] for stage in lacking]
    for chosen in itertools.product(*choices):
        found = {
            f"{stage}_checkpoint": str(folder)
            for stage, folder in zip(lacking, chosen, strict=True)
            if folder is not None
        }
        if found:
            yield {**changes, **found}


def _with_alternatives(
    error: LdmError, spec: PipelineSpec, stages: Sequence[Kind], registry: Registry
) -> LdmError:
    offers = []
    for stage in stages:
        fitting = alternatives(spec, stage, registry)
        offers.append(f"what fits as {stage}: {', '.join(fitting) or 'nothing else'}")
    return type(error)(error.summary, error.problems, "\n".join(filter(None, (error.hint, *offers))))


def _weights_of(pipe: Pipeline, stages: Sequence[Kind]) -> str:
    return ", ".join(f"{stage}: {getattr(getattr(pipe.spec, stage), 'checkpoint', None)}" for stage in stages)
