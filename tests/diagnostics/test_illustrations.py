from __future__ import annotations

import math

import pytest
import torch
from diagnostics.emoji_subjects import emoji_subject

from ldm_registry.diagnostics.illustrations import (
    CARRIED,
    SNAPSHOTS,
    by_level,
    carried,
    codebook_map,
    codebook_ranks,
    spectra,
)
from ldm_registry.diagnostics.signatures import power_spectrum


def test_the_spectrum_of_white_noise_is_flat_at_its_variance() -> None:
    noise = 0.5 * torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    powers = [power for _, power in power_spectrum(noise)]
    assert len(powers) > 20
    assert powers == pytest.approx([0.25] * len(powers), rel=0.15)


@pytest.mark.parametrize("cycles", [2, 5, 12])
def test_the_spectrum_of_a_wave_stands_at_its_frequency(cycles: int) -> None:
    place = torch.arange(32.0) / 32.0
    wave = torch.sin(2 * math.pi * cycles * place).expand(2, 3, 32, 32)
    peak = max(power_spectrum(wave), key=lambda point: point[1])
    assert peak[0] == pytest.approx(cycles / 32, abs=0.02)


def test_nothing_differs_where_images_come_back_as_they_were() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    lines = spectra(images, images).lines
    assert lines["known images"] == lines["what came back"]
    assert all(power == 0.0 for _, power in lines["difference"])


@pytest.mark.plugins
@pytest.mark.parametrize("name", ["emoji-kl-dit", "emoji-vq-dit"])
def test_a_healthy_sampler_carries_known_images_to_themselves(name: str) -> None:
    subject = emoji_subject(name)
    images = subject.images[:CARRIED]
    drawn = carried(subject.pipe.scheduler, images, subject.noise(images), 3.0, 0)
    assert drawn is not None
    assert drawn.image.shape == (3, CARRIED * 64, (SNAPSHOTS + 1) * 64)
    wanted = torch.cat(list(images), dim=-2)
    assert (drawn.image[..., -64:] - wanted).abs().max() < 0.02
    assert (drawn.image[..., :64] - wanted).abs().mean() > 0.2


def test_estimates_are_drawn_below_what_was_seen_and_above_the_truth() -> None:
    dark, grey, light = (torch.full((4, 8, 8), value) for value in (-3.0, 0.0, 3.0))
    drawn = by_level({-1.0: dark, 1.0: dark}, {-1.0: grey, 1.0: grey}, light, 3.0)
    assert drawn is not None
    assert drawn.image.shape == (3, 192, 128)
    assert [float(drawn.image[0, row, 70]) for row in (0, 64, 128)] == [-1.0, 0.0, 1.0]
    assert "-1, 1 nats" in drawn.alt


def test_what_is_not_finite_is_not_drawn() -> None:
    fine, broken = torch.zeros(4, 8, 8), torch.full((4, 8, 8), math.nan)
    assert by_level({0.0: fine}, {0.0: broken}, fine, 3.0) is None
    assert by_level({}, {}, fine, 3.0) is None


def test_the_map_of_a_codebook_shows_every_code_and_the_ranks_add_up() -> None:
    counts = [0, 7, 1, 0, 3]
    drawn = codebook_map(counts)
    squares = drawn.image[0, 20 :: drawn.image.shape[1] // 3, 20 :: drawn.image.shape[2] // 3].flatten()
    assert squares[[0, 3]].tolist() == [-1.0, -1.0]
    assert float(squares[1]) == 1.0
    assert -1.0 < float(squares[2]) < float(squares[4]) < 1.0
    assert "3 of 5 are in use" in drawn.alt
    ranks = codebook_ranks(counts).lines["codes"]
    assert [share for _, share in ranks] == pytest.approx([7 / 11, 3 / 11, 1 / 11, 0.0, 0.0])
    assert sum(share for _, share in ranks) == pytest.approx(1.0)
