"""CON: everything that can be read off configs, contracts and declared attributes, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ldm_registry.contracts import Parts, check
from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.level_sequence import PURE_NOISE_NATS, outside
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.vocabulary import STAGES, Kind, Prediction


def measure_contract(subject: Subject) -> Measurement:
    """Check the parts against one another and against what their checkpoints promise."""
    begin = time.perf_counter()
    pipe = subject.pipe
    parts = Parts(
        pipe.encoder, pipe.denoiser, pipe.scheduler, pipe.decoder, pipe.contracts, pipe.conditioners
    )
    found = check(pipe.spec, parts)
    broken = list(_broken_promises(subject))
    suspicions = [
        *(Suspicion(_named(text), "parts do not fit together", 0.9, text) for text in found.errors),
        *(
            Suspicion(_named(text), "parts were not made for one another", 0.7, text)
            for text in found.warnings
        ),
        *broken,
        *_odd_half(subject),
    ]
    return Measurement(
        "CON",
        "Do the parts keep what they promise to one another?",
        frozenset(STAGES),
        (
            Metric(
                "errors",
                float(len(found.errors)),
                "mismatches that forbid a run",
                Healthy(0.0, 0.0, "contract"),
            ),
            Metric(
                "warnings",
                float(len(found.warnings)),
                "mismatches that do not",
                Healthy(0.0, 0.0, "contract"),
            ),
            Metric("contracts", float(len(pipe.contracts)), "stages whose checkpoint has a contract"),
            *_coverage(subject),
        ),
        tuple(suspicions),
        seconds=time.perf_counter() - begin,
    )


def _named(text: str) -> frozenset[Kind]:
    """The stages that a finding names; the denoiser, which all others serve, where it names none."""
    return frozenset(kind for kind in STAGES if f"{kind} " in text) or frozenset({Kind.DENOISER})


def _broken_promises(subject: Subject) -> Iterator[Suspicion]:
    """Where a part declares something else than its own checkpoint."""
    contract, denoiser = subject.contract(Kind.DENOISER), subject.pipe.denoiser
    if contract is None:
        return
    stages = frozenset({Kind.DENOISER})
    if contract.prediction is not None and contract.prediction is not denoiser.prediction:
        said, used = Prediction(contract.prediction), denoiser.prediction
        text = f"the contract says {said}, the denoiser {used}"
        yield Suspicion(stages, f"{said} read as {used}", 0.8, text)


def _odd_half(subject: Subject) -> Iterator[Suspicion]:
    """A half of the codec that is of another codec than the other half and the denoiser."""
    contract = subject.contract(Kind.DENOISER)
    wanted = contract.codec_sha256 if contract is not None else None
    halves = (Kind.ENCODER, Kind.DECODER)
    fits = {
        kind: wanted in {file.sha256 for file in known.files.values()}
        for kind in halves
        if (known := subject.contract(kind)) is not None
    }
    if wanted is None or sorted(fits.values()) != [False, True]:
        return
    odd, other = sorted(fits, key=lambda kind: fits[kind])
    text = f"the denoiser was trained on the codec that the {other} is of, by the digest of its weights"
    yield Suspicion(
        frozenset({odd}), f"the {odd} is of another codec than the {other} and the denoiser", 0.95, text
    )


def _coverage(subject: Subject) -> Iterator[Metric]:
    levels, trained = subject.pipe.scheduler.levels(), subject.pipe.denoiser.training_schedule
    yield Metric(
        "first_log_snr", max(float(levels[0].log_snr), PURE_NOISE_NATS), "where sampling starts, nats"
    )
    if len(levels) > 1:
        yield Metric(
            "last_asked_log_snr", float(levels[-2].log_snr), "where the denoiser is asked last, nats"
        )
    if trained is not None:
        yield Metric(
            "outside_training_nats",
            outside(levels, trained),
            "how far sampling leaves the log-SNR of the training",
            Healthy(None, 0.1, "training schedule"),
        )
