"""HYP: whether the denoiser works best under the interpretation that it is used with, among many."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from ldm_registry.diagnostics.denoiser_explanations import explanation, promised_training
from ldm_registry.diagnostics.evidence import Healthy, Measurement, Metric, Suspicion
from ldm_registry.diagnostics.probe import Probe, affordable, mse_per_image, probes, vp_level, within
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.diagnostics.telling import NetworkTime, keepers, swap_halves, time_features, told
from ldm_registry.diagnostics.time_conventions import conventions, sinusoids
from ldm_registry.diagnostics.wiener import Wiener
from ldm_registry.interfaces import NoiseLevel, Trained, broadcast
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind, Prediction, Scaling

DECIDED_NATS = 0.08
"""Margin of log error from which another interpretation counts as better; healthy checkpoints stay below 0.02."""
STANDARD_ERRORS = 3.0
LOG_SNRS = (-3.0, -1.5, 0.0, 1.5, 3.0)
FLOOR = 0.02
"""Of the Wiener error: errors below it count as equal, so that an exact oracle has a finite logarithm."""
STREAM = 21
CONFIGURED_TIME = "as configured"
TRUE_LEVEL = "of the level that the input has"
WORSE_THAN_WIENER_NATS = 0.1
OVERWHELMING_NATS = 0.7
PROVEN = 0.99
"""Strength of a misuse without which the recorded outputs come back."""

_SCALES = {
    "as configured": (None, 0),
    "multiplied by the std of alpha = 1": (Scaling.VE, 1),
    "divided by the std of alpha = 1": (Scaling.VE, -1),
    "multiplied by the std of a flow": (Scaling.FLOW, 1),
    "divided by the std of a flow": (Scaling.FLOW, -1),
}


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One way to use a network.

    Attributes:
        prediction: What its output is read as.
        time: What it is told, in words.
        scale: What its input is multiplied by, in words.
    """

    prediction: Prediction
    time: str
    scale: str


@dataclass(frozen=True, slots=True)
class Scan:
    """The outcome of all of them.

    Attributes:
        configured: The one that the pipeline uses.
        errors: For each hypothesis, log errors relative to the Wiener denoiser's, float64 [images].
        zero: The same for a denoiser that always answers the mean, [].
    """

    configured: Hypothesis
    errors: dict[Hypothesis, Tensor]
    zero: float

    def score(self, hypothesis: Hypothesis) -> float:
        """Mean log error relative to the Wiener denoiser's, nats."""
        return float(self.errors[hypothesis].mean())

    @property
    def best(self) -> Hypothesis:
        """The one with the smallest error; of those that tie within rounding, the nearest to the configured."""
        lowest = min(self.score(one) for one in self.errors)
        ties = [one for one in self.errors if self.score(one) <= lowest + 1e-6]
        return min(ties, key=lambda one: len(differences(one, self.configured)))

    @property
    def margin(self) -> tuple[float, float]:
        """By how much the best beats the configured one, and the standard error of that over images; nats."""
        gap = self.errors[self.configured] - self.errors[self.best]
        spread = float(gap.std()) / math.sqrt(len(gap)) if len(gap) > 1 else 0.0
        return float(gap.mean()), spread


@dataclass(frozen=True, slots=True)
class _Telling:
    name: str
    time: NetworkTime | None = None
    embedding: tuple[float, bool] | None = None
    """Shift, and whether the cosines come first; recomputed from the time."""
    is_swapped: bool = False


@torch.inference_mode()
def measure_hypotheses(subject: Subject) -> Measurement:
    """Denoise under every interpretation of output, time, embedding and input; name the one that fits best."""
    begin = time.perf_counter()
    found = scan(subject)
    margin, error = found.margin
    healthy = Healthy(
        None, max(DECIDED_NATS, STANDARD_ERRORS * error), "margin under which interpretations count as equal"
    )
    metrics = (
        Metric("hypotheses", float(len(found.errors)), "interpretations of the denoiser that were tried"),
        Metric("margin_nats", margin, "log error that the best interpretation saves", healthy),
        Metric("margin_standard_error_nats", error, "how far that may be chance"),
        Metric(
            "best_over_wiener_nats",
            found.score(found.best),
            "log error of the best over the Wiener denoiser's",
        ),
        Metric("configured_over_wiener_nats", found.score(found.configured), "the same as it is used"),
    )
    return Measurement(
        "HYP",
        "Is the denoiser used as it was trained?",
        frozenset({Kind.DENOISER}),
        metrics,
        (*_explained(subject), *_suspicions(found)),
        seconds=time.perf_counter() - begin,
    )


def scan(subject: Subject) -> Scan:
    """The errors under every hypothesis: all times at the configured input scale, all scales at the best times."""
    levels = within(subject, LOG_SNRS)
    rows = affordable(
        subject, 24 * len(levels), least=4 if subject.quick else 9, share=1.0 if subject.quick else 3.0
    )
    if rows < 3 * len(levels):
        levels = levels[:: max(len(levels) // 2, 1)][: max(2, rows // 3)]
    count = max(2, min(rows // len(levels), len(subject.images)))
    tried = [_Trial(subject, probe, levels) for probe in probes(subject, count, STREAM)]
    plain = _Telling(CONFIGURED_TIME)
    first = [trial.errors(plain, "as configured") for trial in tried]
    chosen = min(range(len(tried)), key=lambda index: min(float(e.mean()) for e in first[index].values()))
    trial, errors = tried[chosen], dict(first[chosen])
    tellings = [plain, *_tellings(subject, trial)]
    for telling in tellings[1:]:
        errors.update(trial.errors(telling, "as configured"))
    ranked = sorted(
        tellings, key=lambda one: min(float(errors[key].mean()) for key in errors if key.time == one.name)
    )
    few = [plain, *[one for one in ranked if one is not plain][: 1 if subject.quick else 2]]
    for telling, scale in product(few, list(_SCALES)[1:]):
        errors.update(trial.errors(telling, scale))
    configured = Hypothesis(subject.pipe.denoiser.prediction, CONFIGURED_TIME, "as configured")
    return Scan(configured, errors, trial.zero)


class _Trial:
    """Latents at several levels, ready to be denoised in one batch under any hypothesis."""

    def __init__(self, subject: Subject, probe: Probe, log_snrs: Sequence[float]) -> None:
        self._subject, self._probe = subject, probe
        count, repeats = len(probe.latents), len(log_snrs)
        wiener = Wiener.of(subject.latents)
        at = [vp_level(value) for value in log_snrs]
        self.level = NoiseLevel(
            torch.stack([one.alpha for one in at]).repeat_interleave(count),
            torch.stack([one.sigma for one in at]).repeat_interleave(count),
        )
        self.condition = {
            name: value.repeat(repeats, *[1] * (value.ndim - 1)) for name, value in probe.condition.items()
        }
        self.latents = probe.latents.repeat(repeats, 1, 1, 1)
        self.z = torch.cat([probe.at(one) for one in at])
        self._shape = (repeats, count)
        self._wiener = torch.tensor([max(wiener.expected_mse(one), 1e-12) for one in at]).double()[:, None]
        centre = probe.latents.mean((0, 2, 3), keepdim=True)
        self.zero = float(self._log_errors(centre.expand_as(self.z)).mean())

    def _log_errors(self, x0: Tensor) -> Tensor:
        """Log error relative to Wiener's, averaged over levels: [images]."""
        error = mse_per_image(x0, self.latents).view(self._shape)
        return ((error + FLOOR * self._wiener) / ((1.0 + FLOOR) * self._wiener)).clamp(max=1e12).log().mean(0)

    def errors(self, telling: _Telling, scale: str) -> dict[Hypothesis, Tensor]:
        """Of all readings of one forward pass: [images] each."""
        scaling, sign = _SCALES[scale]
        z = self.z
        if scaling is not None:
            std = NoiseLevel.at(self.level.log_snr, scaling).std
            z = z * broadcast(std**sign, z)
        with told(self._subject.pipe.denoiser, telling.time, _features(telling, self._times(telling))):
            output = self._subject.predict(z, self.level, self.condition)
        return {
            Hypothesis(prediction, telling.name, scale): self._log_errors(
                to_x0(prediction, output, self.z, self.level)
            )
            for prediction in Prediction
        }

    def _times(self, telling: _Telling) -> Tensor | None:
        return telling.time(self.level) if telling.time is not None else None


def _features(telling: _Telling, times: Tensor | None) -> partial[Tensor] | None:
    if telling.is_swapped:
        return partial(swap_halves)
    if telling.embedding is None or times is None:
        return None
    shift, cosine_first = telling.embedding
    return partial(_embedded, times=times, shift=shift, cosine_first=cosine_first)


def _embedded(values: Tensor, *, times: Tensor, shift: float, cosine_first: bool) -> Tensor:
    return sinusoids(times, values.shape[1], shift, cosine_first=cosine_first)


def _tellings(subject: Subject, trial: _Trial) -> Iterator[_Telling]:
    """Every other time that the network could be told."""
    known = keepers(subject.pipe.denoiser)
    if not known:
        return
    trained = known[0][1]
    yield _Telling(TRUE_LEVEL, _always(trained.network_time(trial.level)))
    yield from _rescaled(trained)
    promised = promised_training(subject)
    if promised is not None:
        name = promised.schedule.name
        yield _Telling(f"of schedule {name}, as in the contract", _always(promised.network_time(trial.level)))
    for name, convention in conventions().items():
        yield _Telling(f"of schedule {name}", _always(convention(trial.level.log_snr)))
    yield from _embeddings(subject, trial, trained)


def _always(times: Tensor) -> NetworkTime:
    """The times of the levels that the latents really have, whatever a part in between makes of the level."""
    return lambda level: times


def _rescaled(trained: Trained) -> Iterator[_Telling]:
    ends = trained.time_scale * torch.tensor(trained.schedule.time_range, dtype=torch.float64)
    yield _Telling("multiplied by 1000", lambda level: 1000.0 * trained.network_time(level))
    yield _Telling("divided by 1000", lambda level: trained.network_time(level) / 1000.0)
    yield _Telling("running backwards", lambda level: ends.sum() - trained.network_time(level))


def _embeddings(subject: Subject, trial: _Trial, trained: Trained) -> Iterator[_Telling]:
    one = {name: value[:1] for name, value in trial.condition.items()}
    level = NoiseLevel(trial.level.alpha[0], trial.level.sigma[0])
    if time_features(subject, trial.z[:1], level, one) is None:
        return
    yield _Telling("with sines and cosines swapped", is_swapped=True)
    for shift, cosine_first in product((0.0, 1.0), (True, False)):
        order = "cosines first" if cosine_first else "sines first"
        name = f"in sinusoids with shift {shift:g}, {order}"
        yield _Telling(name, _always(trained.network_time(trial.level)), (shift, cosine_first))


def differences(one: Hypothesis, configured: Hypothesis) -> list[str]:
    """In words of the field, what is wrong with the configured hypothesis if another is right."""
    found = []
    if one.prediction is not configured.prediction:
        found.append(_misread(one.prediction, configured.prediction))
    if one.time != configured.time:
        found.append(_mistold(one.time))
    if one.scale != configured.scale:
        found.append(f"input is not scaled: right when {one.scale}")
    return found


def _misread(true: Prediction, said: Prediction) -> str:
    pair = {true, said}
    if pair == {Prediction.VELOCITY, Prediction.REVERSE_VELOCITY}:
        return "velocity points the other way"
    if pair == {Prediction.V, Prediction.F}:
        return "v has the opposite sign"
    return f"{true} read as {said}"


def _mistold(time: str) -> str:
    match time:
        case "multiplied by 1000":
            return "time is given in [0, 1] to an embedding built for [0, 1000]"
        case "divided by 1000":
            return "time is given in [0, 1000] to an embedding built for [0, 1]"
        case "running backwards":
            return "time runs backwards"
        case "of the level that the input has":
            return "noise level does not reach the network as it is"
        case "with sines and cosines swapped":
            return "sines and cosines of the time embedding are swapped"
    if time.startswith("of schedule "):
        return f"noise schedule is not {time.removeprefix('of schedule ')}"
    return f"time embedding follows another convention: right when {time}"


def _explained(subject: Subject) -> Iterator[Suspicion]:
    """What golden outputs say, where there are any: they need no images, and show a mild misuse too."""
    found = explanation(subject)
    if found is not None:
        evidence = (
            f"with that undone its outputs differ by {found.after:.2g} (relative) from the recorded ones, as it is "
            f"used by {found.before:.2g}; {found.evidence}"
        )
        yield Suspicion(frozenset({Kind.DENOISER}), found.fault, PROVEN, evidence)


def _suspicions(found: Scan) -> Iterator[Suspicion]:
    margin, error = found.margin
    best = found.best
    wrong = differences(best, found.configured)
    if not wrong or margin < DECIDED_NATS or margin < STANDARD_ERRORS * error:
        return
    score = found.score(best)
    # An interpretation that is itself no better than answering the mean explains nothing, nor does one that is
    # but a little better than the configured one and still worse than a linear filter: a damaged network has such.
    if score > found.zero - DECIDED_NATS or (score > WORSE_THAN_WIENER_NATS and margin < OVERWHELMING_NATS):
        return
    evidence = (
        f"of {len(found.errors)} interpretations another one has {math.exp(-margin):.3g} times the error of the "
        f"configured one (margin {margin:.2f} nats, standard error {error:.2f})"
    )
    strength = 1.0 - 0.5 * math.exp(-(margin - DECIDED_NATS) / 0.3)
    yield Suspicion(frozenset({Kind.DENOISER}), "; ".join(wrong), min(strength, 0.98), evidence)
