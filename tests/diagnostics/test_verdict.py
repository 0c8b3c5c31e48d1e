from __future__ import annotations

from dataclasses import replace

import pytest

from ldm_registry.diagnostics.evidence import Measurement, Stages, Suspicion
from ldm_registry.diagnostics.report import Outcome, Substitution
from ldm_registry.diagnostics.shapley import shapley_values, subsets
from ldm_registry.diagnostics.verdict import ANSWERS, posterior, weigh
from ldm_registry.vocabulary import STAGES, Kind

EVERY = frozenset(STAGES)


def suspicion(strength: float, *stages: Kind, is_quality: bool = False, fault: str = "broken") -> Suspicion:
    return Suspicion(frozenset(stages), fault, strength, "numbers", is_quality)


def measured(*suspicions: Suspicion, stages: Stages = EVERY) -> Measurement:
    return Measurement("T", "is it well?", stages, suspicions=suspicions)


def substitution(*guilty: Kind, loss: float = 10.0) -> Substitution:
    """Replacing all the guilty restores the quality, and nothing else does."""
    losses = {present: 0.0 if set(guilty) <= present else loss for present in subsets(STAGES)}
    shares = shapley_values(STAGES, {present: -value for present, value in losses.items()})
    return Substitution("dB", losses, shares, 2.0)


SOUND = substitution(loss=0.0)


def test_nothing_suspected_and_nothing_lost_is_healthy() -> None:
    verdict = weigh([measured()] * 5, SOUND)
    assert verdict.outcome is Outcome.HEALTHY
    assert verdict.stage == "healthy"
    assert verdict.confidence > 0.8


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_both_kinds_of_evidence_name_is_at_fault_with_high_confidence(stage: Kind) -> None:
    verdict = weigh([measured(suspicion(0.9, stage, fault="upside down"))], substitution(stage))
    assert verdict.outcome is Outcome.FAULT
    assert verdict.stages == {stage}
    assert verdict.agreement is True
    assert verdict.confidence > 0.85
    assert verdict.fault == "upside down"


def test_without_the_other_kind_of_evidence_confidence_stays_bounded() -> None:
    alone = weigh([measured(suspicion(0.97, Kind.DECODER))] * 3, None)
    assert alone.stages == {Kind.DECODER}
    assert alone.agreement is None
    assert alone.confidence <= 0.85


def test_evidence_that_points_at_different_stages_is_said_to_disagree() -> None:
    verdict = weigh([measured(suspicion(0.95, Kind.DECODER))], substitution(Kind.SCHEDULER))
    assert verdict.agreement is False
    assert verdict.confidence <= 0.7
    assert any("different stages" in sentence for sentence in verdict.evidence)


def test_equal_suspicions_of_two_stages_are_undecided_with_the_measurement_that_decides() -> None:
    both = [measured(suspicion(0.8, Kind.DENOISER)), measured(suspicion(0.8, Kind.SCHEDULER))]
    verdict = weigh(both, None)
    assert verdict.outcome is Outcome.UNDECIDED
    assert verdict.stage == "undecided"
    assert verdict.deciding
    assert {stage for one in verdict.candidates[:3] for stage in one.stages} == {
        Kind.DENOISER,
        Kind.SCHEDULER,
    }


def test_a_suspicion_of_two_becomes_one_when_the_substitution_names_it() -> None:
    verdict = weigh([measured(suspicion(0.8, Kind.ENCODER, Kind.DECODER))], substitution(Kind.DECODER))
    assert verdict.stages == {Kind.DECODER}


def test_two_that_have_to_be_replaced_together_are_an_interface() -> None:
    pair = (Kind.DENOISER, Kind.SCHEDULER)
    verdict = weigh([measured(suspicion(0.9, *pair))], substitution(*pair))
    assert verdict.stages == set(pair)


def test_poor_quality_is_no_fault() -> None:
    verdict = weigh([measured(suspicion(0.9, Kind.DENOISER, is_quality=True, fault="undertrained"))], SOUND)
    assert verdict.outcome is Outcome.QUALITY
    assert verdict.stages == {Kind.DENOISER}
    assert verdict.fault == "undertrained"
    assert verdict.stage == "healthy"


def test_a_faint_hint_without_loss_is_no_fault() -> None:
    verdict = weigh([*[measured()] * 5, measured(suspicion(0.3, Kind.ENCODER))], SOUND)
    assert verdict.outcome is Outcome.HEALTHY


def test_a_measurement_that_was_skipped_says_nothing() -> None:
    silent = replace(measured(), skipped="no contract")
    assert weigh([silent], None) == weigh([], None)


def test_probabilities_sum_to_one_and_a_stronger_suspicion_makes_its_stage_likelier() -> None:
    before = 0.0
    for strength in (0.1, 0.3, 0.6, 0.9):
        found = posterior([suspicion(strength, Kind.SCHEDULER)], SOUND)
        assert set(found) == set(ANSWERS)
        assert sum(found.values()) == pytest.approx(1.0)
        now = found[frozenset({Kind.SCHEDULER})]
        assert now > before
        before = now


def test_a_second_suspicion_of_the_same_stage_counts_but_less_than_an_independent_one() -> None:
    stage = frozenset({Kind.ENCODER})
    once, twice = (posterior([suspicion(0.5, Kind.ENCODER)] * count, None)[stage] for count in (1, 2))
    assert once < twice
    assert twice < posterior([suspicion(0.75, Kind.ENCODER)], None)[stage]
