"""A report of a diagnosis with everything in it that a page has to show; no network was run for it."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch

from ldm_registry.diagnostics.evidence import Curve, Healthy, Measurement, Metric, Picture, Suspicion
from ldm_registry.diagnostics.report import (
    Candidate,
    Costs,
    Outcome,
    Report,
    StageCost,
    Substitution,
    Verdict,
)
from ldm_registry.vocabulary import STAGES, Kind

ENCODER, DENOISER, SCHEDULER, DECODER = (frozenset({stage}) for stage in STAGES)
LOSSES = {Kind.ENCODER: 0.5, Kind.DENOISER: 7.25, Kind.SCHEDULER: -0.25, Kind.DECODER: 0.0}


def example(text: str = "some text", **changes: Any) -> Report:
    """A report in which a text stands wherever one can.

    Args:
        text: Stands in every name, phrase and sentence.
        changes: Fields of the report.
    """
    values: dict[str, Any] = {
        "name": text,
        "verdict": verdict(text),
        "measurements": measurements(text),
        "substitution": substitution(text),
        "stage": None,
        "parts": dict.fromkeys(STAGES, text),
        "placements": dict.fromkeys(STAGES, text),
        "seed": 3,
        "images": 24,
        "quick": True,
        "warnings": (text,),
        "seconds": 12.5,
        "version": "0.1.0",
        "costs": costs(text),
    }
    return Report(**{**values, **changes})


def verdict(text: str, outcome: Outcome = Outcome.FAULT) -> Verdict:
    candidates = (Candidate(DENOISER, 0.7), Candidate(SCHEDULER, 0.2), Candidate(frozenset(), 0.1))
    blamed = DENOISER if outcome in {Outcome.FAULT, Outcome.QUALITY} else frozenset()
    return Verdict(outcome, blamed, 0.7, text, (text, text), candidates, True, text)


def measurements(text: str) -> tuple[Measurement, ...]:
    picture = Picture(text, text, torch.linspace(-1, 1, 3 * 16 * 32).view(3, 16, 32))
    broken = Picture(text, text, torch.full((3, 8, 8), math.nan))
    falling = tuple((float(x), 10.0**-x) for x in range(-4, 5))
    line = {text: falling, f"{text} bound": ((0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0))}
    return (
        Measurement(
            "RT",
            f"round trip {text}?",
            ENCODER | DECODER,
            (Metric("psnr_db", 31.4159, text, Healthy(28.5, None, text)), Metric("plain", 7.0, text)),
            pictures=(picture, broken),
        ),
        Measurement(
            "DEN",
            text,
            DENOISER,
            (
                Metric(text, math.nan, text, Healthy(-0.125, 0.75, text)),
                Metric("b", -math.inf, text, Healthy(None, 2.0, text)),
            ),
            (Suspicion(DENOISER, text, 0.9, text), Suspicion(ENCODER | DENOISER, text, 0.2, text, True)),
            curves=(Curve(text, text, text, line, log_y=True), Curve(text, text, text, line)),
        ),
        Measurement("ORA", text, SCHEDULER, curves=(Curve(text, text, text, {"none": ()}),)),
        Measurement("SITU", text, frozenset(STAGES), skipped=text),
    )


def costs(text: str) -> Costs:
    peaks = (100.0, 1234.5, None, 99.0)
    stages = tuple(
        StageCost(stage, text, 10.0 * (index + 1), index, peak, 0.5)
        for index, (stage, peak) in enumerate(zip(STAGES, peaks, strict=True))
    )
    return Costs(4, 101.0, text, text, stages)


def substitution(text: str) -> Substitution:
    subsets = [frozenset(some) for size in range(5) for some in combinations(STAGES, size)]
    losses = {subset: sum(LOSSES[stage] for stage in STAGES if stage not in subset) for subset in subsets}
    picture = Picture(text, text, torch.zeros(3, 8, 24))
    return Substitution(text, losses, LOSSES, 2.0, (picture,), (text,), 1.0)
