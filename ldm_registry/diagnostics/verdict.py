"""Weigh what the measurements suspect and what the substitution says into one answer.

Every answer (nobody, a stage, an interface between two) gets a log probability: a prior, a price for each stage's
evidence that it leaves unexplained, and the likelihood of the Shapley shares under it. Nothing here knows a fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from ldm_registry.diagnostics.deciding import deciding_measurement
from ldm_registry.diagnostics.evidence import Measurement, Stages, Suspicion
from ldm_registry.diagnostics.report import Candidate, Outcome, Substitution, Verdict, stages_name
from ldm_registry.vocabulary import STAGES, Kind

NOBODY: Stages = frozenset()
INTERFACES: tuple[Stages, ...] = (
    frozenset({Kind.ENCODER, Kind.DECODER}),
    frozenset({Kind.ENCODER, Kind.DENOISER}),
    frozenset({Kind.DENOISER, Kind.SCHEDULER}),
    frozenset({Kind.DENOISER, Kind.DECODER}),
)
ANSWERS: tuple[Stages, ...] = (NOBODY, *(frozenset({stage}) for stage in STAGES), *INTERFACES)
PRIOR = {0: 0.5, 1: 0.09, 2: 0.035}
"""By number of stages at fault: most pipelines are sound, and most faults lie in one part."""
PRICE = 2.0
"""Exponent of the probability that evidence of a strength turns up against a stage that is sound."""
SECOND_OPINION = 0.4
"""How much a further suspicion against the same stages counts beside the one before: they are not independent."""
PARTLY = 0.35
"""Share of the price that is paid by an answer which shares a stage with a suspicion but is not the same."""
ONE_OF_TWO = 0.08
"""The same for one stage where two are suspected: such a test says that it is one of them."""
TELLING = (
    "FIN",
    "LOAD",
    "HYP",
    "TIME",
    "ORA",
    "RT",
    "DTY",
    "EQV",
    "INV",
    "DET",
    "CFG",
    "SITU",
    "LAT",
    "CON",
)
"""Codes of tests that say how something is wrong, the plainest first; the others say only that it is."""
NEARLY = 0.08
"""By how much a suspicion may be weaker than the strongest and still give the fault its name."""
MARGIN = 0.2
"""Least lead in probability of an answer over the next; below it there is no verdict."""
ALONE = 0.85
"""Most confidence that one kind of evidence, direct or by substitution, can give without the other."""
CONTRADICTED = 0.7
"""The same where the other kind says something else."""
CLEAR_SHARE = 0.5
WEIGHT_OF_SHARES = 3.0
CLEARED = 0.25
"""Nats that each test costs the answers whose stages it looked at and found nothing wrong with."""
MOST_CLEARED = 1.0
"""Nats that all such tests cost together: they look at different things, and a fault shows in few."""
LEAST_STRENGTH = 0.02
MOST_PARTLY = 6.0
"""Nats of which a part is paid."""
MOST_STRENGTH = 0.97


def weigh(measurements: Sequence[Measurement], substitution: Substitution | None) -> Verdict:
    """The verdict on a pipeline, or on what was measured of it.

    Args:
        measurements: All of them; those that were skipped say nothing.
        substitution: None where none was made.
    """
    suspicions = [suspicion for one in measurements for suspicion in one.suspicions]
    broken = sorted((one for one in suspicions if not one.is_quality), key=lambda one: -one.strength)
    candidates = _candidates(broken, substitution, measurements)
    first, second = candidates[0], candidates[1]
    agreement = _agreement(broken, substitution)
    evidence = tuple(_evidence(broken, substitution, first.stages, agreement))
    if first.probability - second.probability < MARGIN:
        deciding = deciding_measurement(first.stages, second.stages)
        return Verdict(
            Outcome.UNDECIDED, NOBODY, first.probability, None, evidence, candidates, agreement, deciding
        )
    if not first.stages:
        return _nothing_broken(suspicions, candidates, evidence)
    confidence = min(first.probability, 1.0 if agreement else CONTRADICTED if agreement is False else ALONE)
    fault = _fault(measurements, first.stages)
    return Verdict(Outcome.FAULT, first.stages, confidence, fault, evidence, candidates, agreement)


def posterior(
    suspicions: Sequence[Suspicion],
    substitution: Substitution | None,
    measurements: Sequence[Measurement] = (),
) -> Mapping[Stages, float]:
    """The probability of every answer; they sum to 1.

    Args:
        suspicions: Of something broken, not merely poor.
        substitution: None where none was made.
        measurements: Those that found nothing wrong speak for the stages that they looked at.
    """
    clean = [one.stages for one in measurements if one.is_healthy]
    logs = {
        answer: math.log(PRIOR[len(answer)])
        - min(CLEARED * sum(bool(stages & answer) for stages in clean), MOST_CLEARED)
        - sum(_price(stages, strength, answer) for stages, strength in _combined(suspicions))
        + (_log_likelihood_of_shares(substitution, answer) if substitution else 0.0)
        for answer in ANSWERS
    }
    top = max(logs.values())
    weights = {answer: math.exp(value - top) for answer, value in logs.items()}
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()}


def _candidates(
    suspicions: Sequence[Suspicion], substitution: Substitution | None, measurements: Sequence[Measurement]
) -> tuple[Candidate, ...]:
    found = [
        Candidate(answer, probability)
        for answer, probability in posterior(suspicions, substitution, measurements).items()
    ]
    return tuple(sorted(found, key=lambda one: -one.probability))


def _combined(suspicions: Sequence[Suspicion]) -> Iterator[tuple[Stages, float]]:
    """One strength for each set of stages: `1 - prod (1 - p_i)^w_i`, the strongest first with `w_i = w^i`."""

    def name(one: Suspicion) -> str:
        return stages_name(one.stages)

    for _, group in groupby(sorted(suspicions, key=name), key=name):
        same = sorted(group, key=lambda one: -one.strength)
        doubt = sum(
            SECOND_OPINION**index * math.log1p(-min(max(one.strength, LEAST_STRENGTH), MOST_STRENGTH))
            for index, one in enumerate(same)
        )
        yield same[0].stages, -math.expm1(doubt)


def _price(stages: Stages, strength: float, answer: Stages) -> float:
    """What an answer pays for a suspicion, in nats: nothing where it names the same stages."""
    full = -PRICE * math.log1p(-min(strength, 1.0 - 1e-6))
    if stages == answer:
        return 0.0
    if stages > answer and answer:
        return ONE_OF_TWO * min(full, MOST_PARTLY)
    return PARTLY * min(full, MOST_PARTLY) if stages & answer else full


def _log_likelihood_of_shares(substitution: Substitution, answer: Stages) -> float:
    """How well an answer explains who holds the loss; a loss that is not noticeable speaks against every fault."""
    excess = substitution.loss - substitution.noticeable
    if excess <= 0:
        return 0.0 if not answer else -0.5
    trust = WEIGHT_OF_SHARES * (1.0 - math.exp(-excess / substitution.noticeable))
    if not answer:
        return -trust
    explained = _explained(substitution, answer)
    if len(answer) == 1:
        return trust * (explained - 1.0)
    # Two are to blame together only where neither restores the quality alone.
    alone = max(_explained(substitution, frozenset({stage})) for stage in answer)
    return trust * (explained - max(0.0, alone - 0.5) - 1.0)


def _explained(substitution: Substitution, answer: Stages) -> float:
    """How much of the loss is an answer's doing, in [0, 1]: by its share, and by what replacing it restores."""
    positive = {stage: max(share, 0.0) for stage, share in substitution.shares.items()}
    share = sum(positive[stage] for stage in answer) / (sum(positive.values()) or 1.0)
    nothing = substitution.losses[NOBODY]
    restored = (nothing - substitution.losses[answer]) / max(substitution.loss, 1e-9)
    return 0.5 * share + 0.5 * min(max(restored, 0.0), 1.0)


def _agreement(suspicions: Sequence[Suspicion], substitution: Substitution | None) -> bool | None:
    """Whether the stage that the measurements name holds most of the loss; None where one of the two says nothing."""
    if substitution is None or substitution.loss <= substitution.noticeable or not suspicions:
        return None
    direct = posterior(suspicions, None)
    named = max(ANSWERS, key=lambda answer: direct[answer])
    if not named:
        return None
    return _explained(substitution, named) >= CLEAR_SHARE


def _fault(measurements: Sequence[Measurement], answer: Stages) -> str | None:
    """What is wrong, in the words of the most telling of the strong suspicions against the stages at fault.

    A test that says only that something is wrong gives its words where no other has any.
    """
    found = [
        (one.code, suspicion)
        for one in measurements
        for suspicion in one.suspicions
        if suspicion.stages & answer and not suspicion.is_quality
    ]
    telling = [pair for pair in found if pair[0] in TELLING]
    considered = telling or found
    if not considered:
        return None
    strongest = max(suspicion.strength for _, suspicion in considered)
    strong = [pair for pair in considered if pair[1].strength >= strongest - NEARLY]
    rank = {code: index for index, code in enumerate(TELLING)}
    best = min(strong, key=lambda pair: (rank.get(pair[0], len(rank)), -pair[1].strength))
    return _without_stage(best[1])


def _nothing_broken(
    suspicions: Sequence[Suspicion], candidates: tuple[Candidate, ...], evidence: tuple[str, ...]
) -> Verdict:
    poor = sorted((one for one in suspicions if one.is_quality), key=lambda one: -one.strength)
    probability = candidates[0].probability
    if not poor:
        return Verdict(Outcome.HEALTHY, NOBODY, probability, None, evidence, candidates)
    said = tuple(f"{stages_name(one.stages)}, quality: {one.fault}; {one.evidence}" for one in poor)
    return Verdict(
        Outcome.QUALITY, poor[0].stages, probability, poor[0].fault, (*said, *evidence), candidates
    )


def _evidence(
    suspicions: Sequence[Suspicion],
    substitution: Substitution | None,
    answer: Stages,
    agreement: bool | None,
) -> Iterator[str]:
    """What speaks for the answer first, then what the substitution says, then the rest."""
    for_it = [one for one in suspicions if one.stages & answer]
    yield from (_sentence(one) for one in for_it)
    if substitution is not None:
        yield _substitution_sentence(substitution)
    if agreement is False:
        yield "the direct measurements and the substitution point at different stages"
    yield from (_sentence(one) for one in suspicions if not one.stages & answer)


def _sentence(suspicion: Suspicion) -> str:
    return f"{stages_name(suspicion.stages)}: {_without_stage(suspicion)}; {suspicion.evidence}"


def _without_stage(suspicion: Suspicion) -> str:
    """The fault, without the stage that it stands beside anyway."""
    return suspicion.fault.removeprefix(f"the {stages_name(suspicion.stages)}: ")


def _substitution_sentence(substitution: Substitution) -> str:
    if substitution.loss <= substitution.noticeable:
        return f"substitution: known images lose {substitution.loss:.1f} dB, within {substitution.noticeable:.1f}"
    shares = ", ".join(
        f"{stage} {share:.1f}"
        for stage, share in sorted(substitution.shares.items(), key=lambda pair: -pair[1])
    )
    return f"substitution: known images lose {substitution.loss:.1f} dB, of which {shares}"
