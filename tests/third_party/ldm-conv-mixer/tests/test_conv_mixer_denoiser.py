import torch
from ldm_registry.interfaces import NoiseLevel
from ldm_registry.testing import ComponentSuite, trained_on_stand_in

from ldm_conv_mixer.denoiser import ConvMixerDenoiser, DenoiserConfig

SMALL = DenoiserConfig(width=8, depth=2, reach=3, classes=3, text_width=5)


class TestConvMixerDenoiser(ComponentSuite):
    component = ConvMixerDenoiser
    config = SMALL


def test_no_text_and_a_text_of_zeros_are_the_same() -> None:
    torch.manual_seed(0)
    denoiser = ConvMixerDenoiser(SMALL, trained_on_stand_in())
    torch.nn.init.normal_(denoiser.leave.weight)
    z, level = torch.randn(2, 4, 6, 6), NoiseLevel.of(0.6, 0.8)
    without = denoiser(z, level, {}).prediction
    zeros = denoiser(z, level, {"pooled_text_embedding": torch.zeros(2, 5)}).prediction
    other = denoiser(z, level, {"pooled_text_embedding": torch.ones(2, 5)}).prediction
    torch.testing.assert_close(without, zeros)
    assert not torch.equal(without, other)
