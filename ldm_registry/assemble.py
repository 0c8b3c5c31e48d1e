"""A spec and a registry to a pipeline: meta device first, then the contract check, then weights.

Nothing takes memory before all four parts are known to fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ldm_registry.contracts import Contract, Parts, check
from ldm_registry.errors import ContractError, LdmError, NotFoundError, PluginError, SpecError
from ldm_registry.interfaces import (
    Component,
    ComponentConfig,
    Decoder,
    Denoiser,
    Encoder,
    Fittable,
    NoiseSchedule,
    Scheduler,
    Trained,
)
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import DenoiserSpec, PipelineSpec, ScheduleSpec, StageSpec, TrainedSpec
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.weights import load_weights, parse_config, read_config, read_contract, verify


def assemble(spec: PipelineSpec, registry: Registry | None = None, *, init_seed: int | None = None) -> Pipeline:
    """Build the pipeline that a spec describes.

    Args:
        spec: What to build.
        registry: Where the parts come from; None discovers what is installed.
        init_seed: Stages without a checkpoint get random weights from this seed. None refuses them: weights
            that nobody trained are the commonest silent fault there is.

    Raises:
        NotFoundError: A component or a checkpoint does not exist.
        SpecError: A config is not valid.
        ContractError: The parts do not fit together; every reason at once.
        IntegrityError: A checkpoint is not what its contract or its config says.
        PluginError: A plugin is broken.
    """
    plan = _plan(spec, registry or Registry.discover())
    parts = Parts(
        cast(Encoder, plan[Kind.ENCODER].component),
        cast(Denoiser, plan[Kind.DENOISER].component),
        cast(Scheduler, plan[Kind.SCHEDULER].component),
        cast(Decoder, plan[Kind.DECODER].component),
        {stage: built.contract for stage, built in plan.items() if built.contract is not None},
    )
    findings = check(spec, parts)
    untrained = [] if init_seed is not None else [text for built in plan.values() if (text := built.lacks_weights())]
    problems = [*findings.errors, *untrained]
    if problems:
        name = spec.source.name if spec.source else "the spec"
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ContractError(f"{name} does not fit together ({count})", problems)
    stages = {
        stage: built.materialise(getattr(spec, stage), init_seed=init_seed) for stage, built in plan.items()
    }
    return Pipeline(
        spec,
        cast(Encoder, stages[Kind.ENCODER]),
        cast(Denoiser, stages[Kind.DENOISER]),
        cast(Scheduler, stages[Kind.SCHEDULER]),
        cast(Decoder, stages[Kind.DECODER]),
        findings.warnings,
    )


def load_component(
    kind: Kind | str,
    source: str | Path,
    *,
    name: str | None = None,
    trained: TrainedSpec | None = None,
    registry: Registry | None = None,
) -> Component:
    """One component from its checkpoint folder.

    Args:
        kind: Which half or stage of the folder to load.
        source: The folder.
        name: The component's registered name; None reads it from the contract or from `_class_name`.
        trained: How a denoiser was trained, where its folder has no contract.
        registry: None discovers what is installed.

    Raises:
        LdmError: As `assemble`.
    """
    kind, folder = Kind(kind), Path(source)
    registry = registry or Registry.discover()
    stage: dict[str, Any] = {"use": name or component_name(kind, folder, registry), "checkpoint": str(folder)}
    described = DenoiserSpec(**stage, trained=trained) if kind is Kind.DENOISER else StageSpec(**stage)
    built = build(kind, described, registry)
    return built.materialise(described, init_seed=None)


def component_name(kind: Kind, folder: Path, registry: Registry) -> str:
    """The registered name of the component that a checkpoint folder is for.

    Raises:
        NotFoundError: The folder serves no component of this kind, or none that is installed.
    """
    contract, config = read_contract(folder), read_config(folder)
    if contract is not None and kind in contract.components:
        return contract.components[kind]
    wanted = config.get("_class_name")
    if wanted is not None:
        for name in registry.names(kind):
            try:
                if registry.get(kind, name).diffusers_class == wanted:
                    return name
            except PluginError:
                continue
    serves = f"is for {dict(contract.components)}" if contract else f"has _class_name {wanted!r}"
    raise NotFoundError(f"{folder} {serves}: no {kind} for it", hint=f"`ldm list {kind}` shows what is installed")


@dataclass(frozen=True, slots=True)
class Built:
    """A stage on the meta device, with what is needed to make it real.

    Attributes:
        component: Without memory.
        arguments: What its class is built from.
        folder: Its checkpoint, if it has one.
        contract: Of the checkpoint, if it has one.
    """

    component: Component
    arguments: tuple[Any, ...]
    folder: Path | None
    contract: Contract | None

    def lacks_weights(self) -> str | None:
        """The problem, where the stage has tensors and nothing to fill them from."""
        if self.folder is not None or not self.component.state_dict():
            return None
        count = sum(tensor.numel() for tensor in self.component.state_dict().values())
        return (
            f"{self.component.kind} {self.component.name!r} has {count:,} weights and no checkpoint; "
            f"say `checkpoint:` or train it with `ldm train`"
        )

    def materialise(self, stage: StageSpec | Any, *, init_seed: int | None) -> Component:
        """Fill the component: from its checkpoint, else from a seed; then move it where the spec says.

        Args:
            stage: The spec of the stage: device and dtype.
            init_seed: Of the random weights of a stage that has no checkpoint.

        Raises:
            LdmError: As `load_weights`; PluginError when tensors stay without memory.
        """
        if self.folder is not None and self.component.state_dict():
            if self.contract is not None:
                verify(self.folder, self.contract)
            component = self.component
            load_weights(component, self.folder)
        else:
            component = fresh(type(self.component), self.arguments, init_seed or 0)
        left = [name for name, tensor in _tensors(component) if tensor.is_meta]
        if left:
            raise PluginError(
                f"{component.kind} {component.name!r} leaves tensors on the meta device",
                left,
                hint='constant tables need an explicit device="cpu" when they are built',
            )
        dtype = getattr(torch, stage.dtype) if stage.dtype is not None else torch.float32
        component.to(device=torch.device(stage.device or "cpu"), dtype=dtype)
        return component.eval().requires_grad_(False)


def fresh(component: type[Component], arguments: tuple[Any, ...], seed: int) -> Component:
    """A component with its own random initialisation, from a seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component(*arguments)


def build(
    kind: Kind,
    stage: StageSpec | Any,
    registry: Registry,
    *,
    schedule: NoiseSchedule | None = None,
    tokens: int | None = None,
) -> Built:
    """One stage of a spec on the meta device.

    Args:
        kind: Which stage.
        stage: Its part of the spec.
        registry: Where it comes from.
        schedule: For a scheduler: the noise schedule that it steps through.
        tokens: For a scheduler: how many patches the denoiser sees.

    Raises:
        LdmError: As `assemble`.
    """
    component = registry.get(kind, stage.use)
    checkpoint = getattr(stage, "checkpoint", None)
    folder = _local(checkpoint) if checkpoint else None
    contract = read_contract(folder) if folder else None
    if contract is not None and contract.components.get(kind) != stage.use:
        raise ContractError(
            f"{folder} is a checkpoint of {dict(contract.components)}, not of {kind} {stage.use!r}",
            hint="name the component that the checkpoint is for, or another checkpoint",
        )
    arguments: tuple[Any, ...] = (_config(component, stage, folder),)
    if kind is Kind.DENOISER:
        arguments += (_trained(component, stage, contract, registry),)
    elif kind is Kind.SCHEDULER:
        arguments += (schedule, tokens)
    with torch.device("meta"):
        return Built(component(*arguments), arguments, folder, contract)


def build_schedule(name: str, config: Mapping[str, Any], registry: Registry) -> NoiseSchedule:
    """A noise schedule from its registered name and config.

    Raises:
        LdmError: As `assemble`.
    """
    component = registry.get(Kind.SCHEDULE, name)
    schedule = component(parse_config(component, config, f"schedule {name}"))  # type: ignore[call-arg]  # nn.Module's
    return cast(NoiseSchedule, schedule)


def _plan(spec: PipelineSpec, registry: Registry) -> dict[Kind, Built]:
    plan: dict[Kind, Built] = {}
    failures: list[LdmError] = []
    for stage in (Kind.ENCODER, Kind.DECODER, Kind.DENOISER):
        try:
            plan[stage] = build(stage, getattr(spec, stage), registry)
        except LdmError as error:
            failures.append(error)
    try:
        denoiser = cast(Denoiser, plan[Kind.DENOISER].component) if Kind.DENOISER in plan else None
        plan[Kind.SCHEDULER] = _scheduler(spec, registry, denoiser, plan.get(Kind.ENCODER))
    except LdmError as error:
        failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        problems = [line for error in failures for line in (error.summary, *(f"  {text}" for text in error.problems))]
        kind = type(failures[0]) if len({type(error) for error in failures}) == 1 else SpecError
        raise kind("the spec names parts that cannot be built", problems, failures[0].hint)
    return {stage: plan[stage] for stage in STAGES}


def _scheduler(
    spec: PipelineSpec, registry: Registry, denoiser: Denoiser | None, encoder: Built | None
) -> Built:
    component = registry.get(Kind.SCHEDULER, spec.scheduler.use)
    if spec.scheduler.schedule is not None:
        schedule: NoiseSchedule | None = _schedule(spec.scheduler.schedule, registry)
    else:
        schedule = denoiser.training_schedule if denoiser is not None else None
    if schedule is None:
        # Its own config is still worth checking when it is the denoiser that could not be built.
        _config(component, spec.scheduler, None)
        if denoiser is None:
            raise SpecError(f"scheduler {spec.scheduler.use!r} takes its noise schedule from the denoiser")
        raise ContractError(
            f"scheduler {spec.scheduler.use!r} has no noise schedule: denoiser {spec.denoiser.use!r} was trained under none",
            hint="add one, for example `scheduler: {use: ddim, schedule: {name: scaled_linear}}`",
        )
    tokens = None
    if encoder is not None and denoiser is not None:
        cell = cast(Encoder, encoder.component).latent_space.stride * denoiser.size_multiple
        tokens = (spec.image.height // cell) * (spec.image.width // cell) or None
    return build(Kind.SCHEDULER, spec.scheduler, registry, schedule=schedule, tokens=tokens)


def _schedule(spec: ScheduleSpec, registry: Registry) -> NoiseSchedule:
    return build_schedule(spec.name, spec.config, registry)


def _config(component: type[Component], stage: StageSpec | Any, folder: Path | None) -> ComponentConfig:
    where = f"{component.kind} {stage.use!r}"
    if folder is None:
        return parse_config(component, stage.config, where)
    config = parse_config(component, read_config(folder), str(folder / "config.json"))
    if not stage.config:
        return config
    stated = parse_config(component, {**config.model_dump(by_alias=True), **stage.config}, where)
    differing = [
        f"{key}: the spec says {getattr(stated, key)!r}, the checkpoint {getattr(config, key)!r}"
        for key in type(config).model_fields
        if getattr(stated, key) != getattr(config, key)
    ]
    if differing:
        raise SpecError(f"{where} contradicts its checkpoint {folder}", differing, hint="leave out `config:`")
    return config


def _trained(
    component: type[Component], stage: DenoiserSpec, contract: Contract | None, registry: Registry
) -> Trained | None:
    said, promised = stage.trained, None
    if contract is not None and contract.prediction is not None and contract.schedule is not None:
        promised = TrainedSpec.model_validate(
            {"prediction": contract.prediction, "schedule": dict(contract.schedule), "time_scale": contract.time_scale or 1.0}
        )
    if said is not None and promised is not None and said != promised:
        raise ContractError(
            f"denoiser {stage.use!r}: the spec's `trained:` contradicts the contract of {stage.checkpoint}",
            [f"the spec says {said.model_dump(mode='json')}", f"the contract {promised.model_dump(mode='json')}"],
            hint="leave out `trained:`",
        )
    trained = said or promised
    if trained is None:
        if issubclass(component, Fittable):
            return None
        raise SpecError(
            f"denoiser {stage.use!r} does not say how it was trained, and its checkpoint has no contract",
            hint="add `trained: {prediction: epsilon, schedule: {name: scaled_linear, ...}}` to the denoiser",
        )
    return Trained(trained.prediction, _schedule(trained.schedule, registry), trained.time_scale)


def _local(checkpoint: str) -> Path:
    if checkpoint.startswith("hf://"):
        raise NotFoundError(f"{checkpoint}: only local checkpoints can be used so far", hint="download the folder first")
    folder = Path(checkpoint)
    if not folder.is_dir():
        siblings = sorted(entry.name for entry in folder.parent.iterdir()) if folder.parent.is_dir() else []
        raise NotFoundError(f"checkpoint {folder} does not exist", hint=f"beside it: {', '.join(siblings) or 'nothing'}")
    return folder


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
