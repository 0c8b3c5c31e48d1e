"""Run every check that applies to a component, and report all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ldm_registry.errors import PluginError, SpecError, did_you_mean
from ldm_registry.interfaces import Component, ComponentConfig, NoiseSchedule, Trained
from ldm_registry.testing import (
    behaviour,
    codecs,
    conditioners,
    declaration,
    denoisers,
    modifiers,
    promises,
    samplers,
    schedules,
    storage,
)
from ldm_registry.testing.check import Check, CheckResult, Status
from ldm_registry.testing.global_state import restored
from ldm_registry.testing.stand_ins import StraightConfig, StraightSchedule, trained_on_stand_in
from ldm_registry.testing.subject import Subject
from ldm_registry.trainable import Fittable
from ldm_registry.vocabulary import Kind

CHECKS: tuple[Check, ...] = (
    *declaration.CHECKS,
    *codecs.CHECKS,
    *denoisers.CHECKS,
    *schedules.CHECKS,
    *samplers.CHECKS,
    *conditioners.CHECKS,
    *modifiers.CHECKS,
    *behaviour.CHECKS,
    *storage.CHECKS,
    *promises.CHECKS,
)


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """What came out of every check of one component.

    Attributes:
        component: `kind.name`.
        results: In the order in which the checks ran.
    """

    component: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.status is Status.FAILED)

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Stop at a component that does not conform.

        Raises:
            PluginError: One line for each failed check.
        """
        if self.passed:
            return
        asked = sum(result.status in (Status.PASSED, Status.FAILED) for result in self.results)
        raise PluginError(
            f"{self.component} does not conform ({len(self.failures)} of {asked} checks failed)",
            [f"{result.name}: {result.detail}" for result in self.failures],
            hint="what cannot hold may be left out with a reason: exempt_from = {'check': 'why'} in the class",
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        results = [
            {
                "check": result.name,
                "status": str(result.status),
                "detail": result.detail,
                "where": result.where or None,
            }
            for result in self.results
        ]
        return {"component": self.component, "passed": self.passed, "results": results}


def check_names(kind: Kind | str) -> dict[str, str]:
    """Every check that is asked of a kind, and what it says in one line.

    Args:
        kind: The kind of component.
    """
    return {check.name: check.about for check in checks_for(Kind(kind))}


def checks_for(kind: Kind) -> tuple[Check, ...]:
    """Every check that is asked of a kind."""
    return tuple(check for check in CHECKS if kind in check.kinds)


def check_component(
    component: type[Component],
    config: ComponentConfig | None = None,
    *,
    trained: Trained | None = None,
    schedule: NoiseSchedule | None = None,
    tokenizer: Path | None = None,
    checkpoint: Path | None = None,
    images: Path | None = None,
    skip: Mapping[str, str] | None = None,
    devices: Sequence[str] | None = None,
) -> ConformanceReport:
    """Run the conformance suite on one component.

    Args:
        component: The class.
        config: A small one, so that the suite takes seconds; None is what the class names as `conformance_config`.
        trained: For a denoiser: how it was trained; None takes a stand-in, or nothing for one that is fitted.
        schedule: For a scheduler: what it steps through; None takes a stand-in of 1000 steps.
        tokenizer: For a conditioner of text: folder of its tokenizer.
        checkpoint: Folder of weights of this component, whose contract is measured too.
        images: Image set to measure it with, a tar as `read_images` takes it.
        skip: Check to the reason why it cannot hold, beside those that the class is `exempt_from`.
        devices: Where to try it; None is the CPU, and CUDA where there is one.

    Returns:
        The report; `raise_if_failed()` turns it into an error.

    Raises:
        SpecError: `skip`, or the class, names a check that is not asked of this kind or gives no reason, or the class
            has no default config and none was given.
    """
    subject = subject_of(
        component, config, trained=trained, schedule=schedule, tokenizer=tokenizer, devices=devices
    )
    subject = replace(subject, checkpoint=checkpoint, images=images)
    skipped = exemptions(component, skip or {})
    results = []
    for check in checks_for(component.kind):
        if check.name in skipped:
            results.append(CheckResult(check.name, Status.SKIPPED, skipped[check.name]))
        else:
            with restored():
                results.append(check.result(subject))
    return ConformanceReport(f"{component.kind}.{component.name}", tuple(results))


def subject_of(
    component: type[Component],
    config: ComponentConfig | None = None,
    *,
    trained: Trained | None = None,
    schedule: NoiseSchedule | None = None,
    tokenizer: Path | None = None,
    devices: Sequence[str] | None = None,
) -> Subject:
    """A component with everything that it is built from; arguments as for `check_component`.

    Raises:
        SpecError: The class has no default config and none was given.
    """
    if config is None:
        try:
            config = component.Config(**component.conformance_config)
        except (ValidationError, SpecError, TypeError) as error:
            raise SpecError(
                f"{component.__name__} has no default config",
                [f"{error}"],
                hint="give a small `config`, or name one in the class as `conformance_config`",
            ) from error
    if trained is None and not issubclass(component, Fittable):
        trained = trained_on_stand_in()
    return Subject(
        component,
        config,
        trained,
        schedule or StraightSchedule(StraightConfig()),
        tuple(devices or (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))),
        tokenizer,
    )


def exemptions(component: type[Component], skip: Mapping[str, str]) -> Mapping[str, str]:
    """The checks that are left out, each with its reason: those that the class names, and those of one test.

    Raises:
        SpecError: Every entry that names no check, or gives no reason.
    """
    if not isinstance(component.exempt_from, Mapping):
        raise SpecError(
            f"{component.__name__}.exempt_from is {component.exempt_from!r}; expected reasons by check"
        )
    skip = {**component.exempt_from, **skip}
    names = [check.name for check in checks_for(component.kind)]
    unknown = [
        f"{name!r} is not asked of a {component.kind}; {did_you_mean(name, names)}"
        for name in skip
        if name not in names
    ]
    silent = [
        f"{name!r} has no reason"
        for name, reason in skip.items()
        if not (isinstance(reason, str) and reason.strip())
    ]
    if unknown or silent:
        raise SpecError(f"{component.__name__}: the checks to skip are not valid", [*unknown, *silent])
    return skip
