from __future__ import annotations

import pytest
import torch
import toy_plugin

from ldm_registry.interfaces import NoiseLevel, NoiseLevels, Trained, broadcast, randn
from ldm_registry.vocabulary import Prediction


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    batch = randn((3, 2, 4, 4), seeded(5, 6, 7))
    for index, seed in enumerate((5, 6, 7)):
        assert torch.equal(batch[index], randn((1, 2, 4, 4), seeded(seed))[0])


def test_noise_is_the_same_in_every_dtype() -> None:
    single = randn((2, 8), seeded(1, 2))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(randn((2, 8), seeded(1, 2), dtype=dtype), single.to(dtype))


def test_drawing_noise_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    randn((2, 8), seeded(1, 2))
    randn((2, 8), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 generators for a batch of 3"):
        randn((3, 8), seeded(1, 2))


def test_numbers_per_sample_multiply_a_batch_of_any_rank() -> None:
    values = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for shape in ((2, 3), (2, 3, 4, 4)):
        scaled = broadcast(values, torch.ones(shape)) * torch.ones(shape)
        assert scaled.dtype == torch.float32
        assert torch.equal(scaled[1], torch.full(shape[1:], 2.0))
    assert broadcast(torch.tensor(3.0), torch.ones(2, 3, 4, 4)).ndim == 0


def test_normalised_levels_keep_their_log_snr_and_have_unit_variance() -> None:
    level = NoiseLevel.of(0.3, 7.0)
    unit = level.normalised()
    torch.testing.assert_close(unit.log_snr, level.log_snr)
    torch.testing.assert_close(unit.std, torch.ones_like(unit.std))


def test_sampling_starts_from_the_marginal_of_unit_variance_data_unless_told_otherwise() -> None:
    alpha, sigma = (
        torch.tensor([0.6, 1.0], dtype=torch.float64),
        torch.tensor([4.0, 0.0], dtype=torch.float64),
    )
    noise = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    marginal = NoiseLevels(alpha, sigma).prior(noise)
    torch.testing.assert_close(marginal, (0.6**2 + 4.0**2) ** 0.5 * noise)
    assert torch.equal(NoiseLevels(alpha, sigma, prior_std=4.0).prior(noise), 4.0 * noise)


def test_levels_are_a_sequence() -> None:
    levels = NoiseLevels(torch.tensor([0.1, 0.9, 1.0]), torch.tensor([0.9, 0.1, 0.0]))
    assert len(levels) == 3
    assert float(levels[-1].sigma) == 0.0
    assert [float(level.alpha) for level in levels] == pytest.approx([0.1, 0.9, 1.0])
    assert len(levels[1:]) == 2
    assert torch.equal(levels.log_snr.argsort(), torch.tensor([0, 1, 2]))


def test_what_follows_from_a_level_is_worked_out_once_and_outlives_an_inference_mode() -> None:
    levels = NoiseLevels(torch.tensor([0.3, 1.0]).double(), torch.tensor([7.0, 0.0]).double())
    with torch.inference_mode():
        unit = levels[0].normalised()
    assert levels[0].normalised() is unit
    assert levels[0].numbers == (float(levels.alpha[0]), 7.0)
    x = torch.ones(3, requires_grad=True)
    (levels[0].std * unit.alpha * x).sum().backward()
    assert x.grad is not None
    assert float(x.grad[0]) == pytest.approx(float(levels.alpha[0]))


def test_a_batch_of_one_draws_what_its_sample_draws_in_a_larger_batch() -> None:
    assert torch.equal(randn((1, 3, 5), seeded(6)), randn((3, 3, 5), seeded(5, 6, 7))[1:2])


def test_the_time_of_a_level_is_looked_up_once_and_those_of_a_batch_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = toy_plugin.ToySchedule(toy_plugin.ScheduleConfig())
    trained, asked = Trained(Prediction.V, schedule, time_scale=0.5), []

    def time(level: NoiseLevel) -> torch.Tensor:
        asked.append(level)
        return toy_plugin.ToySchedule.time(schedule, level)

    monkeypatch.setattr(schedule, "time", time)
    level = schedule.level(torch.tensor(250.0))
    again = NoiseLevel(level.alpha.clone(), level.sigma.clone())
    with torch.inference_mode():
        times = [trained.network_time(one) for one in (level, level.normalised(), level, again)]
    assert [float(one) for one in times] == pytest.approx([125.0] * 4)
    assert not times[0].is_inference()
    assert len(asked) <= 2
    batch = NoiseLevel(level.alpha.repeat(2), level.sigma.repeat(2))
    for _ in range(2):
        asked.clear()
        assert trained.network_time(batch).tolist() == pytest.approx([125.0] * 2)
        assert len(asked) == 1
