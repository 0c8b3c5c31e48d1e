from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from ldm_registry.interfaces import NoiseLevel, NoiseLevels
from ldm_registry.pipeline import Decoded, DenoiserCalled, Event, Started, Stepped
from ldm_registry.report.comparison import Compared, picture, to_document
from ldm_registry.report.comparison_table import render
from ldm_registry.report.grid import GAP, grid
from ldm_registry.report.measurement import Measurement
from ldm_registry.report.run_record import pixels_sha256
from ldm_registry.report.tables import number, table
from ldm_registry.report.timing import drain, to_pixels
from ldm_registry.report.trace import rows
from ldm_registry.report.training_log import describe, line, summary
from ldm_registry.training.progress import Progress


def happening(calls_per_step: int = 2) -> Iterator[Event]:
    """A batch of two images in three steps, with latencies that are easy to add."""
    level = NoiseLevel.of(0.6, 0.8)
    z = torch.full((2, 4, 2, 2), 3.0)
    levels = NoiseLevels(
        torch.tensor([0.6, 0.8, 0.9, 1.0]).double(), torch.tensor([0.8, 0.6, 0.1, 0.0]).double()
    )
    yield Started((7, 8), levels, z)
    for index in range(3):
        for call in range(calls_per_step):
            yield DenoiserCalled(index * calls_per_step + call, level, z, z, 2 * z, 10.0)
        yield Stepped(index, level, z, z, 10.0 * calls_per_step + 1.0)
    yield Decoded(z, torch.full((2, 3, 4, 4), -1.0), 5.0)


def test_the_scheduler_is_charged_for_what_its_steps_take_beside_the_denoiser() -> None:
    assert drain(happening()).stages_ms == pytest.approx({"denoiser": 60.0, "scheduler": 3.0, "decoder": 5.0})


def test_draining_keeps_every_image_and_seed_of_every_batch() -> None:
    run = drain([*happening(), *happening()])
    assert run.images.shape == (4, 4, 4, 3)
    assert run.seeds == (7, 8, 7, 8)
    assert run.batches == 2


def test_pixels_are_rounded_to_the_nearest_of_256_values_and_clamped() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0 / 127.5, 1.0, 5.0]).reshape(1, 1, 1, 6)
    assert to_pixels(values).flatten().tolist() == [0, 0, 128, 128, 255, 255]


def test_every_8_bit_value_survives_the_way_to_floats_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    images = (pixels.float() / 127.5 - 1).reshape(1, 1, 16, 16)
    assert torch.equal(to_pixels(images).flatten(), pixels)


def test_a_trace_row_measures_root_mean_square_and_log_snr() -> None:
    found = list(rows(happening(1)))
    assert [row.stage for row in found] == ["noise", *["denoiser", "scheduler"] * 3, "decoder"]
    assert found[1].z_rms == pytest.approx(3.0)
    assert found[1].x0_rms == pytest.approx(6.0)
    assert found[1].log_snr == pytest.approx(math.log(0.36 / 0.64))
    assert found[-1].log_snr is None


def test_a_grid_keeps_every_pixel_and_enlarges_small_images_by_a_whole_factor() -> None:
    images = torch.randint(
        0, 256, (5, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sheet = grid(images, columns=3)
    assert sheet.size == (GAP + 3 * (96 + GAP), GAP + 2 * (96 + GAP))
    corner = GAP + 96 + GAP  # the second image of the second row
    cut = sheet.crop((corner, corner, corner + 96, corner + 96))
    assert cut.getpixel((0, 0)) == cut.getpixel((1, 1)) == tuple(images[4, 0, 0].tolist())
    assert cut.getpixel((95, 95)) == tuple(images[4, 47, 47].tolist())


def test_a_grid_of_grey_images_is_grey() -> None:
    images = torch.full((1, 100, 100, 1), 77, dtype=torch.uint8)
    assert grid(images).getpixel((50, 50)) == (77, 77, 77)


def test_the_digest_of_an_image_depends_on_its_pixels_and_not_on_how_they_lie_in_memory() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    turned = image.permute(1, 2, 0)
    assert pixels_sha256(turned) == pixels_sha256(turned.clone(memory_format=torch.contiguous_format))
    changed = turned.clone()
    changed[0, 0, 0] ^= 1
    assert pixels_sha256(changed) != pixels_sha256(turned)


def compared(name: str, values: int, codec: int, channels: int = 3) -> Compared:
    figures = Measurement(
        spec=name,
        n=2,
        values_per_image=values,
        denoiser_parameters=1000,
        codec_parameters=codec,
        steps=4,
        denoiser_calls=4,
        step_ms=12.0,
        image_ms=30.0,
        decoder_ms=1.0,
        peak_memory_mib=None,
        device="cpu",
    )
    return Compared(figures, torch.zeros(2, 64, 64, channels, dtype=torch.uint8), (3, 4))


def test_a_comparison_says_how_many_times_less_each_takes_than_the_first() -> None:
    both = [compared("pixels", 12_288, 0), compared("latents", 256, 5000)]
    ratios = to_document(both)["first_over_each"]
    assert ratios["values_per_image"] == [1.0, 48.0]
    assert ratios["codec_parameters"] == [None, None], "nothing is no number of times less"
    assert ratios["peak_memory_mib"] == [None, None]
    (values,) = [row for row in render(both).splitlines() if row.startswith("values processed")]
    assert values.split()[-3:] == ["12,288", "256", "48.0"]


def test_a_comparison_draws_one_row_for_each_spec_also_for_grey_beside_colour() -> None:
    drawn = picture([compared("a", 1, 1), compared("b", 1, 1, channels=1)])
    assert drawn.height == GAP + 24 + 2 * (128 + GAP)


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    text = table(("name", "size"), [("a", "1"), ("longer", "23")], right=(1,))
    assert text == "name    size\na          1\nlonger    23"
    assert table(("a", ""), [("x", "")]) == "a\nx"


def test_numbers_of_a_table_separate_thousands_and_mark_what_is_missing() -> None:
    assert [number(1234567), number(1234.56), number(None)] == ["1,234,567", "1,234.6", "-"]


def test_the_progress_of_a_training_estimates_the_time_left() -> None:
    state = Progress(step=100, steps=700, elapsed_s=1.0, step_ms=200.0, losses={"x": 0.5})
    assert line(state) == "step 100 of 700: x 0.5 | 200 ms a step, 2 min left"


def test_a_training_that_stopped_early_says_how_to_go_on() -> None:
    state = Progress(step=5, steps=7, elapsed_s=1.0, stopped="minutes", losses={"x": math.nan})
    assert "goes on from here" in summary(state)
    assert describe(state)["losses"] == {"x": None}
    assert "goes on" not in summary(Progress(step=7, steps=7, elapsed_s=1.0, stopped="finished"))
