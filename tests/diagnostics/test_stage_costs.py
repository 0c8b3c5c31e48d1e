from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject

from ldm_registry.assembly import assemble
from ldm_registry.costs.resident_memory import forget_peak, peak_resident_mib, resident_mib
from ldm_registry.costs.stopwatch import DeviceEvents, Stopwatch, WallClock, stopwatch
from ldm_registry.diagnostics.diagnosis import subject_of
from ldm_registry.diagnostics.stage_costs import stage_costs
from ldm_registry.diagnostics.subject import Subject
from ldm_registry.spec import load_spec, swap
from ldm_registry.vocabulary import STAGES, Kind

CPU = torch.device("cpu")
STEPS = 5


@pytest.fixture(scope="module")
def subject() -> Subject:
    short = assemble(swap(load_spec("emoji-kl-dit"), scheduler_config={"steps": STEPS}))
    return replace(emoji_subject("emoji-kl-dit"), pipe=short)


class Ticks(Stopwatch):
    """Every mark is a millisecond after the one before; the peak grows with every mark since it was forgotten."""

    clock, memory = "ticks", "marks"

    def __init__(self) -> None:
        self.now, self.forgotten, self.settled, self.asked_early = 0, 0, -1, False

    def mark(self) -> int:
        self.now += 1
        return self.now

    def settle(self) -> None:
        self.settled = self.now

    def elapsed_ms(self, start: int, end: int) -> float:
        self.asked_early |= max(start, end) > self.settled
        return float(end - start)

    def forget_peak(self) -> None:
        self.forgotten = self.now

    def peak_mib(self) -> float:
        return 1.0 + self.now - self.forgotten


@pytest.mark.plugins
def test_every_stage_is_charged_for_what_happens_between_its_marks(subject: Subject) -> None:
    ticks = Ticks()
    found = stage_costs(subject, lambda device: ticks)
    assert [one.stage for one in found.stages] == list(STAGES)
    encoder, denoiser, scheduler, decoder = found.stages
    assert (encoder.ms, encoder.calls, encoder.peak_mib) == (1.0, 1, 3.0)
    # Each step marks the beginning and the end of its call, its own end, and where the decoder may begin.
    assert (denoiser.ms, denoiser.calls, denoiser.peak_mib) == (STEPS, STEPS, 3.0)
    assert (scheduler.ms, scheduler.calls) == (4 * STEPS - 1 - STEPS, STEPS)
    assert (decoder.ms, decoder.calls, decoder.peak_mib) == (1.0, 1, 2.0)
    assert (found.clock, found.memory) == ("ticks", "marks")


@pytest.mark.plugins
def test_times_are_only_asked_for_when_the_queue_is_empty(subject: Subject) -> None:
    ticks = Ticks()
    stage_costs(subject, lambda device: ticks)
    assert ticks.settled > 0
    assert not ticks.asked_early


@pytest.mark.plugins
def test_on_the_wall_clock_the_stages_take_less_than_the_whole_and_no_hook_stays(subject: Subject) -> None:
    found = stage_costs(subject)
    assert all(one.ms > 0.0 for one in found.stages)
    assert sum(one.ms for one in found.stages) <= found.wall_ms
    assert not subject.pipe.denoiser._forward_hooks
    assert not subject.pipe.denoiser._forward_pre_hooks
    weights = {one.stage: one.weights_mib for one in found.stages}
    parameters = sum(tensor.numel() for tensor in subject.pipe.denoiser.parameters())
    assert weights[Kind.DENOISER] >= 4 * parameters / 2**20
    if resident_mib() is not None:
        assert all(one.peak_mib is not None and one.peak_mib > one.weights_mib for one in found.stages)


class FakeCuda:
    """What `torch.cuda` offers for this, on a device whose queue is worked through only when somebody waits."""

    def __init__(self) -> None:
        self.queue: list[FakeEvent] = []
        self.clock_ms, self.peak, self.log = 0.0, 0, list[tuple[str, Any]]()

    def Event(self, *, enable_timing: bool) -> FakeEvent:  # noqa: N802 - the name is torch's
        assert enable_timing
        return FakeEvent(self)

    def current_stream(self, device: torch.device) -> str:
        return f"stream of {device}"

    def synchronize(self, device: torch.device) -> None:
        self.log.append(("synchronize", device))
        for event in self.queue:
            self.clock_ms += 2.5
            event.at = self.clock_ms
        self.queue.clear()

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.log.append(("reset", device))
        self.peak = 2**20

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.peak


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at = cuda, None

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:0"
        self.cuda.queue.append(self)

    def elapsed_time(self, other: FakeEvent) -> float:
        if self.at is None or other.at is None:
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return other.at - self.at


def device_events() -> tuple[FakeCuda, DeviceEvents]:
    cuda = FakeCuda()
    return cuda, DeviceEvents(torch.device("cuda", 0), cuda)


def test_device_events_are_recorded_on_the_stream_and_read_after_waiting() -> None:
    cuda, watch = device_events()
    start, end = watch.mark(), watch.mark()
    with pytest.raises(RuntimeError, match="completed"):
        watch.elapsed_ms(start, end)
    watch.settle()
    assert watch.elapsed_ms(start, end) == 2.5
    watch.forget_peak()
    cuda.peak *= 3
    assert watch.peak_mib() == 3.0
    assert [name for name, _ in cuda.log] == ["synchronize", "reset"]


@pytest.mark.plugins
def test_on_a_queue_no_time_is_asked_for_before_it_is_empty_and_no_step_waits(subject: Subject) -> None:
    cuda, watch = device_events()
    found = stage_costs(subject, lambda device: watch)
    assert found.clock == "device events"
    assert [one.ms for one in found.stages] == [2.5, 2.5 * STEPS, 2.5 * (3 * STEPS - 1), 2.5]
    # Once before, once behind the encoder, once at the end.
    assert [name for name, _ in cuda.log].count("synchronize") == 3


@pytest.mark.plugins
def test_each_device_has_a_stopwatch_and_the_decoder_elsewhere_waits_for_the_last_step(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_registry.diagnostics import stage_costs as module

    ticks = {torch.device("cpu"): Ticks(), torch.device("meta"): Ticks()}
    monkeypatch.setattr(
        module, "_device", lambda subject, kind: torch.device("meta" if kind is Kind.DECODER else "cpu")
    )
    found = stage_costs(subject, ticks.__getitem__)
    assert {one.stage: one.device for one in found.stages}[Kind.DECODER] == "meta"
    assert all(not one.asked_early for one in ticks.values())
    # Where each may have been the last one, sampling is waited for before the decoder's clock starts.
    assert ticks[torch.device("cpu")].settled == ticks[torch.device("cpu")].now


def test_a_device_without_a_queue_is_timed_by_the_wall() -> None:
    assert isinstance(stopwatch(CPU), WallClock)
    assert isinstance(stopwatch(torch.device("cuda", 0)), DeviceEvents)


@pytest.mark.skipif(resident_mib() is None, reason="the system does not count resident memory")
def test_the_peak_of_resident_memory_can_be_forgotten() -> None:
    block = torch.ones(64 * 2**20 // 4)
    high = peak_resident_mib()
    del block
    forget_peak()
    now, peak = resident_mib(), peak_resident_mib()
    assert high is not None
    assert now is not None
    assert peak is not None
    assert high >= 64.0
    assert peak <= max(high, now + 1.0)


@pytest.mark.gpu
@pytest.mark.plugins
@pytest.mark.parametrize("name", ["emoji-kl-dit", "emoji-vq-dit"])
def test_on_a_device_event_times_stay_below_the_wall_and_peaks_above_the_weights(name: str) -> None:
    pipe = assemble(swap(load_spec(name), **{f"{kind}_device": "cuda" for kind in STAGES}))
    found = stage_costs(subject_of(pipe))
    assert found.clock == "device events"
    assert all(one.ms > 0.0 for one in found.stages)
    assert sum(one.ms for one in found.stages) <= found.wall_ms
    held = sum(one.weights_mib for one in found.stages)
    assert all(one.peak_mib is not None and one.peak_mib >= one.weights_mib for one in found.stages)
    assert all((one.peak_mib or 0.0) >= 0.9 * held for one in found.stages)
