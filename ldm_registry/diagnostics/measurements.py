"""The table of all measurements: what runs, in which order, and for which stage by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ldm_registry.diagnostics.codec_precision import measure_codec_precision
from ldm_registry.diagnostics.codec_symmetry import measure_codec_symmetry
from ldm_registry.diagnostics.decoder_inversion import measure_decoder_inversion
from ldm_registry.diagnostics.denoising_error import measure_denoising_error
from ldm_registry.diagnostics.evidence import Measurement, Stages
from ldm_registry.diagnostics.finiteness import measure_finiteness
from ldm_registry.diagnostics.golden_outputs import measure_golden_outputs
from ldm_registry.diagnostics.guidance_identities import measure_guidance
from ldm_registry.diagnostics.hypotheses import measure_hypotheses
from ldm_registry.diagnostics.in_situ import measure_in_situ
from ldm_registry.diagnostics.latent_statistics import measure_latent_statistics
from ldm_registry.diagnostics.load_audit import measure_load
from ldm_registry.diagnostics.oracle_sampling import measure_oracle_sampling
from ldm_registry.diagnostics.repeatability import measure_repeatability
from ldm_registry.diagnostics.round_trip import measure_round_trip
from ldm_registry.diagnostics.sample_quality import measure_sample_quality
from ldm_registry.diagnostics.static_contract import measure_contract
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.time_sensitivity import measure_time_sensitivity
from ldm_registry.vocabulary import STAGES, Kind

ENCODER, DENOISER, SCHEDULER, DECODER = (frozenset({stage}) for stage in STAGES)
EVERY: Stages = frozenset(STAGES)
NOWHERE: Stages = frozenset()


@dataclass(frozen=True, slots=True)
class Test:
    """One row of the table.

    Attributes:
        code: As in the measurement that it returns.
        about: What happens while it runs, for a line of progress.
        measure: The measurement.
        stages: Which stages, looked at by themselves, it belongs to; none for a test of the whole pipeline.
    """

    code: str
    about: str
    measure: Callable[[Subject], Measurement]
    stages: Stages


TESTS: tuple[Test, ...] = (
    Test("LOAD", "weights against what was saved", measure_load, EVERY - SCHEDULER),
    Test("GOLD", "outputs against those recorded", measure_golden_outputs, EVERY - SCHEDULER),
    Test("CON", "what the parts promise one another", measure_contract, EVERY),
    Test("FIN", "finite numbers at every boundary", measure_finiteness, NOWHERE),
    Test("RT", "round trip of known images", measure_round_trip, ENCODER | DECODER),
    Test("LAT", "statistics of the latents", measure_latent_statistics, ENCODER),
    Test("INV", "inversion of the decoder", measure_decoder_inversion, ENCODER | DECODER),
    Test("EQV", "shifts, flips and sizes", measure_codec_symmetry, ENCODER | DECODER),
    Test("DTY", "the same in single precision", measure_codec_precision, ENCODER | DECODER),
    Test("DEN", "denoising error at each noise level", measure_denoising_error, DENOISER),
    Test("HYP", "interpretations of the denoiser", measure_hypotheses, DENOISER),
    Test("TIME", "what the denoiser makes of time", measure_time_sensitivity, DENOISER),
    Test("CFG", "identities of guidance", measure_guidance, DENOISER),
    Test("ORA", "the sampler under exact denoisers", measure_oracle_sampling, SCHEDULER),
    Test("SITU", "what crosses the interfaces in a run", measure_in_situ, NOWHERE),
    Test("QUAL", "quality of samples", measure_sample_quality, NOWHERE),
    Test("DET", "the same run again", measure_repeatability, NOWHERE),
)


def run_tests(subject: Subject, stage: Kind | None) -> Iterator[tuple[Test, Callable[[], Measurement]]]:
    """Each test that applies, with the call that runs it.

    Args:
        subject: What is measured.
        stage: Only the tests of this stage; None for all.
    """
    for test in TESTS:
        if stage is None or stage in test.stages:
            yield test, partial(_run, test, subject)


def _run(test: Test, subject: Subject) -> Measurement:
    """The measurement; one that the pipeline is too broken for counts as skipped, with the reason."""
    begin = time.perf_counter()
    try:
        return test.measure(subject)
    except Exception as error:
        return Measurement(
            test.code,
            test.about,
            test.stages,
            seconds=time.perf_counter() - begin,
            skipped=f"it ended with {type(error).__name__}: {error}",
        )
