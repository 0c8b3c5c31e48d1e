"""The identity codec changes nothing, and says so when it is given the wrong thing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import ldm_identity
import pytest
import torch
from ldm_identity import IdentityConfig, IdentityDecoder, IdentityEncoder

from ldm_registry.errors import SpecError
from ldm_registry.interfaces import LatentSpace


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 7, 3), (3, 8, 8), (4, 1, 1)])
def test_what_goes_in_comes_out_bit_for_bit(dtype, channels, height, width):
    config = IdentityConfig(channels=channels)
    image = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    image[0, 0, 0, 0], image[1, 0, 0, 0] = -0.0, float("nan")
    latent = IdentityEncoder(config).encode(image, torch.Generator())
    out = IdentityDecoder(config).decode(latent)
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[image.element_size()]
    assert torch.equal(latent.view(bits), image.view(bits))
    assert torch.equal(out.view(bits), image.view(bits))


def test_the_generator_is_left_alone():
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    IdentityEncoder(IdentityConfig()).encode(torch.zeros(1, 3, 2, 2), generator)
    assert torch.equal(generator.get_state(), before)


def test_the_latent_space_is_that_of_the_pixels():
    for part in (IdentityEncoder(IdentityConfig(channels=5)), IdentityDecoder(IdentityConfig(channels=5))):
        assert part.latent_space == LatentSpace(channels=5, stride=1)
        assert part.image_channels == 5
        assert not part.state_dict()


@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (3, 2, 2)])
def test_a_wrong_shape_is_refused_with_both_sides(shape):
    with pytest.raises(SpecError, match=r"expected \[batch, 3, height, width\]"):
        IdentityEncoder(IdentityConfig()).encode(torch.zeros(shape))
    with pytest.raises(SpecError, match=r"expected \[batch, 3, height, width\]"):
        IdentityDecoder(IdentityConfig()).decode(torch.zeros(shape))


def test_the_hook_returns_what_the_entry_points_declare():
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    declared = set(project["entry-points"]["ldm_registry"])
    returned = {f"{one.kind}.{one.name}" for one in ldm_identity.register_components()}
    assert returned == declared
