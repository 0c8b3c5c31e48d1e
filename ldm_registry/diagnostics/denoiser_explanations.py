"""Which misuse of a denoiser explains that its golden outputs are not what was recorded.

Each explanation undoes one misuse: another reading of the output, the time that the contract promises, an embedding
of that time in the known conventions, another scale of the input. It holds if the recorded outputs then come back.
Nothing here depends on images, and a mild misuse is undone as exactly as a gross one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from ldm_registry.build import build_schedule
from ldm_registry.contracts import GoldenOutput
from ldm_registry.diagnostics.golden_outputs import differences, tolerance
from ldm_registry.diagnostics.probe import affordable
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.telling import Features, NetworkTime, keepers, told
from ldm_registry.diagnostics.time_conventions import sinusoids
from ldm_registry.errors import LdmError
from ldm_registry.golden import answer, answers_by_gain, difference, question_input, spread
from ldm_registry.interfaces import Denoiser, NoiseLevel, Trained
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind, Scaling

EXPLAINED = 0.1
"""Share of the difference that an explanation may leave."""
SAME = 0.01
"""Relative difference below which two numbers of an explanation count as one."""
BFLOAT16_STEP = 2.0**-8
SEARCHED_NATS = 3.0
SEARCHED, SEARCHES = 13, 3
SAME_SCALE = 5e-4
"""Relative spread of ratios that are one ratio."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A misuse whose undoing gives the recorded outputs back.

    Attributes:
        fault: In words of the field.
        evidence: The numbers, one phrase.
        before: Largest relative difference over the noise levels as the denoiser is used.
        after: The same with the misuse undone.
    """

    fault: str
    evidence: str
    before: float
    after: float


@torch.inference_mode()
def explanation(subject: Subject) -> Explanation | None:
    """The first misuse that explains a denoiser's difference from its golden outputs.

    Returns:
        None where there is no difference, nothing was recorded, or no single misuse explains it.
    """
    questions = differences(subject, Kind.DENOISER)
    before = max((value for _, value in questions), default=0.0)
    if not before > tolerance(subject, Kind.DENOISER) or not math.isfinite(before):
        return None
    tried = _Denoiser(subject, [question for question, _ in questions], before)
    for explain in (_reading, _time, _embedding, _input_scale):
        found = explain(tried)
        if found is not None:
            return found
    return None


@dataclass(frozen=True)
class _Denoiser:
    subject: Subject
    questions: Sequence[GoldenOutput]
    before: float

    @property
    def enough(self) -> float:
        """Largest difference that counts as none."""
        return max(EXPLAINED * self.before, 0.5 * tolerance(self.subject, Kind.DENOISER))

    def answers(self) -> list[Tensor]:
        """The estimates read as v, [values] each."""
        return [answer(self.subject.pipe.denoiser, question) for question in self.questions]

    def apart(self, answers: Sequence[Tensor]) -> float:
        """Largest relative difference from what was recorded."""
        return max(
            difference(found, question.values)
            for found, question in zip(answers, self.questions, strict=True)
        )

    def told(self, times: Sequence[Tensor], features: Features | None = None) -> list[Tensor]:
        """The answers where the network is told other times, one for each question."""
        part, found = self.subject.pipe.denoiser, []
        for time, question in zip(times, self.questions, strict=True):
            with told(part, _always(time), features):
                found.append(answer(part, question))
        return found

    @property
    def levels(self) -> list[NoiseLevel]:
        """Those of the questions."""
        log_snrs = [torch.tensor(one.log_snr or 0.0, dtype=torch.float64) for one in self.questions]
        return [NoiseLevel.at(value, Scaling.VP) for value in log_snrs]


def _reading(tried: _Denoiser) -> Explanation | None:
    """Any other reading of a network's output is a combination of the right one and the input, at each level."""
    fits, after = [], 0.0
    for found, question in zip(tried.answers(), tried.questions, strict=True):
        golden = torch.tensor(question.values, dtype=torch.float64)
        basis = torch.stack([golden, spread(question_input(question))], dim=1)
        weights = torch.linalg.lstsq(basis, found[:, None]).solution
        # What is not explained, in units of the right output, not of the wrong one.
        left = (found - (basis @ weights)[:, 0]) / weights[0].abs().clamp(min=0.05)
        after = max(after, difference(golden + left, question.values))
        fits.append((float(weights[0]), float(weights[1])))
    if after > tried.enough:
        return None
    gains = [gain for gain, _ in fits]
    is_pure = all(abs(mixed) < SAME for _, mixed in fits)
    text = "at log-SNR " + ", ".join(
        f"{question.log_snr:g} it is {gain:.2f} times the recorded output {mixed:+.2f} times the input"
        for question, (gain, mixed) in zip(tried.questions, fits, strict=True)
        if abs(gain - 1.0) > SAME or abs(mixed) > SAME
    )
    if any(gain < 0 for gain in gains):
        fault = "output is read with the opposite sign: it points the other way"
    elif is_pure and max(gains) - min(gains) < SAME * max(gains):
        fault = f"output is scaled by {gains[0]:.3g}"
    else:
        fault = "output is read as another prediction than it is"
    return Explanation(fault, text, tried.before, after)


def _time(tried: _Denoiser) -> Explanation | None:
    """The network is told the times that the contract promises."""
    promised = promised_training(tried.subject)
    actual = _actual_times(tried)
    if promised is None or actual is None:
        return None
    right = [promised.network_time(level) for level in tried.levels]
    after = tried.apart(tried.told(right))
    if after > tried.enough:
        return None
    pairs = [(float(is_told), float(time)) for is_told, time in zip(actual, right, strict=True)]
    text = "it is told " + ", ".join(f"{is_told:.4g} for {time:.4g}" for is_told, time in pairs)
    return Explanation(_mistold(pairs, promised), text, tried.before, after)


def _mistold(pairs: Sequence[tuple[float, float]], promised: Trained) -> str:
    """What is wrong with times, from (told, right)."""
    ratios = [is_told / time for is_told, time in pairs if abs(time) > 1e-9]
    if ratios and max(ratios) - min(ratios) < SAME_SCALE * abs(max(ratios)) and abs(ratios[0] - 1.0) > SAME:
        return f"time is multiplied by {ratios[0]:.3g} on its way to the embedding: another time scale"
    if ratios and max(abs(ratio - 1.0) for ratio in ratios) <= BFLOAT16_STEP:
        return "time is rounded to few digits"
    return f"times are not those of the noise schedule {promised.schedule.name} that it was trained under"


def _embedding(tried: _Denoiser) -> Explanation | None:
    """The network gets its time in sinusoids of a known convention."""
    times = _actual_times(tried)
    if times is None:
        return None
    for shift, cosine_first in product((1.0, 0.0), (True, False)):
        answers = []
        for index, time in enumerate(times):
            features = partial(_embedded, time=time, shift=shift, cosine_first=cosine_first)
            one = _Denoiser(tried.subject, [tried.questions[index]], tried.before)
            answers += one.told([time], features)
        after = tried.apart(answers)
        if after <= tried.enough:
            order = "cosines first" if cosine_first else "sines first"
            text = f"right with {order} and frequencies 10000 ** (-k / (half - {shift:g}))"
            fault = "time embedding follows another convention of sines, cosines and frequencies"
            return Explanation(fault, text, tried.before, after)
    return None


def _embedded(values: Tensor, *, time: Tensor, shift: float, cosine_first: bool) -> Tensor:
    rows = time.double().reshape(-1).expand(len(values))
    return sinusoids(rows, values.shape[1], shift, cosine_first=cosine_first)


def _input_scale(tried: _Denoiser) -> Explanation | None:
    """The network gets its input in another scale, at each level the one that fits best."""
    if affordable(tried.subject, 10 * SEARCHED, share=20.0) < SEARCHED:
        return None  # a large network; the scan over images has the usual scales
    fits = [_best_gain(tried.subject.pipe.denoiser, question) for question in tried.questions]
    after = max(apart for _, apart in fits)
    if after > tried.enough:
        return None
    text = "right when multiplied by " + ", ".join(
        f"{gain:.3g} at log-SNR {question.log_snr:g}"
        for (gain, _), question in zip(fits, tried.questions, strict=True)
    )
    return Explanation("input is not scaled as it should be", text, tried.before, after)


def _best_gain(denoiser: Denoiser, question: GoldenOutput) -> tuple[float, float]:
    """The gain of the input that gives the smallest difference, and that difference; searched ever more finely."""
    centre, width, apart = 0.0, SEARCHED_NATS, math.inf
    for _ in range(SEARCHES):
        logs = torch.linspace(centre - width, centre + width, SEARCHED, dtype=torch.float64).tolist()
        answers = answers_by_gain(denoiser, question, [math.exp(value) for value in logs])
        found = [difference(one, question.values) for one in answers]
        apart, centre = min(zip(found, logs, strict=True))
        width *= 2.0 / (SEARCHED - 1)
    return math.exp(centre), apart


def _actual_times(tried: _Denoiser) -> list[Tensor] | None:
    """What the network is told now, one for each question; None where it is told no time."""
    part, seen = tried.subject.pipe.denoiser, []
    for module, trained in keepers(part)[:1]:
        assert module is not None

        def record(level: NoiseLevel, trained: Trained = trained) -> Tensor:
            seen.append(trained.network_time(level))
            return seen[-1]

        with told(part, record):
            for question in tried.questions:
                answer(part, question)
    return seen if len(seen) == len(tried.questions) else None


def promised_training(subject: Subject) -> Trained | None:
    """How the contract says that the denoiser was trained; None where it does not say."""
    contract = subject.contract(Kind.DENOISER)
    if contract is None or contract.schedule is None or contract.prediction is None:
        return None
    config = dict(contract.schedule)
    try:
        schedule = build_schedule(str(config.pop("name")), config, Registry.discover())
    except (LdmError, KeyError):
        return None
    return Trained(contract.prediction, schedule, contract.time_scale or 1.0)


def _always(time: Tensor) -> NetworkTime:
    return lambda level: time.expand(level.alpha.shape)
