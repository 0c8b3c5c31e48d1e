import torch
from ldm_registry.testing import ComponentSuite

from ldm_block_dct.codec import BlockDctDecoder, BlockDctEncoder, CodecConfig, cosines


class TestBlockDctEncoder(ComponentSuite):
    component = BlockDctEncoder


class TestBlockDctDecoder(ComponentSuite):
    component = BlockDctDecoder


def test_the_basis_is_orthonormal() -> None:
    basis = cosines(8, 64).flatten(1).double()
    torch.testing.assert_close(basis @ basis.t(), torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)


def test_with_every_frequency_nothing_is_lost() -> None:
    config = CodecConfig(stride=4, stds=tuple(0.1 + 0.1 * index for index in range(16)))
    image = 2 * torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) - 1
    latent = BlockDctEncoder(config).encode(image)
    assert latent.shape == (2, 48, 2, 3)
    torch.testing.assert_close(BlockDctDecoder(config).decode(latent), image)


def test_a_flat_image_has_only_its_first_coefficient() -> None:
    config = CodecConfig(stride=8, stds=(1.0, 1.0, 1.0), mean=0.0)
    latent = BlockDctEncoder(config).encode(torch.full((1, 3, 8, 8), 0.25))
    expected = torch.tensor([2.0, 0.0, 0.0] * 3).view(1, 9, 1, 1)
    torch.testing.assert_close(latent, expected, atol=1e-6, rtol=0)
