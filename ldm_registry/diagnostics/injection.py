"""Put a known fault into a spec: any installed modifier that says which fault it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from ldm_registry.errors import NotFoundError, PluginError, SpecError, did_you_mean
from ldm_registry.interfaces import Modifier
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec, swap
from ldm_registry.spec_text import plain
from ldm_registry.vocabulary import STAGES, Kind
from ldm_registry.weights import parse_config


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A modifier that says which fault it is.

    Attributes:
        name: Of the modifier.
        fault_id: Which fault it is, as its plugin counts them.
        stages: The stages that it is put into, all of them at once, unless one is named.
        modifies: The stages that it can be put into.
        about: The first line of its description.
    """

    name: str
    fault_id: str
    stages: tuple[Kind, ...]
    modifies: tuple[Kind, ...]
    about: str


def known_faults(registry: Registry) -> list[KnownFault]:
    """What can be injected, by fault and name. Imports every plugin of modifiers; a broken one is left out."""
    return sorted(_known(registry), key=lambda fault: (fault.fault_id, fault.name))


def injected(
    spec: PipelineSpec,
    name: str,
    registry: Registry,
    *,
    strength: float | None = None,
    stage: Kind | None = None,
) -> PipelineSpec:
    """The spec with a fault in it, after the modifiers that it has already.

    Whether the fault makes sense for the very parts of the spec shows when it is assembled.

    Args:
        spec: Left as it is.
        name: Of the fault.
        registry: Where it comes from.
        strength: In (0, 1]; None takes the fault's own default.
        stage: The stage to put it into; None takes those where it is at home.

    Raises:
        NotFoundError: No such fault is installed.
        SpecError: It cannot happen to that stage, or the strength is out of range.
    """
    fault = _find(name, registry)
    if stage is not None and stage not in fault.modifies:
        raise SpecError(
            f"fault {name!r} cannot be put into a {stage}", [f"it is for {', '.join(fault.modifies)}"]
        )
    config = {} if strength is None else {"strength": strength}
    parse_config(registry.get(Kind.MODIFIER, name), config, f"fault {name!r}")
    changes: dict[str, Any] = {}
    for one in fault.stages if stage is None else (stage,):
        already = plain(spec)[one.value].get("modify", [])
        changes[f"{one}_modify"] = [*already, {"use": name, "config": config}]
    return swap(spec, **changes)


def _find(name: str, registry: Registry) -> KnownFault:
    faults = {fault.name: fault for fault in _known(registry)}
    if name not in faults:
        hint = did_you_mean(name, list(faults)) if faults else "install a plugin of faults"
        raise NotFoundError(
            f"no fault is called {name!r}", hint=f"{hint} (`ldm inject --list` shows all)" if faults else hint
        )
    return faults[name]


def _known(registry: Registry) -> Iterator[KnownFault]:
    for name in registry.names(Kind.MODIFIER):
        try:
            modifier = cast(type[Modifier], registry.get(Kind.MODIFIER, name))
        except PluginError:
            continue
        fault_id = getattr(modifier, "fault_id", None)
        if isinstance(fault_id, str):
            can = tuple(kind for kind in modifier.modifies if kind in STAGES)
            about = (modifier.__doc__ or "").strip().partition("\n")[0]
            yield KnownFault(name, fault_id, tuple(getattr(modifier, "stages", can)), can, about)
