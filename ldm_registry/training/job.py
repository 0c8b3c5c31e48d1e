"""What a stage's training is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldm_registry.data import ImageSet
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec
from ldm_registry.training.state import FILE, read_notes

STATE_FOLDER = ".training"


@dataclass(frozen=True, slots=True)
class Job:
    """One training: what, on what, where to.

    Attributes:
        spec: The pipeline.
        registry: Where its parts come from.
        device: To train on.
        folder: The checkpoint.
        resume: Whether an earlier state is taken up.
        images: To train on.
        validation: To measure with.
        dataset: File name of the training images.
        digest: SHA-256 of that file.
        validation_data: File name and SHA-256 of the validation images.
        command: What makes the checkpoint again.
    """

    spec: PipelineSpec
    registry: Registry
    device: torch.device
    folder: Path
    resume: bool
    images: ImageSet
    validation: ImageSet
    dataset: str
    digest: str
    validation_data: str
    command: str

    @property
    def state_folder(self) -> Path:
        """Where the training state lives."""
        return self.folder / STATE_FOLDER

    def earlier_config(self) -> Mapping[str, Any] | None:
        """The config that the training to be resumed began with; None where there is nothing to resume."""
        if not self.resume or not (self.state_folder / FILE).is_file():
            return None
        config = read_notes(self.state_folder)["identity"].get("config")
        return config if isinstance(config, dict) else None
