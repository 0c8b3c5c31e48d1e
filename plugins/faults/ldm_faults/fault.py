"""What every fault is: a modifier with a strength, and with the truth about itself for those who keep score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import Component, ComponentConfig, Modifier
from ldm_registry.vocabulary import Kind


class FaultConfig(ComponentConfig):
    """How bad it is."""

    strength: float = Field(1.0, gt=0, le=1, description="1 is the fault as it was met, less is milder")


class SeededConfig(FaultConfig):
    """How bad it is, and which of many ways to be wrong."""

    seed: int = Field(0, ge=0, lt=2**63, description="Of what the fault leaves to chance")


class Fault(Modifier, ABC):
    """A modifier that breaks what it is applied to, in the way of a bug that people have met.

    The part stays what it was in every other respect: its class stays a subclass of its own, so that its
    attributes, its weights and their names are where they were.

    Attributes:
        fault_id: Its row in the catalogue of known faults.
        stages: Where it is put unless something else is said.
        words: What a diagnosis that has understood it speaks of; any of these.
        fault_class: What kind of fault it is, in words.
        harmless: Whether the images stay as they were, and the right verdict is that nothing is wrong.
    """

    fault_id: ClassVar[str]
    stages: ClassVar[tuple[Kind, ...]]
    words: ClassVar[tuple[str, ...]]
    fault_class: ClassVar[str]
    harmless: ClassVar[bool] = False
    Config = FaultConfig

    def __init__(self, config: FaultConfig) -> None:
        super().__init__()
        self.config: FaultConfig = config

    @property
    def strength(self) -> float:
        """In (0, 1]."""
        return self.config.strength

    def modify(self, part: Component) -> Component:
        """The part with the fault in it.

        Raises:
            SpecError: The fault makes no sense there; says why.
        """
        self.injure(part)
        return part

    @abstractmethod
    def injure(self, part: Component) -> None:
        """Put the fault into the part, in place.

        Raises:
            SpecError: As `modify`.
        """

    def generator(self) -> torch.Generator:
        """Of what is left to chance; the same for every strength, so that a weaker fault is a part of a stronger."""
        seed = self.config.seed if isinstance(self.config, SeededConfig) else 0
        return torch.Generator().manual_seed(seed)

    def refusal(self, part: Component, reason: str) -> SpecError:
        """The error that says why this fault cannot happen to a part."""
        return SpecError(f"fault {self.name!r} cannot happen to {part.kind} {part.name!r}", [reason])


def around(part: Component, method: str, changed: Callable[..., Any]) -> None:
    """Put a function around a method of one part.

    The part gets a class of its own, below the one that it has; so it can be copied, and a copy has the fault too.

    Args:
        part: Any component.
        method: The name of the method.
        changed: Takes the part, the method as it was, and the arguments.
    """
    before = type(part)
    original = getattr(before, method)

    def call(self: Component, *given: Any, **named: Any) -> Any:
        return changed(self, original.__get__(self), *given, **named)

    make: Callable[..., type[Component]] = type(before)
    part.__class__ = make(before.__name__, (before,), {method: call, "__module__": before.__module__})


def floating(part: nn.Module) -> Iterator[Tensor]:
    """The weights of a part that are no whole numbers."""
    return (tensor for tensor in part.parameters() if tensor.is_floating_point())
