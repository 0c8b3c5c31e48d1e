from __future__ import annotations

import pytest
import torch

from ldm_registry.diagnostics.oracles import KnownLatents, KnownPairs, reference_levels, reference_sample
from ldm_registry.interfaces import Denoised, NoiseLevel
from ldm_registry.vocabulary import Scaling


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scaling", list(Scaling))
def test_known_latents_give_the_regression_of_x0_on_z(scaling: Scaling) -> None:
    known, spread, count = 0.7, 0.4, 400_000
    level = NoiseLevel.at(torch.tensor(1.3), scaling)
    x0 = known + spread * random(count, 1, 1, 1)
    z = level.add_noise(x0, random(count, 1, 1, 1, seed=1))
    estimate = KnownLatents(torch.full_like(x0, known), spread)(z, level).x0
    # The posterior mean leaves an error that nothing linear in z can tell more about.
    error = x0 - estimate
    assert float(error.mean()) == pytest.approx(0.0, abs=2e-3)
    assert float((error * z).mean()) == pytest.approx(0.0, abs=2e-3)


def test_known_latents_without_spread_answer_what_they_know_at_every_level() -> None:
    known = random(2, 3, 4, 4)
    for log_snr in (-float("inf"), -3.0, 0.0, 12.0, float("inf")):
        level = NoiseLevel.at(torch.tensor(log_snr), Scaling.VP)
        torch.testing.assert_close(KnownLatents(known, 0.0)(random(2, 3, 4, 4, seed=2), level).x0, known)


def test_known_latents_hold_at_a_level_without_signal_and_at_one_without_noise() -> None:
    known, z = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    oracle = KnownLatents(known, 0.3)
    torch.testing.assert_close(oracle(z, NoiseLevel.of(0.0, 1.0)).x0, known)
    torch.testing.assert_close(oracle(z, NoiseLevel.of(0.5, 0.0)).x0, 2.0 * z)


def test_the_reference_sampler_turns_noise_into_gaussian_data_by_the_exact_flow() -> None:
    std, low, high = 0.5, -2.0, 9.0

    def exact(z: torch.Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = level.scales(z)
        return Denoised(alpha * std**2 / (alpha**2 * std**2 + sigma**2) * z)

    levels = reference_levels(low, high, 64)
    first, last = levels[0], levels[-1]
    z = random(8, 1, 2, 2)
    made = reference_sample(exact, z, levels)
    # The flow of a Gaussian multiplies by the ratio of the stds of the marginals; then one clean estimate.
    start = torch.sqrt(first.alpha**2 * std**2 + first.sigma**2)
    end = torch.sqrt(last.alpha**2 * std**2 + last.sigma**2)
    expected = exact(z * end / start, last).x0
    torch.testing.assert_close(made, expected, rtol=2e-3, atol=1e-4)


def test_the_reference_sampler_converges_at_second_order() -> None:
    std = 0.5

    def exact(z: torch.Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = level.scales(z)
        return Denoised(alpha * std**2 / (alpha**2 * std**2 + sigma**2) * z)

    z = random(4, 1, 2, 2)
    made = [reference_sample(exact, z, reference_levels(-2.0, 6.0, steps)) for steps in (16, 32, 512)]
    coarse, fine = (float((one - made[2]).abs().max()) for one in made[:2])
    assert coarse / fine > 3.0


def test_known_pairs_decode_to_their_images_and_follow_a_linear_decoder_around_them() -> None:
    weight = random(4, 3 * 4 * 4)
    latents = random(12, 4, 5, 5, seed=3)

    def decode(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv_transpose2d(z, weight.reshape(4, 3, 4, 4), stride=4)

    pairs = KnownPairs.of(latents, decode(latents))
    torch.testing.assert_close(pairs.decode(latents), decode(latents))
    moved = latents + 0.3 * random(12, 4, 5, 5, seed=4)
    error = (pairs.decode(moved) - decode(moved)).square().mean() / decode(moved).square().mean()
    assert float(error) < 1e-4
