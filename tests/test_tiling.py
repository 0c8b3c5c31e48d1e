"""Networks on large images: regions of maps, statistics over tiles, memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_registry import tiling
from ldm_registry.errors import SpecError
from ldm_registry.maps import Held, Map, Region
from ldm_registry.moments import group_moments, rows
from ldm_registry.tiling import Tiles, Walk, in_tiles, tiles_apply, working_bytes


class Network(nn.Module):
    """Everything that a walk knows: convolution, norm, half and twice the resolution, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.GroupNorm(3, 6)
        self.down = nn.Conv2d(6, 4, 3, padding=1, stride=2)
        self.up = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(functional.silu(self.norm(self.conv(x))))
        h = self._attend(h, h.flatten(2).transpose(1, 2))
        return self._upsample(h)

    def on_map(self, x: Map, walk: Walk) -> Map:
        h = walk.hold(x.through(self.conv, 6, halo=1))
        norm = walk.norm(self.norm, h)
        h = walk.hold(h.through(lambda part: self.down(functional.silu(norm(part))), 4, halo=2, down=2))
        h = walk.gathered(h, lambda part: part.flatten(2).transpose(1, 2), self._attend)
        return h.through(self._upsample, 3, halo=1, up=2)

    def _upsample(self, h: Tensor) -> Tensor:
        return self.up(functional.interpolate(h, scale_factor=2.0))

    def _attend(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = x.flatten(2).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, tokens, tokens)
        return x + mixed.transpose(1, 2).reshape(x.shape)


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Network().double().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn_like(parameter))
        return made


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 2, 14, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("tile", [4, 7, 16])
@pytest.mark.parametrize("held_bytes", [0, 10_000, 10**9])
@torch.no_grad()
def test_tiles_give_what_the_whole_gives(network, image, tile, held_bytes, monkeypatch):
    monkeypatch.setattr(tiling, "HELD_BYTES", held_bytes)
    whole = network(image)
    made = in_tiles(network, network.on_map, image, stride=1, tile_pixels=tile)
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


@torch.no_grad()
def test_a_map_held_in_16_bits_costs_no_more_than_it_says(network, image, monkeypatch):
    network.float()
    x = image.float()
    whole = network(x)
    # The first map takes 4 * 6 * 14 * 18 bytes: too much as it is, not in 16 bits.
    monkeypatch.setattr(tiling, "HELD_BYTES", 4 * 6 * 14 * 18 - 1)
    made = in_tiles(network, network.on_map, x, stride=1, tile_pixels=5)
    noise = float((made - whole).square().mean() / whole.square().mean())
    assert 1e-13 < noise < 1e-8


def test_stored_integers_are_within_half_a_step_and_zeros_and_infinities_stay(image):
    values = torch.cat([1000 * image[:1].float(), torch.zeros(1, 1, 14, 18)], dim=1)
    values[0, 1, 2, 3] = torch.inf
    held = Held.like(Held.of(values, 1), torch.int16)
    held.add_bands(0, 14, 4)
    for left in (0, 9):
        held.write(Region(0, 14, left, left + 9), values[..., left : left + 9])
    read = held.read(Region(0, 14, 0, 18))
    step = values[0, 0].abs().max() / 32767
    assert float((read - values)[0, 0].abs().max()) <= 0.51 * step
    assert bool((read[0, 2] == 0).all())
    assert not bool(read[0, 1].isfinite().all())


@torch.no_grad()
def test_a_halo_that_is_too_small_shows(network, image):
    def without_halo(x: Map, walk: Walk) -> Map:
        return x.through(network.conv, 6, halo=0)

    made = in_tiles(network, without_halo, image, stride=1, tile_pixels=8)
    assert not torch.allclose(made, network.conv(image))


@torch.no_grad()
def test_statistics_of_a_map_far_from_zero_keep_their_digits():
    norm = nn.GroupNorm(2, 4)
    x = 1e4 + torch.randn(1, 4, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = functional.group_norm(x.float().double(), 2)
    tiles = Tiles(7)
    mean, variance = group_moments(torch.split(rows(x.float()), 101), 2)
    groups = x.float().double().view(2, -1)
    torch.testing.assert_close(mean, groups.mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(variance, groups.var(1, correction=0), rtol=1e-4, atol=0)
    made = tiles.norm(norm.double(), Held.of(x.float().double(), 1))(x.float().double())
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


def test_every_position_is_in_one_tile():
    of = Held.of(torch.zeros(1, 1, 11, 17), 4)
    seen = torch.zeros(11, 17)
    for row in Tiles(20).tile_rows(of):
        for region in row:
            seen[region.top : region.bottom, region.left : region.right] += 1
            assert region.area <= 25
    assert bool((seen == 1).all())


def test_rows_that_were_released_are_gone_and_the_others_are_not():
    values = torch.arange(24.0).view(1, 1, 6, 4)
    bands = {0: values[:, :, :2], 2: values[:, :, 2:]}
    held = Held(1, 6, 4, 1, values.dtype, values.device, bands, {}, values.dtype)
    assert torch.equal(held.read(Region(1, 4, 1, 3)), values[:, :, 1:4, 1:3])
    held.release(3)
    assert list(held.bands) == [2]
    assert torch.equal(held.read(Region(3, 6, 0, 4)), values[:, :, 3:])


def test_stated_memory_is_that_of_a_tile_where_nothing_is_held(network):
    def stated(size: int, tile: int | None) -> int:
        total = working_bytes(
            lambda x, _walk: x.through(network.conv, 6, halo=1),
            (1, 2, size, size),
            stride=1,
            tile_pixels=tile,
            dtype=torch.float32,
        )
        return total - 4 * (2 + 6) * size**2  # What goes in and what comes out.

    assert stated(512, 32) == stated(1024, 32) > 4 * 6 * 32**2
    assert stated(512, None) == pytest.approx(stated(512, 32) * 16**2, rel=0.1)


def test_stated_memory_grows_by_pixels_and_latents_alone_with_the_batch(network):
    def stated(batch: int, tile: int | None) -> int:
        shape = (batch, 2, 512, 512)
        return working_bytes(network.on_map, shape, stride=1, tile_pixels=tile, dtype=torch.float32)

    assert stated(3, 64) - stated(2, 64) == 4 * (2 + 3) * 512**2
    assert stated(3, None) == 3 * stated(1, None)


def test_tiles_apply_to_what_is_larger_than_one_and_wants_no_gradient(network):
    x = torch.zeros(1, 1, 4, 4)
    assert tiles_apply(network, x, (32, 33), 32)
    assert not tiles_apply(network, x, (32, 32), 32)
    assert not tiles_apply(network, x, (32, 33), None)
    assert not tiles_apply(network, x.requires_grad_(), (32, 33), 32)
    with torch.no_grad():
        assert tiles_apply(network.train(), x, (32, 33), 32)
    assert not tiles_apply(network, x.detach(), (32, 33), 32)


def test_hooks_are_refused_by_name(network, image):
    network.down.register_forward_hook(lambda *_: None)
    with pytest.raises(SpecError, match="down has hooks"):
        in_tiles(network, network.on_map, image, stride=1, tile_pixels=8)


def test_another_norm_is_refused_by_name(image):
    with pytest.raises(SpecError, match="got a normalisation of type BatchNorm2d, expected GroupNorm"):
        Tiles(8).norm(nn.BatchNorm2d(2), Held.of(image[:1], 1))
