from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_plugin

from ldm_registry.assembly import assemble
from ldm_registry.errors import SpecError
from ldm_registry.pipeline import Decoded, DenoiserCalled, Pipeline, Started, Stepped
from ldm_registry.prediction import to_x0
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec

SPEC = """
version: 1
image: {channels: 3, size: [16, 8]}
encoder: {use: toy-codec}
denoiser: {use: toy-denoiser, trained: {prediction: v, schedule: {name: toy_schedule}}}
scheduler: {use: toy-scheduler, config: {steps: 5}}
decoder: {use: toy-codec}
condition: {class_label: [0, 2, 1]}
guidance: {scale: 1.5}
seed: 11
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Pipeline]:
    def make(text: str = SPEC) -> Pipeline:
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        return assemble(load_spec(path), Registry([toy_plugin]), init_seed=4)

    return make


@pytest.fixture
def pipe(make: Callable[..., Pipeline]) -> Pipeline:
    return make()


def test_sampling_is_the_last_event_of_a_trace(pipe: Pipeline) -> None:
    *_, last = pipe.trace(2)
    assert isinstance(last, Decoded)
    assert torch.equal(pipe.sample(2), last.image.clamp(-1, 1))
    assert pipe.sample(2).shape == (2, 3, 16, 8)


def test_events_tell_the_whole_story_in_order(pipe: Pipeline) -> None:
    events = list(pipe.trace(2))
    kinds = [type(event) for event in events]
    assert kinds == [Started, *[DenoiserCalled, Stepped] * 5, Decoded]
    started, decoded = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(decoded, Decoded)
    assert started.seeds == (11, 12)
    assert len(started.levels) == 6
    for call, step in zip(events[1:-1:2], events[2:-1:2], strict=True):
        assert isinstance(call, DenoiserCalled)
        assert isinstance(step, Stepped)
        assert torch.equal(call.x0, step.x0)
        again = to_x0(pipe.denoiser.prediction, call.prediction, call.z, call.level.normalised())
        assert torch.equal(again, call.x0)
    assert torch.equal(step.z, decoded.latent)


def test_an_image_depends_on_its_seed_and_label_but_not_on_its_batch(pipe: Pipeline) -> None:
    together = pipe.sample(5, seed=3)
    torch.testing.assert_close(pipe.sample(5, seed=3, batch=2), together)
    alone = pipe.sample(1, seed=5, condition={"class_label": [1]})
    torch.testing.assert_close(alone[0], together[2])
    assert not torch.allclose(together[0], together[1])


def test_two_runs_of_one_pipeline_are_bit_equal_and_touch_no_global_state(pipe: Pipeline) -> None:
    before = torch.get_rng_state()
    assert torch.equal(pipe.sample(2), pipe.sample(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_samples_are_made_without_holding_the_states_they_came_by(pipe: Pipeline) -> None:
    states: list[weakref.ref[torch.Tensor]] = []
    held = [0]

    def see(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        held.append(sum(state() is not None for state in states))
        states.append(weakref.ref(inputs[0]))

    hook = pipe.denoiser.register_forward_pre_hook(see)
    pipe.sample(2)
    hook.remove()
    assert len(states) == 5
    # The event of the call before is the last one that was handed out.
    assert max(held) <= 1


def test_a_trace_does_no_more_than_is_pulled(pipe: Pipeline) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = pipe.denoiser.mix.register_forward_hook(count)  # type: ignore[union-attr]  # a ToyDenoiser
    events = pipe.trace(1)
    assert calls == 0
    assert isinstance(next(events), Started)
    assert calls == 0
    next(events)
    assert calls == 1
    hook.remove()


def test_a_sampler_keeps_single_precision_under_a_half_precision_network(
    make: Callable[..., Pipeline],
) -> None:
    pipe = make(SPEC.replace("use: toy-denoiser", "use: toy-denoiser, dtype: bfloat16"))
    steps = [event for event in pipe.trace(1) if isinstance(event, Stepped)]
    assert {event.z.dtype for event in steps} == {torch.float32}


def test_guidance_and_condition_reach_the_denoiser(pipe: Pipeline, make: Callable[..., Pipeline]) -> None:
    unguided = make(SPEC.replace("scale: 1.5", "scale: 1.0"))
    assert not torch.allclose(pipe.sample(1), unguided.sample(1))
    assert not torch.allclose(pipe.sample(1, condition={"class_label": [1]}), pipe.sample(1))


def test_reconstruction_is_the_codecs_round_trip(pipe: Pipeline) -> None:
    images = torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = pipe.decoder.decode(pipe.encoder.encode(images)).clamp(-1, 1)
    assert torch.equal(pipe.reconstruct(images), expected)


def test_no_images_is_an_error(pipe: Pipeline) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        pipe.sample(0)
