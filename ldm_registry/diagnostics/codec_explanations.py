"""Under which change of pixels or of latents does half a codec put out again what it did when it was saved?

A golden output that is missed says that something is wrong; the simplest change under which it comes back says what.
Nothing is taken from a list of known mistakes: scales, shifts and mixings are solved for, and turns are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ldm_registry.contracts import GoldenOutput
from ldm_registry.diagnostics.golden_outputs import differences, tolerance
from ldm_registry.diagnostics.latent_link import PLACE, TURNS
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.golden import question_input, spread
from ldm_registry.vocabulary import Kind

EXPLAINED = 0.25
"""Share of the difference that an explanation may leave."""
WORTH = 0.3
"""Of what a simpler explanation leaves, a richer one may leave at most this share."""
PROOF = 0.02
"""Share below which nothing richer is looked for."""
ROUNDS = 12
STEPS = (0.02, 0.2, 0.1, 0.05)
"""Of the finite differences; a decoder that quantises answers to the larger ones alone."""
LOG_SCALES = 17
"""Tried from `-LARGEST_LOG_SCALE` to `LARGEST_LOG_SCALE`, and again around the best."""
LARGEST_LOG_SCALE = 0.8
BUDGET_S, BUDGET_QUICK_S = 5.0, 2.5
"""After which what was found has to do."""
PURE = 0.05
"""Largest deviation from whole numbers in a permutation of channels."""
LARGEST_GROUP = 8
"""Channels up to which all mixings are solved for: 72 numbers from 128."""

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A change that brings golden outputs back.

    Attributes:
        kind: Encoder or decoder.
        fault: What is wrong, then.
        before: Relative difference as it is.
        left: With the change undone.
        mixing: Where latents are mixed: from the latents of this half to the right ones [C, C].
    """

    kind: Kind
    fault: str
    before: float
    left: float
    mixing: Tensor | None = None

    @property
    def evidence(self) -> str:
        """One phrase."""
        return (
            f"its golden outputs, {self.before:.2g} (relative) away, come back to within {self.left:.1g} when that is "
            "undone"
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """One half and what it should put out.

    Attributes:
        run: Inputs [N, C, H, W] to outputs, float32.
        inputs: [Q, C, H, W].
        golden: [Q, values].
        shape: Of one output (C, H, W).
        deadline: Of the search, on the clock of `time.perf_counter`.
    """

    run: Change
    inputs: Tensor
    golden: Tensor
    shape: tuple[int, ...]
    deadline: float

    @property
    def is_late(self) -> bool:
        """Whether time is up."""
        return time.perf_counter() > self.deadline

    def miss(self, outputs: Tensor) -> float:
        """Relative RMS difference of outputs [Q, C, H, W]."""
        return self.distance(torch.stack([spread(one) for one in outputs]))

    def distance(self, values: Tensor) -> float:
        """The same for values [Q, values]."""
        scale = self.golden.square().mean().sqrt().clamp(min=1e-4)
        value = float((values - self.golden).square().mean().sqrt() / scale)
        return value if math.isfinite(value) else math.inf


def explanation(subject: Subject, kind: Kind, hint: Tensor | None = None) -> Explanation | None:
    """The simplest change that explains why half a codec misses its golden outputs; None where none does.

    Args:
        subject: Under diagnosis.
        kind: Encoder or decoder.
        hint: A mixing [C, C] of latents to try on a decoder: what undoes that of its encoder.
    """
    found = differences(subject, kind)
    before = max((value for _, value in found), default=0.0)
    if not tolerance(subject, kind) < before < math.inf:
        return None
    question = _question(subject, kind, [golden for golden, _ in found])
    as_is = question.run(question.inputs)
    if not bool(as_is.isfinite().all()):
        return None
    compresses = subject.pipe.decoder.latent_space.stride > 1
    tries = (
        _of_encoder(question, as_is, compresses=compresses)
        if kind is Kind.ENCODER
        else _of_decoder(question, as_is, hint, compresses=compresses)
    )
    best: Explanation | None = None
    missed = question.miss(as_is)
    for fault, left, mixing in tries:
        if left > EXPLAINED * missed or (best is not None and left > WORTH * best.left):
            continue
        best = Explanation(kind, fault, before, left, mixing)
        if left < PROOF * missed:
            break
    return best


_Try = tuple[str, float, Tensor | None]


def _question(subject: Subject, kind: Kind, golden: Sequence[GoldenOutput]) -> _Question:
    run = subject.encode if kind is Kind.ENCODER else subject.decode
    inputs = torch.cat([question_input(one) for one in golden])
    outputs = torch.tensor([one.values for one in golden], dtype=torch.float64, device="cpu")
    deadline = time.perf_counter() + (BUDGET_QUICK_S if subject.quick else BUDGET_S)
    return _Question(run, inputs, outputs, tuple(run(inputs[:1]).shape[1:]), deadline)


def _of_encoder(question: _Question, as_is: Tensor, *, compresses: bool) -> Iterator[_Try]:
    """Pixels of another range, turned or in another order; then latents scaled, shifted, turned or mixed."""
    yield _pixel_range_in(question)
    if compresses:
        yield from _latents_out(question, as_is)
    yield from _turned_out(question, as_is, "latents")
    channels = question.inputs.shape[1]
    for order in [*permutations(range(channels))][1:] if channels == 3 else []:
        left = question.miss(question.run(question.inputs[:, list(order)]))
        yield f"its colour channels are in another order {order}", left, None
    for name, turn in TURNS.items():
        if name != PLACE and "cell" not in name:
            left = question.miss(question.run(turn(question.inputs)))
            yield f"the image reaches it {name}", left, None


def _of_decoder(
    question: _Question, as_is: Tensor, hint: Tensor | None, *, compresses: bool
) -> Iterator[_Try]:
    """Pixels of another range, turned or in another order; then latents scaled, shifted, turned or mixed."""
    yield _pixel_range_out(question, as_is)
    yield from _turned_out(question, as_is, "images")
    channels = as_is.shape[1]
    for order in [*permutations(range(channels))][1:] if channels == 3 else []:
        yield f"its colour channels are in another order {order}", question.miss(as_is[:, list(order)]), None
    if compresses:
        yield from _latents_in(question, hint)


def _pixel_range_out(question: _Question, as_is: Tensor) -> _Try:
    values = torch.stack([spread(one) for one in as_is])
    x, y = values.flatten(), question.golden.flatten()
    # The right pixels by least squares from those that came, and the other way round for the words.
    gain = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum().clamp(min=1e-12))
    offset = float(y.mean()) - gain * float(x.mean())
    return range_words("output", gain, offset), question.distance(gain * values + offset), None


def _pixel_range_in(question: _Question) -> _Try:
    def change(parameters: Tensor) -> Tensor:
        return parameters[0].exp() * question.inputs + parameters[1]

    solved, left = _solved(question, change, 2, (torch.zeros(2), torch.tensor([math.log(2.0), -1.0])))
    return range_words("input", math.exp(float(solved[0])), float(solved[1])), left, None


def range_words(side: str, gain: float, offset: float) -> str:
    """Words for pixels that `gain * x + offset` puts right."""
    low, high = ((end - offset) / gain if abs(gain) > 1e-6 else 0.0 for end in (-1.0, 1.0))
    return f"pixel range of its {side} is [{low:.2f}, {high:.2f}] instead of [-1, 1]"


def _latents_out(question: _Question, as_is: Tensor) -> Iterator[_Try]:
    """Latents that came, to the right ones: scaled, shifted, both, mixed; all linear, so solved at once."""
    channels, height, width = question.shape
    at = spread(torch.arange(channels * height * width, dtype=torch.float64, device="cpu")).long()
    channel, cell = at // (height * width), at % (height * width)
    cells = as_is.double().flatten(2)[:, :, cell].movedim(1, -1).flatten(0, 1)
    channel = channel.repeat(len(as_is))
    own = cells.gather(1, channel[:, None]).squeeze(1)
    wanted = question.golden.flatten()
    one_hot = torch.nn.functional.one_hot(channel, channels).double()
    scale = float((own * wanted).sum() / own.square().sum().clamp(min=1e-12))
    yield _scaled(1.0 / scale if scale else math.inf), _left(wanted - scale * own, wanted), None
    shift = _least_squares(one_hot, wanted - own)
    yield _shifted(-shift), _left(wanted - own - one_hot @ shift, wanted), None
    both = torch.cat([own[:, None], one_hot], 1)
    solved = _least_squares(both, wanted)
    said = f"{_scaled(1.0 / float(solved[0] or 1.0))} and shifted by {_listed(-solved[1:] / float(solved[0] or 1.0))}"
    yield said, _left(wanted - both @ solved, wanted), None
    if channels > LARGEST_GROUP:
        return
    grid = (one_hot[:, :, None] * cells[:, None, :]).flatten(1)
    solved = _least_squares(torch.cat([grid, one_hot], 1), wanted)
    matrix = solved[: channels * channels].reshape(channels, channels)
    left = _left(wanted - torch.cat([grid, one_hot], 1) @ solved, wanted)
    yield _mixed(matrix), left, matrix


def _mixed(matrix: Tensor) -> str:
    """What a matrix [c, c] between channels does, in words."""
    whole = matrix.double().round()
    is_permutation = bool((whole.sum(0) == 1).all() and (whole.sum(1) == 1).all() and (whole >= 0).all())
    if is_permutation and float((matrix.double() - whole).abs().max()) < PURE:
        return "its latents are permuted across channels"
    return "its latents are mixed across channels, as those of another codec"


def _latents_in(question: _Question, hint: Tensor | None) -> Iterator[_Try]:
    """Latents that go in, to those that the decoder takes them for: scaled, shifted, both, turned, mixed."""
    z = question.inputs
    channels = z.shape[1]

    def shifted(parameters: Tensor) -> Tensor:
        return z + parameters[:, None, None]

    def both(parameters: Tensor) -> Tensor:
        return parameters[0].exp() * z + parameters[1:, None, None]

    # A quantising decoder has no slope: so a scan, ever finer.
    log_scale, left, width = 0.0, math.inf, LARGEST_LOG_SCALE
    for _ in range(3):
        for one in torch.linspace(log_scale - width, log_scale + width, LOG_SCALES).tolist():
            if (miss := question.miss(question.run(math.exp(one) * z))) < left:
                log_scale, left = one, miss
        width *= 2.0 / LOG_SCALES
    # What the change undoes is the fault.
    yield _scaled(math.exp(-log_scale)), left, None
    solved, left = _solved(question, shifted, channels, [torch.zeros(channels)])
    yield _shifted(-solved), left, None
    if hint is not None:
        left = question.miss(question.run(torch.einsum("dc,bchw->bdhw", hint.float(), z)))
        yield _mixed(hint), left, hint
    for name, turn in TURNS.items():
        if name != PLACE and not question.is_late:
            yield f"its latents are {name}", question.miss(question.run(turn(z))), None
    if question.is_late:
        return
    solved, left = _solved(question, both, channels + 1, [torch.zeros(channels + 1)])
    yield f"{_scaled(math.exp(-float(solved[0])))} and shifted by {_listed(-solved[1:])}", left, None
    if channels <= LARGEST_GROUP and not question.is_late:
        eye = torch.eye(channels).flatten()

        def mixed(parameters: Tensor) -> Tensor:
            return torch.einsum("dc,bchw->bdhw", parameters.reshape(channels, channels), z)

        solved, left = _solved(question, mixed, channels * channels, [eye])
        matrix = solved.reshape(channels, channels)
        yield _mixed(matrix), left, matrix


def _turned_out(question: _Question, as_is: Tensor, noun: str) -> Iterator[_Try]:
    for name, turn in TURNS.items():
        if name != PLACE:
            yield f"its {noun} are {name}", question.miss(turn(as_is)), None


def _solved(
    question: _Question, change: Callable[[Tensor], Tensor], count: int, starts: Sequence[Tensor]
) -> tuple[Tensor, float]:
    """Parameters [count] of a change of the input that bring the golden outputs nearest, by Levenberg-Marquardt."""

    def values(tries: Sequence[Tensor]) -> Tensor:
        outputs = torch.split(question.run(torch.cat([change(one) for one in tries])), len(question.inputs))
        return torch.stack([torch.stack([spread(one) for one in part]).flatten() for part in outputs])

    golden = question.golden.flatten()
    first = values(starts)
    misses = (first - golden).square().mean(1).nan_to_num(nan=math.inf)
    best, now = starts[int(misses.argmin())].float(), first[int(misses.argmin())]
    steps, damping = list(STEPS), 1e-3
    for _ in range(ROUNDS):
        if question.is_late or not steps:
            break
        moved = values([best + steps[0] * row for row in torch.eye(count)])
        slope = ((moved - now) / steps[0]).nan_to_num()
        gram, right = slope @ slope.T, slope @ (golden - now)
        trust = [damping * factor for factor in (1.0, 30.0, 1000.0)]
        eye = gram.diagonal().mean().clamp(min=1e-12) * torch.eye(count, dtype=gram.dtype)
        tries = [best + torch.linalg.solve(gram + one * eye, right).float() for one in trust]
        made = values(tries)
        errors = (made - golden).square().mean(1).nan_to_num(nan=math.inf)
        index, error = int(errors.argmin()), float((now - golden).square().mean())
        gained = error - float(errors[index])
        if not gained > 0.05 * error:
            steps.pop(0)
        if gained > 0:
            best, now, damping = tries[index], made[index], max(trust[index] / 3.0, 1e-6)
    return best, question.distance(now.reshape(question.golden.shape))


def _least_squares(design: Tensor, wanted: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.lstsq(design, wanted[:, None], driver="gelsd").solution.squeeze(1)
    return solved


def _left(rest: Tensor, wanted: Tensor) -> float:
    return float(rest.square().mean().sqrt() / wanted.square().mean().sqrt().clamp(min=1e-4))


def _scaled(factor: float) -> str:
    return f"its latents are scaled by {factor:.2f}"


def _shifted(values: Tensor) -> str:
    return f"its latents are shifted by {_listed(values)}"


def _listed(values: Tensor) -> str:
    return "(" + ", ".join(f"{value:+.2f}" for value in values[:16].tolist()) + ")"
