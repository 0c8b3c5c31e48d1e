"""Two pipelines against one another: cross their stages, share out the difference, and find where they part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm_registry.diagnostics.agreement import Match
from ldm_registry.diagnostics.crossed_runs import Crossings, Images, finest_parts, psnr_db
from ldm_registry.diagnostics.crossing import Agreement, Crossed, Crossing
from ldm_registry.diagnostics.diagnosis import Begun, subject_of
from ldm_registry.diagnostics.differing import differing_run
from ldm_registry.diagnostics.evidence import Picture, Stages
from ldm_registry.diagnostics.left_as_found import left_as_found
from ldm_registry.diagnostics.parity import Parity
from ldm_registry.diagnostics.parting import parity
from ldm_registry.diagnostics.recorded_run import Recorded, record
from ldm_registry.diagnostics.report import stages_name
from ldm_registry.diagnostics.shapley import shapley_values, subsets
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.pipeline import Pipeline
from ldm_registry.vocabulary import STAGES, Kind

MADE, MADE_QUICK = 6, 3
"""Images from noise."""
KNOWN, KNOWN_QUICK = 12, 6
"""Known images; single stages are compared on as many."""
LEAST_SHARE = 0.5
"""A stage with less of the difference is not named."""
LEAST_LEAD = 0.2
"""Of the named stage's share over the next one's."""
SAME = frozenset({Match.EQUAL, Match.ROUNDING})
UNSEEN = 0.5
"""Steps of 8-bit colour; a difference below it that comes with another floating-point type alone is rounding."""
ABSURD = 1.5
"""A crossing whose images are further from the first's than the second's are, by this factor, exchanges what belongs
together: latents of one meaning and a part that is made for another."""
GAIN = 4.0
"""Of difference maps."""


def diagnose_against(
    one: Pipeline,
    other: Pipeline,
    images: Tensor | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    stage: Kind | str | None = None,
    seed: int | None = None,
    quick: bool = False,
) -> Crossing:
    """Cross the stages of two pipelines: which one carries the difference of their images, and where do they part?

    Both make the same images (condition, size and seed of the first); both are left as they were found.

    Args:
        one: The first; differences are counted from it.
        other: The second, such as a conversion of the first.
        images: [N, C, H, W] in [-1, 1] that both should be able to deal with; None takes those of the first's spec,
            or what the first makes where it names none.
        condition: What the denoiser is told about these images, N each; None as for `diagnose`.
        stage: Look at one stage by itself.
        seed: Of all noise; None takes the first spec's.
        quick: Make fewer images.

    Returns:
        The verdict with all crossings. What cannot be crossed is in it, with the reason.

    Raises:
        SpecError: The images do not fit the first pipeline.
    """
    *_, last = diagnosing_against(
        one, other, images, condition=condition, stage=stage, seed=seed, quick=quick
    )
    assert isinstance(last, Crossing)
    return last


def diagnosing_against(
    one: Pipeline,
    other: Pipeline,
    images: Tensor | None = None,
    *,
    condition: Mapping[str, Tensor] | None = None,
    stage: Kind | str | None = None,
    seed: int | None = None,
    quick: bool = False,
) -> Iterator[Begun | Crossing]:
    """As `diagnose_against`, which drains it: says what is begun, and ends with the result."""
    begin = time.perf_counter()
    only = None if stage is None else Kind(stage)
    stages = STAGES if only is None else (only,)
    seed = one.spec.seed if seed is None else seed
    count = MADE_QUICK if quick else MADE
    before = len(stages) + 1
    yield Begun("a run of the first", 0, before + 1)
    with _as_found(one, other):
        recorded = record(one, count, seed)
        subject, are_known = _shown_to_both(one, recorded, images, condition, seed, quick=quick)
    crossings = Crossings(one, other, subject.images, subject.condition, count, seed, recorded)
    parities = []
    for index, kind in enumerate(stages):
        yield Begun(f"the {kind} of both, given the same", 1 + index, before + 1)
        with _as_found(one, other):
            parities.append(parity(one, other, kind, recorded, subject.images))
    identical = frozenset(found.stage for found in parities if found.is_identical)
    players = tuple(kind for kind in stages if kind not in identical)
    table = _Table(crossings, players, are_known)
    planned = list(subsets(players))
    for index, taken in enumerate(planned):
        about = f"{stages_name(taken)} exchanged" if taken else "the images of the first"
        yield Begun(about, before + index, before + len(planned))
        with _as_found(one, other):
            table.run(taken)
    from ldm_registry import __version__

    agreement, whom, confidence, shares = _verdict(parities, table)
    yield Crossing(
        (_name(one), _name(other)),
        agreement,
        whom,
        confidence,
        tuple(table.crossed),
        shares,
        tuple(parities),
        differing_run(one, other),
        identical,
        only,
        table.pictures(),
        tuple(_notes(are_known, table)),
        seed,
        count,
        len(subject.images) if are_known else 0,
        quick,
        time.perf_counter() - begin,
        __version__,
    )


@dataclass
class _Table:
    """Every crossing that was tried, and what it made."""

    crossings: Crossings
    players: tuple[Kind, ...]
    are_known: bool

    def __post_init__(self) -> None:
        self.crossed: list[Crossed] = []
        self.made: dict[Stages, Images] = {}

    @property
    def whole(self) -> Stages:
        return frozenset(self.players)

    @property
    def differences(self) -> dict[Stages, float]:
        return {one.taken: one.difference for one in self.crossed if one.difference is not None}

    def run(self, taken: Stages) -> None:
        """Add one crossing, or why there is none."""
        reasons = self.crossings.misfits(taken)
        if reasons:
            self.crossed.append(Crossed(taken, None, reasons=reasons))
            return
        try:
            images = self.crossings.run(taken)
            difference = images.difference(self.made.get(frozenset(), images))
        except Exception as error:  # what cannot be crossed is a finding, not a crash
            self.crossed.append(Crossed(taken, None, reasons=(f"{type(error).__name__}: {error}",)))
            return
        self.made[taken] = images
        found = Crossed(taken, difference)
        if self.are_known:
            known = self.crossings.images
            found = replace(
                found,
                round_trip_db=psnr_db(images.returned, known),
                regeneration_db=psnr_db(images.regenerated, known),
            )
        self.crossed.append(found)

    def parts(self) -> tuple[Stages, ...]:
        """The smallest groups of stages that can be exchanged by themselves without absurd images."""
        differences = self.differences
        limit = ABSURD * differences.get(self.whole, 0.0)
        sound = [taken for taken, difference in differences.items() if difference <= limit]
        return finest_parts(self.players, sound)

    def pictures(self) -> tuple[Picture, ...]:
        """Rows of images: from noise, then what differs from the first."""
        shown = [taken for taken in (frozenset(), self.whole) if taken in self.made]
        shown += [taken for taken in self.made if len(taken) == 1 and taken not in shown]
        pictures = []
        for taken in dict.fromkeys(shown):
            images = self.made[taken]
            title = self._title(taken)
            pictures.append(
                Picture(title, f"{title}: {len(images.made)} images in a row", _strip(images.made))
            )
            if taken:
                gap = (images.made - self.made[frozenset()].made).abs() * GAIN - 1.0
                about = f"what differs from the first, enlarged {GAIN:.0f} times; black: nothing"
                pictures.append(Picture(f"{title}, difference", about, _strip(gap)))
        return tuple(pictures)

    def _title(self, taken: Stages) -> str:
        if not taken:
            return "the first"
        is_second = taken == self.whole and len(self.players) > 1
        return "the second" if is_second else f"the first with the {stages_name(taken)} of the second"


def _verdict(
    parities: list[Parity], table: _Table
) -> tuple[Agreement, Stages, float, Mapping[Stages, float]]:
    """How it ends, who carries the difference, their share, and all shares."""
    nobody: Stages = frozenset()
    whole = table.differences.get(table.whole)
    matches = {one.match for one in parities}
    if whole is None:
        return Agreement.UNKNOWN, nobody, 0.0, {}
    parts = table.parts()
    joined = {chosen: frozenset().union(*chosen) for chosen in subsets(parts)}
    worth = {chosen: table.differences[taken] for chosen, taken in joined.items()}
    shares = shapley_values(parts, worth)
    if matches <= {Match.EQUAL} and whole == 0.0:
        return Agreement.EQUAL, nobody, 1.0, shares
    is_small = whole < UNSEEN and all(one.is_precise_otherwise or one.match in SAME for one in parities)
    if matches != {Match.EQUAL} and (matches <= SAME or is_small):
        return Agreement.ROUNDING, nobody, 1.0, shares
    if whole <= 0.0:
        different = frozenset(one.stage for one in parities if one.match is not Match.EQUAL)
        alone = len(different) == 1
        return (
            Agreement.STAGE if alone else Agreement.SEVERAL,
            different if alone else nobody,
            float(alone),
            shares,
        )
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    fractions = [min(max(share / whole, 0.0), 1.0) for _, share in ranked]
    lead = fractions[0] - (fractions[1] if len(fractions) > 1 else 0.0)
    if fractions[0] < LEAST_SHARE or lead < LEAST_LEAD:
        return Agreement.SEVERAL, nobody, fractions[0], shares
    whom = ranked[0][0]
    return (Agreement.STAGE if len(whom) == 1 else Agreement.TOGETHER), whom, fractions[0], shares


def _shown_to_both(
    one: Pipeline,
    recorded: Recorded,
    images: Tensor | None,
    condition: Mapping[str, Tensor] | None,
    seed: int,
    *,
    quick: bool,
) -> tuple[Subject, bool]:
    """Known images, spread over the set; what the first makes, where none are known."""
    are_known = images is not None or one.spec.data is not None
    if not are_known:
        with torch.inference_mode():
            images = Subject(one, torch.empty(0), {}).decode(recorded.latents.float().cpu()).clamp(-1, 1)
        images = images.nan_to_num()
    subject = subject_of(one, images, condition, None, seed, quick=quick)
    most = min(KNOWN_QUICK if quick else KNOWN, len(subject.images))
    rows = torch.linspace(0, len(subject.images) - 1, most).round().long()
    told = {name: value[rows] for name, value in subject.condition.items()}
    return replace(subject, images=subject.images[rows], condition=told), are_known


def _notes(are_known: bool, table: _Table) -> Iterator[str]:
    if not are_known:
        yield "no known images: the first one's own were encoded, and which of the two is better is not said"
    for part in table.parts() if table.whole in table.differences else ():
        if len(part) > 1:
            yield (
                f"{stages_name(part)} of the two belong together: exchanged one by one they do not fit, or make images "
                "that neither pipeline makes"
            )


def _as_found(one: Pipeline, other: Pipeline) -> ExitStack:
    stack = ExitStack()
    stack.enter_context(left_as_found(one))
    stack.enter_context(left_as_found(other))
    return stack


def _name(pipe: Pipeline) -> str:
    return pipe.spec.source.stem if pipe.spec.source else "pipeline"


def _strip(images: Tensor, count: int = 8) -> Tensor:
    shown = images[:count].clamp(-1, 1)
    shown = shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown[:, :3]
    return torch.cat(list(shown), dim=2).float().cpu()
