"""A spec and a registry to a pipeline: meta device first, then the contract check, then weights.

Nothing takes memory before all four parts are known to fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ldm_registry.build import Built, build, build_schedule
from ldm_registry.contracts import Parts, check
from ldm_registry.errors import ContractError, LdmError, NotFoundError, PluginError, SpecError
from ldm_registry.interfaces import Component, Conditioner, Decoder, Denoiser, Encoder, Scheduler
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.runtime.arrangement import AnyRuntime, arrange, impossible, waits_on_cpu, without_effect
from ldm_registry.runtime.heap import keep_freed
from ldm_registry.spec import DenoiserSpec, PipelineSpec, RuntimeSpec, SchedulerSpec, StageSpec, TrainedSpec
from ldm_registry.stage_config import AnyStage, config_of
from ldm_registry.travel.in_specs import located
from ldm_registry.travel.pull import local_folder
from ldm_registry.travel.verified import cache_root
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.weights import classes_of, read_config, read_contract

COMPILED = "compiled"
"""Folder of the cache that keeps compiled code."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a pipeline without memory, known to fit together.

    Attributes:
        stages: The four stages.
        conditioners: By label.
        warnings: Findings of the contract check that do not forbid assembly.
    """

    stages: Mapping[Kind, Built]
    conditioners: Mapping[str, Built]
    warnings: tuple[str, ...]


def assemble(
    spec: PipelineSpec, registry: Registry | None = None, *, init_seed: int | None = None
) -> Pipeline:
    """Build the pipeline that a spec describes.

    Args:
        spec: What to build.
        registry: Where the parts come from; None discovers what is installed.
        init_seed: Stages without a checkpoint get random weights from this seed. None refuses them: weights
            that nobody trained are the commonest silent fault there is.

    Raises:
        NotFoundError: A component or a checkpoint does not exist.
        SpecError: A config is not valid, or the `runtime:` of a stage asks for what cannot be had.
        ContractError: The parts do not fit together; every reason at once.
        MissingDependencyError: A stage is to be compiled, and there is no compiler.
        IntegrityError: A checkpoint is not what its contract, its config or the lock beside the spec says.
        NetworkError: A checkpoint on the Hub was never pulled, and the Hub cannot be reached.
        PluginError: A plugin is broken.
    """
    here = located(spec)
    plan = planned(here, registry, init_seed=init_seed)
    wanted = [
        *((built, getattr(here, stage)) for stage, built in plan.stages.items()),
        *((built, here.conditioners[label]) for label, built in plan.conditioners.items()),
    ]
    warnings = (*plan.warnings, *_checked_runtimes(spec, wanted))
    stages = {
        stage: _made(built, getattr(here, stage), init_seed=init_seed) for stage, built in plan.stages.items()
    }
    conditioners = {
        label: cast(Conditioner, _made(built, here.conditioners[label], init_seed=init_seed))
        for label, built in plan.conditioners.items()
    }
    keep_freed()
    return Pipeline(
        spec,
        cast(Encoder, stages[Kind.ENCODER]),
        cast(Denoiser, stages[Kind.DENOISER]),
        cast(Scheduler, stages[Kind.SCHEDULER]),
        cast(Decoder, stages[Kind.DECODER]),
        warnings,
        conditioners,
        {stage: built.contract for stage, built in plan.stages.items() if built.contract is not None},
    )


def planned(spec: PipelineSpec, registry: Registry | None = None, *, init_seed: int | None = None) -> Plan:
    """Everything about a pipeline but its weights: the parts without memory, known to fit.

    Args:
        spec: What to build.
        registry: Where the parts come from; None discovers what is installed.
        init_seed: As in `assemble`.

    Raises:
        LdmError: As `assemble`.
    """
    registry, spec = registry or Registry.discover(), located(spec)
    stages, misfits = _stages(spec, registry)
    conditioners = {
        label: build(Kind.CONDITIONER, stage, registry) for label, stage in spec.conditioners.items()
    }
    parts = Parts(
        cast(Encoder, stages[Kind.ENCODER].component),
        cast(Denoiser, stages[Kind.DENOISER].component),
        cast(Scheduler, stages[Kind.SCHEDULER].component) if Kind.SCHEDULER in stages else None,
        cast(Decoder, stages[Kind.DECODER].component),
        {stage: built.contract for stage, built in stages.items() if built.contract is not None},
        {label: cast(Conditioner, built.component) for label, built in conditioners.items()},
    )
    findings = check(spec, parts)
    everything = [*stages.values(), *conditioners.values()]
    untrained = (
        [] if init_seed is not None else [text for built in everything if (text := built.lacks_weights())]
    )
    problems = [*misfits, *findings.errors, *untrained]
    if problems:
        name = spec.source.name if spec.source else "the spec"
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ContractError(f"{name} does not fit together ({count})", problems)
    return Plan(stages, conditioners, findings.warnings)


def load_component(
    kind: Kind | str,
    source: str | Path,
    *,
    name: str | None = None,
    variant: str | None = None,
    trained: TrainedSpec | None = None,
    registry: Registry | None = None,
) -> Component:
    """One component from its checkpoint folder.

    Args:
        kind: Which half or stage of the folder to load.
        source: The folder, or `hf://org/name@<40-hex commit>`.
        name: The component's registered name; None reads it from the contract or from the class in the config.
        variant: Of the weights, such as `fp16`; None takes the plain ones, or the only ones that there are.
        trained: How a denoiser was trained, where its folder has no contract.
        registry: None discovers what is installed.

    Raises:
        LdmError: As `assemble`.
    """
    kind, folder = Kind(kind), local_folder(source)
    registry = registry or Registry.discover()
    use = name or component_name(kind, folder, registry)
    stage: dict[str, Any] = {"use": use, "checkpoint": str(folder), "variant": variant}
    described = DenoiserSpec(**stage, trained=trained) if kind is Kind.DENOISER else StageSpec(**stage)
    component = build(kind, described, registry).materialise(described, init_seed=None)
    keep_freed()
    return component


def component_name(kind: Kind, folder: Path, registry: Registry) -> str:
    """The registered name of the component that a checkpoint folder is for.

    Raises:
        NotFoundError: The folder serves no component of this kind, or none that is installed.
    """
    contract, config = read_contract(folder), read_config(folder)
    if contract is not None and kind in contract.components:
        return contract.components[kind]
    wanted = classes_of(config)
    for name in registry.names(kind) if wanted else ():
        try:
            component = registry.get(kind, name)
        except PluginError:
            continue
        if {component.diffusers_class, *component.also_reads, name} & set(wanted):
            return name
    said = (
        f"is a checkpoint of {' and '.join(map(ascii, wanted))}" if wanted else "names no class in its config"
    )
    serves = f"is for {dict(contract.components)}" if contract else said
    raise NotFoundError(
        f"{folder} {serves}: no {kind} for it", hint=f"`ldm list {kind}` shows what is installed"
    )


def _checked_runtimes(spec: PipelineSpec, wanted: Sequence[tuple[Built, AnyStage]]) -> list[str]:
    """What the `runtime:` of some stage asks for in vain.

    Nothing of it touches a device.

    Raises:
        SpecError: Some stage asks for what its component or this machine cannot do; all such wishes.
        MissingDependencyError: A stage is to be compiled, and there is no compiler.
    """
    problems: list[str] = []
    vain: list[str] = []
    for built, stage in wanted:
        problems += impossible(built.component, _runtime(stage), _device(stage))
        vain += without_effect(built.component, _runtime(stage), _device(stage))
    if problems:
        name = spec.source.name if spec.source else "the spec"
        raise SpecError(f"{name} cannot be run on this machine as it says", problems)
    return vain


def _made(built: Built, stage: AnyStage, *, init_seed: int | None) -> Component:
    """A part with its weights, run as its stage says."""
    runtime, device = _runtime(stage), _device(stage)
    waits = waits_on_cpu(runtime, device)
    stored = stage.model_copy(update={"device": None}) if waits else stage
    part = built.materialise(stored, init_seed=init_seed)
    arrange(part, runtime, device, cache_root() / COMPILED)
    return part


def _runtime(stage: AnyStage) -> AnyRuntime:
    return RuntimeSpec() if isinstance(stage, SchedulerSpec) else stage.runtime


def _device(stage: AnyStage) -> torch.device:
    try:
        return torch.device(stage.device or "cpu")
    except RuntimeError:
        raise SpecError(
            f"{stage.use!r} is to run on {stage.device!r}, which PyTorch does not know",
            hint="a device is cpu, cuda, cuda:1, mps or another name that PyTorch has for one",
        ) from None


def _stages(spec: PipelineSpec, registry: Registry) -> tuple[dict[Kind, Built], list[str]]:
    """The stages without memory, and why the scheduler is not among them where it does not fit the denoiser.

    Raises:
        LdmError: A stage cannot be built by itself; all such stages are named.
    """
    plan: dict[Kind, Built] = {}
    failures: list[LdmError] = []
    for stage in (Kind.ENCODER, Kind.DECODER, Kind.DENOISER):
        try:
            plan[stage] = build(stage, getattr(spec, stage), registry)
        except LdmError as error:
            failures.append(error)
    misfits: list[str] = []
    try:
        if scheduler := _scheduler(spec, registry, plan.get(Kind.DENOISER), plan.get(Kind.ENCODER)):
            plan[Kind.SCHEDULER] = scheduler
    except ContractError as error:
        misfits = [error.summary, *error.problems]
    except LdmError as error:
        failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        problems = [
            line for error in failures for line in (error.summary, *(f"  {text}" for text in error.problems))
        ]
        kind = type(failures[0]) if len({type(error) for error in failures}) == 1 else SpecError
        raise kind("the spec names parts that cannot be built", problems, failures[0].hint)
    return {stage: plan[stage] for stage in STAGES if stage in plan}, misfits


def _scheduler(
    spec: PipelineSpec, registry: Registry, denoiser: Built | None, encoder: Built | None
) -> Built | None:
    """The scheduler over the schedule that the spec says, else the one that the denoiser was trained under."""
    component = registry.get(Kind.SCHEDULER, spec.scheduler.use)
    # Its own config is worth checking even when it is the denoiser that could not be built.
    config_of(component, spec.scheduler, None)
    said = spec.scheduler.schedule
    if said is None and denoiser is None:
        return None
    trained = denoiser.trained if denoiser is not None else None
    known = trained.schedule if trained is not None else None
    schedule = build_schedule(said.name, said.config, registry) if said is not None else known
    if schedule is None:
        raise ContractError(
            f"scheduler {spec.scheduler.use!r} has no noise schedule: denoiser {spec.denoiser.use!r} was trained "
            "under none; add one, for example `scheduler: {use: ddim, schedule: {name: scaled_linear}}`"
        )
    tokens = None
    if encoder is not None and denoiser is not None:
        patch = cast(Denoiser, denoiser.component).size_multiple
        cell = cast(Encoder, encoder.component).latent_space.stride * patch
        tokens = (spec.image.height // cell) * (spec.image.width // cell) or None
    return build(Kind.SCHEDULER, spec.scheduler, registry, schedule=schedule, tokens=tokens)
