"""Whether a spec's parts fit, and which other parts would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_registry.assembly import assemble
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import Component
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.report.tables import table
from ldm_registry.spec import PipelineSpec, bundled_dir, spec_digest, swap
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.weights import CONTRACT, read_contract


def describe_fit(pipe: Pipeline) -> dict[str, Any]:
    """A pipeline that fits, as a JSON document."""
    return {
        "spec": pipe.spec.source.stem if pipe.spec.source else None,
        "spec_sha256": spec_digest(pipe.spec),
        "fits": True,
        "stages": {stage: _part(getattr(pipe, stage), getattr(pipe.spec, stage)) for stage in STAGES},
        "conditioners": {
            label: _part(part, pipe.spec.conditioners[label]) for label, part in pipe.conditioners.items()
        },
        "latent_shape": list(pipe.latent_shape),
        "levels": len(pipe.scheduler.levels()),
        "warnings": list(pipe.warnings),
    }


def render(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = [
        (
            stage,
            part["component"],
            f"{part['parameters']:,}" if part["parameters"] else "",
            part["checkpoint"] or "",
        )
        for stage, part in {**document["stages"], **document["conditioners"]}.items()
    ]
    channels, height, width = document["latent_shape"]
    lines = [
        table(("stage", "component", "parameters", "checkpoint"), rows, right=(2,)),
        f"fits: {document['levels'] - 1} steps over latents of {channels} x {height} x {width}",
        *(f"warning: {warning}" for warning in document["warnings"]),
    ]
    return "\n".join(lines)


def checkpoints(spec: PipelineSpec, kind: Kind, name: str) -> list[Path]:
    """Folders beside the spec and among the bundled ones that hold weights of a component.

    A folder whose contract cannot be read is passed over here; naming it says what is wrong with it.
    """
    beside = [spec.source.parent] if spec.source else []
    found = {}
    for parent in (*beside, bundled_dir()):
        for path in sorted((parent / "checkpoints").glob(f"*/{CONTRACT}")):
            try:
                contract = read_contract(path.parent)
            except LdmError:
                continue
            if contract is not None and contract.components.get(kind) == name:
                found[path.parent.resolve()] = path.parent
    return list(found.values())


def alternatives(spec: PipelineSpec, stage: Kind, registry: Registry) -> list[str]:
    """What could stand in one stage of a spec, everything else left as it is, as `ldm swap` takes it.

    Args:
        spec: One that fits.
        stage: The stage to try others in.
        registry: What there is.

    Returns:
        `NAME` or `NAME:CHECKPOINT`; those that raise a warning say so and come last.
    """
    kept = schedule_to_keep(spec, registry) if stage is Kind.DENOISER else {}
    found = []
    for name in registry.names(stage):
        options = []
        for folder in (None, *checkpoints(spec, stage, name)):
            changes: dict[str, Any] = {stage: name}
            if folder is not None:
                changes[f"{stage}_checkpoint"] = str(folder)
            try:
                warnings = fitted(spec, changes, kept, registry).warnings
            except LdmError:
                continue
            where = "" if folder is None else f":{folder.parent.name}/{folder.name}"
            options.append((len(warnings), f"{name}{where}"))
        found += sorted(options)[:1]
    return [f"{text} (with a warning)" if warned else text for warned, text in sorted(found)]


def fitted(
    spec: PipelineSpec, changes: Mapping[str, Any], kept: Mapping[str, Any], registry: Registry
) -> Pipeline:
    """The pipeline of a changed spec.

    Args:
        spec: Left as it is.
        changes: As `swap` takes them.
        kept: More changes, for the case that it does not fit without them: see `schedule_to_keep`.
        registry: What there is.

    Raises:
        LdmError: It does not fit either way.
    """
    try:
        return assemble(swap(spec, **changes), registry)
    except LdmError:
        if not kept or Kind.DENOISER not in changes:
            raise
        return assemble(swap(spec, **changes, **kept), registry)


def schedule_to_keep(spec: PipelineSpec, registry: Registry) -> dict[str, Any]:
    """The change that keeps the noise schedule of a spec under a new denoiser that was trained under none.

    Args:
        spec: Before the change.
        registry: What there is.

    Returns:
        Nothing where the spec names a schedule itself, or does not fit.
    """
    if spec.scheduler.schedule is not None:
        return {}
    try:
        schedule = assemble(spec, registry).denoiser.training_schedule
    except LdmError:
        return {}
    if schedule is None:
        return {}
    settings = schedule.config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {"scheduler_schedule": {"name": schedule.name, **settings}}


def _part(part: Component, said: Any) -> dict[str, Any]:
    return {
        "component": part.name,
        "parameters": sum(parameter.numel() for parameter in part.parameters()),
        "checkpoint": getattr(said, "checkpoint", None),
    }
