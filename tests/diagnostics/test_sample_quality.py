from __future__ import annotations

import pytest
from diagnostics.emoji_subjects import emoji_subject

from ldm_registry.diagnostics.sample_quality import measure_sample_quality

pytestmark = [pytest.mark.plugins, pytest.mark.slow]


def test_samples_are_compared_with_known_images_without_blaming_anybody() -> None:
    found = measure_sample_quality(emoji_subject("emoji-kl-dit", 16))
    values = {metric.name: metric.value for metric in found.metrics}
    assert not found.suspicions
    assert all(metric.healthy is None for metric in found.metrics)
    assert values["samples_not_finite"] == 0
    assert 0 < values["convolution_frechet_distance"] < 100
    assert len(found.pictures) == 2
