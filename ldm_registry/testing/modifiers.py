"""What modifiers owe to the parts that they change."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ldm_registry.build import fresh
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Component, Decoder, Denoiser, Encoder, Modifier
from ldm_registry.testing.check import NotApplicableError, asked_of, require, require_equal
from ldm_registry.testing.declaration import INTERFACES
from ldm_registry.testing.global_state import snapshot
from ldm_registry.testing.stand_in_parts import PARTS, StandInConfig
from ldm_registry.testing.subject import SEED, Subject, run, seeded
from ldm_registry.vocabulary import Kind


@asked_of(Kind.MODIFIER)
def modifies_names_kinds(subject: Subject) -> None:
    """`modifies` is a tuple of kinds, at least one, each once."""
    said = getattr(_modifier(subject), "modifies", None)
    require(
        isinstance(said, tuple) and bool(said) and all(isinstance(kind, Kind) for kind in said),
        f"modifies is {said!r}; expected a tuple of kinds",
    )
    kinds = cast(tuple[Kind, ...], said)
    require(len(set(kinds)) == len(kinds), f"modifies repeats a kind: {kinds!r}")


@asked_of(Kind.MODIFIER)
def a_modified_part_is_of_its_kind(subject: Subject) -> None:
    """What `modify` gives implements the interface of the part, fits its neighbours, and puts out the same shapes."""
    for kind in _kinds(subject):
        before, after = _part(subject, kind), _modified(subject, kind)
        interface = INTERFACES[kind]
        require(
            isinstance(after, interface),
            f"a {kind} came back as a {type(after).__name__}, which is no {interface.__name__}",
        )
        require(_fit(after) == _fit(before), f"a {kind} with {_fit(before)} came back with {_fit(after)}")
        got, expected = _outputs(subject, after), _outputs(subject, before)
        for name, output in expected.items():
            require(
                name in got and got[name].shape == output.shape,
                f"{name} of a {kind} has shape {list(got[name].shape) if name in got else None}; "
                f"it was {list(output.shape)}",
            )


@asked_of(Kind.MODIFIER)
def two_modifications_agree(subject: Subject) -> None:
    """Two equal parts are changed into equal ones: what is left to chance comes from a seed of the config."""
    for kind in _kinds(subject):
        first, second = (_outputs(subject, _modified(subject, kind)) for _ in range(2))
        for name, output in first.items():
            require_equal(second[name], output, f"{name} of a second {kind}")


@asked_of(Kind.MODIFIER)
def modifying_leaves_global_state_alone(subject: Subject) -> None:
    """Changing a part and calling it leave random generators, default dtype, threads and the like as they were."""
    for kind in _kinds(subject):
        part = _part(subject, kind)
        before = snapshot()
        _outputs(subject, _modifier(subject).modify(part))
        after = snapshot()
        changed = [name for name, value in before.items() if after[name] != value]
        require(not changed, f"changed: {', '.join(changed)}")


def _modifier(subject: Subject) -> Modifier:
    return cast(Modifier, subject.fresh())


def _kinds(subject: Subject) -> list[Kind]:
    """The kinds that it can be tried on.

    Raises:
        NotApplicableError: It refuses every stand-in; says why.
    """
    kinds, reasons = [], []
    for kind in _modifier(subject).modifies:
        if kind not in PARTS:
            reasons.append(f"there is no stand-in for a {kind}")
            continue
        try:
            _modified(subject, kind)
        except SpecError as refusal:
            reasons.append("; ".join([refusal.summary, *refusal.problems]))
        else:
            kinds.append(kind)
    if not kinds:
        raise NotApplicableError("; ".join(reasons))
    return kinds


def _part(subject: Subject, kind: Kind) -> Component:
    config = StandInConfig()
    match kind:
        case Kind.DENOISER:
            arguments: tuple[object, ...] = (config, subject.trained)
        case Kind.SCHEDULER:
            arguments = (config, subject.schedule, None)
        case _:
            arguments = (config,)
    return fresh(PARTS[kind], arguments, SEED).eval().requires_grad_(False)


def _modified(subject: Subject, kind: Kind) -> Component:
    return _modifier(subject).modify(_part(subject, kind))


def _outputs(subject: Subject, part: Component) -> dict[str, Tensor]:
    inputs = subject.inputs(part)
    return run(
        part, inputs.to(dtype=next((one.dtype for one in part.parameters()), inputs.main.dtype)), seeded()
    )


def _fit(part: Component) -> tuple[object, ...]:
    """What the neighbours of a part rely on."""
    if isinstance(part, Encoder | Decoder):
        return part.latent_space, part.image_channels
    if isinstance(part, Denoiser):
        return (part.latent_space.channels, part.size_multiple, tuple(part.conditioning))
    return ()


CHECKS = (
    modifies_names_kinds,
    a_modified_part_is_of_its_kind,
    two_modifications_agree,
    modifying_leaves_global_state_alone,
)
