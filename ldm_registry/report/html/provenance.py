"""What a diagnosis was made of: checkpoints, versions, machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

import torch

from ldm_registry.pipeline import Pipeline
from ldm_registry.vocabulary import STAGES


def provenance_of(pipe: Pipeline) -> Mapping[str, str]:
    """Rows for the last section of the page, by name: digests, versions of what computed, and on what."""
    rows: dict[str, str] = {}
    if pipe.spec.source is not None:
        rows["spec file"] = pipe.spec.source.name
    for stage in STAGES:
        contract = pipe.contracts.get(stage)
        for name, file in sorted(contract.files.items()) if contract else ():
            rows[f"{stage.value}: {name}"] = f"sha256 {file.sha256}, {file.size} bytes"
    rows["Python"] = platform.python_version()
    rows["PyTorch"] = torch.__version__
    rows["machine"] = f"{sys.platform} {platform.machine()}, {os.cpu_count()} cores, {_accelerator()}"
    return rows


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
