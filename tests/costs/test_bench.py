from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from costs.toy_bench import HASTY, STEPS, TEXT_SPEC, known_rates, toy_pipe

from ldm_registry.costs import bench as bench_module
from ldm_registry.costs.bench import Begun, bench, benching
from ldm_registry.costs.operations import counted
from ldm_registry.costs.part_calls import Case
from ldm_registry.costs.resident_memory import resident_mib
from ldm_registry.costs.result import Achieved, Bench, PartCost
from ldm_registry.costs.weights import parameters, weights_bytes
from ldm_registry.pipeline import Pipeline
from ldm_registry.report.bench import render, to_document
from ldm_registry.report.html.bench_plot import render_svg

BATCH, HEIGHT, WIDTH = 2, 16, 8
SIZES = [(16, 8), (32, 16), (12, 8), (18, 8)]
"""The latents of the third are too odd for the denoiser; the fourth is no multiple of the codec's stride."""


@pytest.fixture(scope="module")
def rates() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "measured", known_rates)
        yield


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory, rates: None) -> Pipeline:
    return toy_pipe(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def found(pipe: Pipeline) -> Bench:
    return bench(pipe, batch=BATCH, sizes=SIZES, effort=HASTY)


def part(found: Bench, name: str) -> PartCost:
    return next(one for one in found.parts if one.name == name)


def flops(found: Bench, name: str) -> int:
    cost = part(found, name).cost
    assert cost is not None
    return cost.work.flops


def state(pipe: Pipeline) -> dict[str, Any]:
    parts = pipe.encoder, pipe.denoiser, pipe.decoder
    return {
        "tensors": [tensor.clone() for one in parts for tensor in one.state_dict().values()],
        "random numbers": torch.get_rng_state().tolist(),
        "modes": [module.training for one in parts for module in one.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in parts],
        "attributes": [sorted(vars(one)) for one in parts],
        "spec": pipe.spec,
    }


def test_the_operations_of_every_part_are_as_many_as_on_paper(found: Bench) -> None:
    pixels, cells = HEIGHT * WIDTH, HEIGHT * WIDTH // 16
    assert flops(found, "encoder") == 2 * BATCH * cells * (4 * 4 * 3) * 4
    # Guidance asks for both predictions in one call.
    assert flops(found, "denoiser") == 2 * (2 * BATCH) * cells * (3 * 3 * 4) * 4
    assert flops(found, "decoder") == 2 * BATCH * pixels * 4 * 3
    assert flops(found, "scheduler") == 0


def test_parameters_and_bytes_are_those_of_the_modules(found: Bench, pipe: Pipeline) -> None:
    for name, module in (("encoder", pipe.encoder), ("denoiser", pipe.denoiser), ("decoder", pipe.decoder)):
        numbers = sum(tensor.numel() for tensor in module.parameters())
        assert (part(found, name).parameters, part(found, name).weights_bytes) == (numbers, 4 * numbers)
    assert found.run.parameters == sum(one.parameters for one in found.parts)


def test_what_two_parts_share_counts_once() -> None:
    layer = torch.nn.BatchNorm2d(3)
    assert (parameters(layer), parameters(layer, layer)) == (6, 6)
    assert weights_bytes(layer, layer) == 4 * (6 + 6) + 8


def test_a_run_consists_of_its_parts(found: Bench, pipe: Pipeline) -> None:
    assert {one.name: one.calls for one in found.parts} == {
        "encoder": 0,
        "denoiser": STEPS,
        "scheduler": STEPS,
        "decoder": 1,
    }
    assert (found.run.steps, found.run.denoiser_calls) == (STEPS, STEPS)
    assert found.run.work.flops == counted(lambda: pipe.sample(BATCH)).flops
    times = {one.name: one.cost.times.median_ms for one in found.parts if one.cost is not None}
    expected = STEPS * (times["denoiser"] + times["scheduler"]) + times["decoder"]
    assert found.run.expected_ms == pytest.approx(expected)
    assert found.run.times is not None
    assert found.run.beside_ms is not None
    assert 0.0 < STEPS * found.run.beside_ms.best_ms < found.run.times.high_ms
    share_ms = found.share_ms(part(found, "denoiser"))
    assert share_ms is not None
    assert 0.0 < share_ms < found.run.times.high_ms
    assert found.share_ms(part(found, "encoder")) is None


@pytest.mark.parametrize("name", ["encoder", "denoiser", "decoder"])
def test_linear_work_grows_linearly_with_pixels_and_with_the_batch(found: Bench, name: str) -> None:
    one = part(found, name)
    pixels = one.with_pixels.exponents(lambda case: case.pixels)
    assert pixels["flops"] == pytest.approx(1.0)
    assert one.with_batch.exponents(lambda case: case.batch)["flops"] == pytest.approx(1.0)
    # Weights are read whatever the size.
    assert pixels["moved_bytes"] is not None
    assert 0.5 < pixels["moved_bytes"] < 1.0
    assert [case.batch for case, _ in one.with_batch.points] == [BATCH, 3 * BATCH]


def test_a_size_that_a_part_refuses_is_said_with_the_reason(found: Bench) -> None:
    odd, unfit = Case(BATCH, 12, 8), Case(BATCH, 18, 8)
    refused = {one.name: dict(one.with_pixels.refused) for one in found.parts}
    assert refused["denoiser"][odd] == "a latent side of 3 is not a multiple of 2"
    assert set(refused["encoder"]) == set(refused["decoder"]) == set(refused["scheduler"]) == {unfit}
    assert "18 px is not a multiple of the stride 4" in refused["encoder"][unfit]
    lines = render(found).splitlines()
    assert "denoiser: no 2 of 12 x 8 px: a latent side of 3 is not a multiple of 2" in lines
    assert (
        "encoder, denoiser, scheduler, decoder: no 2 of 18 x 8 px: 18 px is not a multiple of the stride 4"
        in lines
    )


def test_what_a_network_says_to_a_size_is_passed_on(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("too large for me\nand more")

    monkeypatch.setattr(pipe.decoder.decoder, "forward", refuse)
    quick = replace(HASTY, longest_run_ms=0.0)  # no whole run, which cannot be without a decoder
    decoder = part(bench(pipe, effort=quick), "decoder")
    assert decoder.cost is None
    assert {why for _, why in decoder.with_pixels.refused} == {"ValueError: too large for me"}
    with pytest.raises(ValueError, match="too large for me"):
        bench(pipe, effort=HASTY)


@pytest.mark.skipif(resident_mib() is None, reason="the system does not tell what is free")
def test_what_would_not_fit_into_memory_by_the_parts_own_word_is_not_tried(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(pipe.encoder), "working_memory", lambda self, *case: 2**60 if case[0] > 1 else 2**20
    )
    encoder = part(bench(pipe, effort=HASTY), "encoder")
    assert [(case.batch, cost.stated_mib) for case, cost in encoder.with_batch.points] == [(1, 1.0)]
    ((case, why),) = encoder.with_batch.refused
    assert case.batch == 3
    assert why.startswith("it would take 1,099,511,627,776 MiB, of which ")


@pytest.mark.skipif(resident_mib() is None, reason="the system does not tell what is free")
def test_images_that_would_not_fit_into_memory_are_never_made(pipe: Pipeline) -> None:
    found = bench(pipe, sizes=[(16, 8), (900_000, 900_000)], effort=HASTY)
    for one in found.parts:
        ((case, why),) = one.with_pixels.refused
        assert case.height == 900_000
        assert why.startswith("the images alone are 9,269,714 MiB, and ")


def test_a_bench_leaves_the_pipeline_and_the_random_numbers_as_they_were(pipe: Pipeline) -> None:
    pipe.denoiser.train()
    before = state(pipe)
    bench(pipe, effort=HASTY, seed=3)
    after = state(pipe)
    assert all(map(torch.equal, after.pop("tensors"), before.pop("tensors")))
    assert after == before


def test_progress_is_said_in_order_and_ends_with_the_figures(pipe: Pipeline) -> None:
    *begun, last = benching(pipe, effort=HASTY)
    assert isinstance(last, Bench)
    assert all(isinstance(one, Begun) for one in begun)
    assert [one.index for one in begun] == list(range(begun[0].count))


def test_texts_are_encoded_by_parts_of_their_own(tmp_path: Path, rates: None) -> None:
    found = bench(toy_pipe(tmp_path, TEXT_SPEC), effort=HASTY)
    calls = {one.name: one.calls for one in found.parts}
    # Under guidance the text and the negative text.
    assert (calls["conditioner text"], calls["conditioner size"]) == (2, 2)
    assert part(found, "conditioner text").cost is not None


def test_the_document_is_json_and_repeats_the_figures(found: Bench) -> None:
    document = json.loads(json.dumps(to_document(found), allow_nan=False))
    assert document["case"] == {"batch": BATCH, "height": HEIGHT, "width": WIDTH}
    denoiser = next(one for one in document["parts"] if one["part"] == "denoiser")
    cost = denoiser["cost"]
    assert cost["convolution_flops"] + cost["matmul_flops"] == flops(found, "denoiser")
    assert cost["flop_s"] == pytest.approx(flops(found, "denoiser") / cost["times"]["median_ms"] * 1e3)
    assert denoiser["growth"]["pixels"]["refused"][0]["why"]
    (ceiling,) = document["ceilings"]
    assert cost["of_compute"] == pytest.approx(cost["flop_s"] / ceiling["convolution_flop_s"])


def test_how_hard_a_part_works_is_told_by_its_kind_of_work(found: Bench) -> None:
    denoiser, scheduler = part(found, "denoiser"), part(found, "scheduler")
    assert denoiser.cost is not None
    assert scheduler.cost is not None
    ceiling = found.ceiling(denoiser)
    assert Achieved.of(scheduler.cost, ceiling).of_compute is None
    busy = Achieved.of(denoiser.cost, ceiling)
    moved_ms = denoiser.cost.work.moved_bytes / ceiling.copy_byte_s * 1e3
    assert busy.of_copy == pytest.approx(moved_ms / denoiser.cost.times.median_ms)


def test_the_tables_fit_on_a_screen(found: Bench) -> None:
    lines = render(found).splitlines()
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 110
    assert {one.name for one in found.parts} <= {line.split()[0] for line in lines if line}


def test_the_picture_is_one_svg_that_loads_and_runs_nothing(found: Bench) -> None:
    text = render_svg(found)
    svg = ElementTree.fromstring(text)
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert not {"script", "image", "use", "foreignObject"} & {
        one.tag.rpartition("}")[2] for one in svg.iter()
    }
    assert text.count("http") == 1
    assert "var(" not in text
    said = " ".join(one.text or "" for one in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert all(f"{one.name} ({one.component})" in said for one in found.parts)


@pytest.mark.gpu
@pytest.mark.plugins
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_device_times_are_those_of_its_events_and_peaks_those_of_its_allocator(dtype: str) -> None:
    from ldm_registry.assembly import assemble
    from ldm_registry.spec import load_spec, swap
    from ldm_registry.vocabulary import STAGES

    placed = {f"{stage}_device": "cuda" for stage in STAGES} | {f"{stage}_dtype": dtype for stage in STAGES}
    found = bench(assemble(swap(load_spec("emoji-kl-dit"), **placed)), batch=4, effort=HASTY)
    assert set(found.clock.values()) == {"device events"}
    denoiser = part(found, "denoiser")
    assert denoiser.cost is not None
    assert denoiser.cost.memory is not None
    assert denoiser.cost.memory.peak_mib * 2**20 >= denoiser.weights_bytes
    busy = Achieved.of(denoiser.cost, found.ceiling(denoiser))
    assert busy.of_compute is not None
    assert 0.0 < busy.of_compute <= 1.1
    assert (found.ceiling(denoiser).matmul_flop_s or 0.0) > 1e12
