"""One stage of a spec: on the meta device first, then made real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ldm_registry.contracts import Contract
from ldm_registry.digests import verify
from ldm_registry.errors import ContractError, NotFoundError, PluginError, SpecError
from ldm_registry.interfaces import Component, Modifier, NoiseSchedule, Trained
from ldm_registry.registry import Registry
from ldm_registry.spec import ConditionerSpec, DenoiserSpec, TrainedSpec
from ldm_registry.stage_config import AnyStage, config_of
from ldm_registry.trainable import Fittable
from ldm_registry.travel.pull import local_folder
from ldm_registry.travel.verified import digest_here
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import load_weights, parse_config, read_contract
from ldm_registry.without_memory import WithoutMemory


@dataclass(frozen=True, slots=True)
class Built:
    """A stage on the meta device, with what is needed to make it real.

    Attributes:
        component: Without memory.
        arguments: What its class is built from.
        folder: Its checkpoint, if it has one.
        contract: Of the checkpoint, if it has one.
        modifiers: What changes it once it is finished.
    """

    component: Component
    arguments: tuple[Any, ...]
    folder: Path | None
    contract: Contract | None
    modifiers: tuple[Modifier, ...] = ()

    @property
    def trained(self) -> Trained | None:
        """How a denoiser was trained, as far as that is known."""
        return next((value for value in self.arguments if isinstance(value, Trained)), None)

    def lacks_weights(self) -> str | None:
        """The problem, where the stage has tensors and nothing to fill them from."""
        if self.folder is not None or not self.component.state_dict():
            return None
        count = sum(tensor.numel() for tensor in self.component.state_dict().values())
        return (
            f"{self.component.kind} {self.component.name!r} has {count:,} weights and no checkpoint; "
            f"say `checkpoint:` or train it with `ldm train`"
        )

    def materialise(self, stage: AnyStage, *, init_seed: int | None) -> Component:
        """Fill the component: from its checkpoint, else from a seed; move it where the spec says; modify it.

        Args:
            stage: The spec of the stage: device and dtype.
            init_seed: Of the random weights of a stage that has no checkpoint.

        Raises:
            LdmError: As `load_weights`; PluginError when tensors stay without memory.
        """
        dtype = getattr(torch, stage.dtype) if stage.dtype is not None else torch.float32
        device = torch.device(stage.device or "cpu")
        if self.folder is not None and self.component.state_dict():
            if self.contract is not None:
                verify(self.folder, self.contract, read=digest_here)
            component = self.component
            load_weights(component, self.folder, variant=getattr(stage, "variant", None), dtype=dtype)
        else:
            component = fresh(type(self.component), self.arguments, init_seed or 0)
        tensors = _tensors(component)
        left = [name for name, tensor in tensors if tensor.is_meta]
        if left:
            raise PluginError(
                f"{component.kind} {component.name!r} leaves tensors on the meta device",
                left,
                hint='constant tables need an explicit device="cpu" when they are built',
            )
        if any(_differs(tensor, device, dtype) for _, tensor in tensors):
            component.to(device=device, dtype=dtype)
        component.eval().requires_grad_(False)
        for modifier in self.modifiers:
            component = modifier.modify(component)
        return component


def fresh(component: type[Component], arguments: tuple[Any, ...], seed: int) -> Component:
    """A component with its own random initialisation, from a seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component(*arguments)


def build(
    kind: Kind,
    stage: AnyStage,
    registry: Registry,
    *,
    schedule: NoiseSchedule | None = None,
    tokens: int | None = None,
) -> Built:
    """One stage of a spec, or a conditioner, on the meta device.

    Args:
        kind: What it is.
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
    contract = _contract(stage, folder)
    if contract is not None and contract.components.get(kind) != stage.use:
        raise ContractError(
            f"{folder} is a checkpoint of {dict(contract.components)}, not of {kind} {stage.use!r}",
            hint="name the component that the checkpoint is for, or another checkpoint",
        )
    arguments: tuple[Any, ...] = (config_of(component, stage, folder),)
    if isinstance(stage, DenoiserSpec):
        arguments += (_trained(component, stage, contract, registry),)
    elif kind is Kind.SCHEDULER:
        arguments += (schedule, tokens)
    elif isinstance(stage, ConditionerSpec):
        arguments += (_local(stage.tokenizer) if stage.tokenizer else None,)
    modifiers = _modifiers(kind, stage, registry)
    with WithoutMemory():
        return Built(component(*arguments), arguments, folder, contract, modifiers)


def _contract(stage: AnyStage, folder: Path | None) -> Contract | None:
    """The contract of a checkpoint: its own, or the one that the spec names for a folder without."""
    own = read_contract(folder) if folder else None
    named: Path | None = getattr(stage, "contract", None)
    if named is None:
        return own
    if folder is None or own is not None:
        has = "has a contract of its own" if folder else "has no checkpoint"
        raise SpecError(f"{stage.use!r} {has}; leave out `contract: {named}`")
    return read_contract(named.parent, named.name)


def _modifiers(kind: Kind, stage: AnyStage, registry: Registry) -> tuple[Modifier, ...]:
    """The modifiers of a stage, in the order of the spec.

    Raises:
        SpecError: One of them is for other kinds.
    """
    made = []
    for said in getattr(stage, "modify", ()):
        component = registry.get(Kind.MODIFIER, said.use)
        modifier = cast(Modifier, component(parse_config(component, said.config, f"modifier {said.use!r}")))
        if kind not in modifier.modifies:
            raise SpecError(
                f"modifier {said.use!r} cannot change a {kind}", [f"it is for {', '.join(modifier.modifies)}"]
            )
        made.append(modifier)
    return tuple(made)


def build_schedule(name: str, config: Mapping[str, Any], registry: Registry) -> NoiseSchedule:
    """A noise schedule from its registered name and config.

    Raises:
        LdmError: As `assemble`.
    """
    component = registry.get(Kind.SCHEDULE, name)
    schedule = component(parse_config(component, config, f"schedule {name}"))
    return cast(NoiseSchedule, schedule)


def promised_training(contract: Contract | None) -> TrainedSpec | None:
    """How a contract says that its denoiser was trained; None where it does not."""
    if contract is None or contract.prediction is None or contract.schedule is None:
        return None
    return TrainedSpec.model_validate(
        {
            "prediction": contract.prediction,
            "schedule": dict(contract.schedule),
            "time_scale": contract.time_scale or 1.0,
        }
    )


def _trained(
    component: type[Component], stage: DenoiserSpec, contract: Contract | None, registry: Registry
) -> Trained | None:
    stated, promised = (
        _with_schedule(trained, registry) for trained in (stage.trained, promised_training(contract))
    )
    if stated is not None and promised is not None and _facts(stated) != _facts(promised):
        raise ContractError(
            f"denoiser {stage.use!r}: the spec's `trained:` contradicts the contract of {stage.checkpoint}",
            [f"the spec says {_facts(stated)}", f"the contract {_facts(promised)}"],
            hint="leave out `trained:`",
        )
    if stated is None and promised is None and not issubclass(component, Fittable):
        raise SpecError(
            f"denoiser {stage.use!r} does not say how it was trained, and its checkpoint has no contract",
            hint="add `trained: {prediction: epsilon, schedule: {name: scaled_linear, ...}}` to the denoiser",
        )
    return stated or promised


def _with_schedule(trained: TrainedSpec | None, registry: Registry) -> Trained | None:
    if trained is None:
        return None
    schedule = build_schedule(trained.schedule.name, trained.schedule.config, registry)
    return Trained(trained.prediction, schedule, trained.time_scale)


def _facts(trained: Trained) -> dict[str, Any]:
    """Everything that was said or left to a default, to be compared."""
    return {
        "prediction": str(trained.prediction),
        "schedule": trained.schedule.name,
        **trained.schedule.config.model_dump(mode="json"),
        "time_scale": trained.time_scale,
    }


def _local(checkpoint: str) -> Path:
    folder = local_folder(checkpoint)
    if not folder.is_dir():
        siblings = sorted(entry.name for entry in folder.parent.iterdir()) if folder.parent.is_dir() else []
        raise NotFoundError(
            f"checkpoint {folder} does not exist", hint=f"beside it: {', '.join(siblings) or 'nothing'}"
        )
    return folder


def _differs(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    return tensor.device != device or (tensor.is_floating_point() and tensor.dtype != dtype)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
