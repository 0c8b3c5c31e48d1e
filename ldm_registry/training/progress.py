"""What a training run tells its consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Steps taken, earlier runs included.
        steps: Steps of the whole training.
        elapsed_s: Wall time of the training, earlier runs included.
        step_ms: Mean wall time of a step since the last report.
        learning_rate: Share of the peak learning rate that the last step had.
        losses: Of the last step, by name.
        validation: Figures on the validation set with averaged weights, when they were just taken.
        stopped: Why the run ends here ("finished", "minutes", "interrupted"); None while it goes on.
        checkpoint: The folder, once it has been written.
    """

    step: int
    steps: int
    elapsed_s: float
    step_ms: float = 0.0
    learning_rate: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    stopped: str | None = None
    checkpoint: Path | None = None
