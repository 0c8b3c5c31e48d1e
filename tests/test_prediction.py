from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm_registry.errors import ContractError
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.prediction import from_x0, to_epsilon, to_x0
from ldm_registry.vocabulary import Prediction, Scaling

LOG_SNR = st.floats(-14, 14)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("prediction", list(Prediction))
@given(log_snr=LOG_SNR)
def test_every_prediction_gives_back_the_clean_latent_it_was_made_from(
    prediction: Prediction, log_snr: float
) -> None:
    level = NoiseLevel.at(torch.tensor(log_snr), Scaling.VP)
    x0, epsilon = draw(2, 3, 4, 4), draw(2, 3, 4, 4).flip(0)
    z = level.add_noise(x0, epsilon)
    output = from_x0(prediction, x0, epsilon, level)
    # Epsilon divides by alpha: rounding grows with the noise-to-signal ratio.
    tolerance = 1e-14 * max(1.0, float(level.sigma / level.alpha))
    torch.testing.assert_close(to_x0(prediction, output, z, level), x0, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(
    "prediction", [Prediction.VELOCITY, Prediction.REVERSE_VELOCITY, Prediction.X0, Prediction.V]
)
def test_a_level_without_signal_still_gives_x0_where_the_prediction_determines_it(
    prediction: Prediction,
) -> None:
    level = NoiseLevel.of(0.0, 1.0)
    x0, epsilon = draw(1, 2, 3, 3), draw(1, 2, 3, 3).flip(3)
    output = from_x0(prediction, x0, epsilon, level)
    torch.testing.assert_close(to_x0(prediction, output, level.add_noise(x0, epsilon), level), x0)


def test_epsilon_at_a_level_without_signal_is_refused() -> None:
    z = draw(1, 2, 3, 3)
    with pytest.raises(ContractError, match="without signal"):
        to_x0(Prediction.EPSILON, z, z, NoiseLevel.of(0.0, 1.0))


def test_each_sample_of_a_batch_may_have_its_own_level() -> None:
    levels = NoiseLevel.at(torch.tensor([-3.0, 5.0]), Scaling.VP)
    x0, epsilon = draw(2, 3, 4, 4), draw(2, 3, 4, 4).flip(0)
    z = levels.add_noise(x0, epsilon)
    for index in range(2):
        level = NoiseLevel(levels.alpha[index], levels.sigma[index])
        torch.testing.assert_close(z[index], level.add_noise(x0, epsilon)[index])
        for prediction in Prediction:
            whole = to_x0(prediction, from_x0(prediction, x0, epsilon, levels), z, levels)
            torch.testing.assert_close(whole[index], x0[index])


@given(log_snr=LOG_SNR)
def test_scalings_are_units_of_one_noise_level(log_snr: float) -> None:
    vp, ve, flow = (NoiseLevel.at(torch.tensor(log_snr, dtype=torch.float64), scaling) for scaling in Scaling)
    for level in (vp, ve, flow):
        assert float(level.log_snr) == pytest.approx(log_snr, abs=1e-12)
    torch.testing.assert_close(vp.alpha**2 + vp.sigma**2, torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(flow.alpha + flow.sigma, torch.tensor(1.0, dtype=torch.float64))
    assert float(ve.alpha) == 1.0
    torch.testing.assert_close(ve.normalised().alpha, vp.alpha, rtol=1e-13, atol=0)
    torch.testing.assert_close(flow.normalised().sigma, vp.sigma, rtol=1e-13, atol=0)


def test_the_ends_of_the_log_snr_axis_are_exact() -> None:
    for scaling in (Scaling.VP, Scaling.FLOW):
        noise, clean = (NoiseLevel.at(torch.tensor(end), scaling) for end in (-torch.inf, torch.inf))
        assert (float(noise.alpha), float(noise.sigma)) == (0.0, 1.0)
        assert (float(clean.alpha), float(clean.sigma)) == (1.0, 0.0)


def test_epsilon_follows_from_the_clean_estimate() -> None:
    level = NoiseLevel.at(torch.tensor(0.7), Scaling.FLOW)
    x0, epsilon = draw(2, 3, 4, 4), draw(2, 3, 4, 4).flip(0)
    torch.testing.assert_close(to_epsilon(x0, level.add_noise(x0, epsilon), level), epsilon)
