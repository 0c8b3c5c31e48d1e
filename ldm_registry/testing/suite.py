"""The conformance suite as a test class: one test for each check, for pytest or unittest, importing neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from ldm_registry.interfaces import Component, ComponentConfig, NoiseSchedule, Trained
from ldm_registry.testing.check import Check, Status
from ldm_registry.testing.conformance import checks_for, exemptions, subject_of
from ldm_registry.testing.global_state import restored


class ComponentSuite:
    """Derive from it in a test file, and name the component; every check becomes a test of its own.

    Attributes:
        component: The class under test.
        config: A small one, so that the suite takes seconds; None is the component's `conformance_config`.
        trained: For a denoiser: how it was trained; None takes a stand-in, or nothing for one that is fitted.
        schedule: For a scheduler: what it steps through; None takes a stand-in of 1000 steps.
        tokenizer: For a conditioner of text: folder of its tokenizer.
        checkpoint: Folder of weights of this component, whose contract is measured too.
        images: Image set to measure it with.
        skip: Check to the reason why it cannot hold, beside those that the component is `exempt_from`.
    """

    component: ClassVar[type[Component]]
    config: ClassVar[ComponentConfig | None] = None
    trained: ClassVar[Trained | None] = None
    schedule: ClassVar[NoiseSchedule | None] = None
    tokenizer: ClassVar[Path | None] = None
    checkpoint: ClassVar[Path | None] = None
    images: ClassVar[Path | None] = None
    skip: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "component" not in vars(cls):
            return
        skip = exemptions(cls.component, cls.skip)
        for check in checks_for(cls.component.kind):
            setattr(cls, f"test_{check.name}", _as_test(check, skip.get(check.name)))


def _as_test(check: Check, reason: str | None) -> Callable[[ComponentSuite], None]:
    def test(self: ComponentSuite) -> None:
        if reason is not None:
            raise SkipTest(reason)
        subject = subject_of(
            self.component,
            self.config,
            trained=self.trained,
            schedule=self.schedule,
            tokenizer=self.tokenizer,
        )
        subject = replace(subject, checkpoint=self.checkpoint, images=self.images)
        with restored():
            result = check.result(subject)
        if result.status is Status.NOT_APPLICABLE:
            raise SkipTest(result.detail)
        assert result.status is Status.PASSED, result.detail

    test.__name__ = f"test_{check.name}"
    test.__doc__ = check.about
    return test
