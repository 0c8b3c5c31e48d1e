"""QUAL: how far a few generated images are from known ones, for ranking within one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ldm_registry.conditioning import Values
from ldm_registry.diagnostics.chosen_features import ChosenFeatures
from ldm_registry.diagnostics.distances import frechet_distance, kernel_distance
from ldm_registry.diagnostics.evidence import Measurement, Metric, Picture
from ldm_registry.diagnostics.features import convolution_features, patch_features
from ldm_registry.diagnostics.probe import affordable
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.vocabulary import STAGES

TITLE = "Do generated images look like the known ones?"
SAMPLES = 24
BATCH = 8
SHOWN = 8


def measure_sample_quality(subject: Subject) -> Measurement:
    """Compare a few samples with the known images; its numbers have no healthy range and speak against nobody.

    Beside each distance stands the one between two halves of the known images, to see what is near.

    Args:
        subject: What to measure; its conditions are those that samples are made for.
    """
    begin = time.perf_counter()
    known = subject.images
    if len(known) < 4:
        reason = f"needs 4 known images or more; got {len(known)}"
        return Measurement("QUAL", TITLE, frozenset(STAGES), skipped=reason)
    count = affordable(subject, SAMPLES, least=4)
    made = subject.pipe.sample(count, seed=subject.seed, condition=_asked_for(subject.condition), batch=BATCH)
    broken = ~made.flatten(1).isfinite().all(1)
    metrics = [
        Metric(
            "samples_not_finite", float(broken.sum()), f"generated images with NaN or infinity, of {count}"
        )
    ]
    whole = made[~broken]
    if len(whole) >= 2:
        metrics += _distances(whole, known, subject.features)
    pictures = (_strip("Generated images", made), _strip("Known images", known))
    return Measurement(
        "QUAL",
        TITLE,
        frozenset(STAGES),
        tuple(metrics),
        pictures=pictures,
        seconds=time.perf_counter() - begin,
    )


def _distances(made: Tensor, known: Tensor, choice: ChosenFeatures | None) -> Iterator[Metric]:
    near, far = known[::2], known[1::2]
    sorts: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        ("convolution", "convolution features", convolution_features),
        ("patch", "patch features", patch_features),
    ]
    if choice is not None:
        sorts.insert(0, ("chosen", f"the chosen features ({choice.name})", choice))
    for sort, words, extract in sorts:
        samples, images = extract(made), extract(known)
        halves = extract(near), extract(far)
        for name, distance, about in (
            ("frechet", frechet_distance, "squared Fréchet distance"),
            ("kernel", kernel_distance, "unbiased kernel distance (can be negative)"),
        ):
            said = f"{about} of {words}"
            yield Metric(
                f"{sort}_{name}_distance",
                distance(samples, images),
                f"{said}, samples against known images; smaller is nearer",
            )
            yield Metric(
                f"{sort}_{name}_distance_of_halves",
                distance(*halves),
                f"{said}, between two halves of the known images: what no distance at all looks like",
            )


def _asked_for(condition: Mapping[str, Tensor]) -> Values | None:
    """Class labels of the known images, in turn; None, the spec's own condition, where there are no labels."""
    labels = condition.get("class_label")
    return None if labels is None else {"class_label": [int(label) for label in labels]}


def _strip(title: str, images: Tensor) -> Picture:
    shown = images[:SHOWN].nan_to_num().clamp(-1, 1)
    shown = shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown[:, :3]
    return Picture(title, f"{len(shown)} images in a row", torch.cat(list(shown), dim=2).contiguous())
