"""Whether a denoiser still puts out what was recorded when it was saved: no encoder and no image is involved."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_registry.diagnostics.probe import vp_level
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.errors import LdmError
from ldm_registry.interfaces import randn
from ldm_registry.training.seeds import seeded
from ldm_registry.vocabulary import Kind

GOLDEN_SAME = 0.02
"""Relative distance below which outputs count as those recorded; half precision stays below it."""
_MOST_CLASSES = 64


@torch.inference_mode()
def golden_distance(subject: Subject) -> float | None:
    """Relative root mean square difference between the recorded outputs and those of now.

    The record is of the first image of its set, whose label is not recorded; so all labels are tried.

    Returns:
        None where nothing was recorded, or the record cannot be repeated.
    """
    recorded = subject.recorded(Kind.DENOISER)
    if recorded is None or not recorded.golden:
        return None
    golden = torch.tensor(recorded.golden, dtype=torch.float64)
    noise = randn((1, *subject.pipe.latent_shape), seeded("golden"))
    if noise.numel() < len(golden):
        return None
    conditions = _labels(subject)
    try:
        outputs = [subject.predict(noise, vp_level(0.0), condition) for condition in conditions]
    except (LdmError, RuntimeError):
        return None
    return min(_distance(output, golden) for output in outputs)


def _labels(subject: Subject) -> list[dict[str, Tensor]]:
    label = subject.pipe.denoiser.conditioning.get("class_label")
    if label is None or label.classes is None:
        return [{}]
    return [{"class_label": torch.tensor([index])} for index in range(min(label.classes + 1, _MOST_CLASSES))]


def _distance(output: Tensor, golden: Tensor) -> float:
    first = output.double().flatten()[: len(golden)]
    distance = float((first - golden).square().mean().sqrt() / golden.square().mean().sqrt().clamp(min=1e-6))
    return distance if distance == distance else float("inf")
