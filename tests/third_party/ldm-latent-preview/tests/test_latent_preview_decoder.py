import torch
from ldm_registry.testing import ComponentSuite

from ldm_latent_preview.decoder import DecoderConfig, LatentPreviewDecoder


class TestLatentPreviewDecoder(ComponentSuite):
    component = LatentPreviewDecoder


def test_a_latent_of_zero_has_the_colour_of_the_bias() -> None:
    config = DecoderConfig(bias=(0.5, -0.5, 1.0))
    image = LatentPreviewDecoder(config).decode(torch.zeros(1, 4, 2, 3))
    assert image.shape == (1, 3, 16, 24)
    torch.testing.assert_close(image[0, :, 7, 11], torch.tensor(config.bias))


def test_colours_are_the_matrix_times_the_latent() -> None:
    weights = ((1.0, 0.0, 0.5), (0.0, 2.0, 0.5))
    config = DecoderConfig(weights=weights, bias=(0.0, 0.0, 0.0), stride=2, smooth=False)
    latent = torch.tensor([0.3, -0.1]).view(1, 2, 1, 1)
    image = LatentPreviewDecoder(config).decode(latent)
    torch.testing.assert_close(image[0, :, 1, 1], torch.tensor([0.3, -0.2, 0.1]))
