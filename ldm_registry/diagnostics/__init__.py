"""Which part of a pipeline is to blame: measurements of each stage, substitution of all of them, a verdict."""

from __future__ import annotations

from ldm_registry.diagnostics.against import diagnose_against as diagnose_against
from ldm_registry.diagnostics.against import diagnosing_against as diagnosing_against
from ldm_registry.diagnostics.crossing import Crossing as Crossing
from ldm_registry.diagnostics.diagnosis import Begun as Begun
from ldm_registry.diagnostics.diagnosis import diagnose as diagnose
from ldm_registry.diagnostics.diagnosis import diagnosing as diagnosing
from ldm_registry.diagnostics.report import Report as Report
from ldm_registry.diagnostics.subject import Subject as Subject

__all__ = [
    "Begun",
    "Crossing",
    "Report",
    "Subject",
    "diagnose",
    "diagnose_against",
    "diagnosing",
    "diagnosing_against",
]
