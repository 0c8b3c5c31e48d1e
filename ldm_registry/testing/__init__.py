"""The conformance suite: what a plugin's author runs on their own component.

A test file of five lines gives one test for each check::

    from ldm_registry.testing import ComponentSuite
    from my_plugin import MyConfig, MyDenoiser

    class TestMyDenoiser(ComponentSuite):
        component = MyDenoiser
        config = MyConfig(channels=4)

Without a test runner, `check_component(MyDenoiser, MyConfig(channels=4))` gives a report. A check can be left out
only with a reason: `skip = {"runs_in_bfloat16": "eigenvalues need more digits"}`.
"""

from __future__ import annotations

from ldm_registry.testing.check import CheckResult, Status
from ldm_registry.testing.conformance import ConformanceReport, check_component, check_names
from ldm_registry.testing.stand_ins import StraightConfig, StraightSchedule, trained_on_stand_in
from ldm_registry.testing.suite import ComponentSuite

__all__ = [
    "CheckResult",
    "ComponentSuite",
    "ConformanceReport",
    "Status",
    "StraightConfig",
    "StraightSchedule",
    "check_component",
    "check_names",
    "trained_on_stand_in",
]
