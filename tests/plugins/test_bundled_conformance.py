"""Every component of this repository's plugins passes the conformance suite as `ldm plugin test NAME` runs it."""

from __future__ import annotations

import pytest

from ldm_registry.authoring.plugin_check import check_installed, render
from ldm_registry.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.plugins]

NEED_A_TOKENIZER = {"clip-text", "t5-text"}
ENTRIES = [
    f"{entry.kind}/{entry.name}"
    for entry in Registry.discover().entries()
    if entry.name not in NEED_A_TOKENIZER
]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_bundled_component_conforms(name: str) -> None:
    for report in check_installed(name):
        assert report.passed, render(report)
