"""Large images in tiles, upsampling folded into its convolution, and memory that is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from ldm_kl_vae import KLDecoder, KLEncoder, KLVAEConfig
from ldm_kl_vae.blocks import ResnetBlock, Upsample
from ldm_kl_vae.group_norm import GroupNorm
from ldm_kl_vae.upsampling import upsampled_conv
from torch import nn
from torch.nn import functional

from ldm_registry.errors import SpecError

PLAIN = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "layers_per_block": 2}
CONFIGS = {
    "plain": PLAIN,
    "no attention, other channels": PLAIN
    | {"mid_block_add_attention": False, "in_channels": 1, "out_channels": 5, "act_fn": "gelu"},
    "no 1x1 convolutions": PLAIN | {"use_quant_conv": False, "use_post_quant_conv": False},
    "attention at every level": PLAIN
    | {"down_block_types": ("AttnDownEncoderBlock2D",) * 3, "up_block_types": ("AttnUpDecoderBlock2D",) * 3},
}


def config(**keys: object) -> KLVAEConfig:
    types = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return KLVAEConfig(**(types | keys))


def made(part: nn.Module) -> nn.Module:
    """In float64, with every parameter moved off its initial value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.double().eval().parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.2
            )
    return part


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_tiles_give_the_image_and_the_latent_of_the_whole(name):
    encoder, decoder = made(KLEncoder(config(**CONFIGS[name]))), made(KLDecoder(config(**CONFIGS[name])))
    image, latent = normal(2, encoder.image_channels, 40, 28), normal(2, 4, 10, 7)
    whole = encoder.encode(image), decoder.decode(latent)
    for tile in (12, 32):
        encoder.tile_pixels = decoder.tile_pixels = tile
        assert error(encoder.encode(image), whole[0]) < 1e-11
        assert error(decoder.decode(latent), whole[1]) < 1e-11


@torch.no_grad()
def test_a_tile_decoded_by_itself_differs():
    decoder, latent = made(KLDecoder(config(**PLAIN))), normal(1, 4, 10, 10)
    whole = decoder.decode(latent)
    assert error(decoder.decode(latent[:, :, :5])[:, :, :12], whole[:, :, :12]) > 1e-3


def test_with_gradients_the_whole_is_decoded():
    decoder, latent = made(KLDecoder(config(**PLAIN))), normal(1, 4, 6, 6).requires_grad_()
    decoder.tile_pixels = 8
    decoder.decode(latent).sum().backward()
    assert float(latent.grad.abs().max()) > 0


@torch.no_grad()
def test_tiles_are_refused_while_a_module_is_watched():
    decoder = made(KLDecoder(config(**PLAIN)))
    decoder.tile_pixels = 8
    decoder.decoder.conv_in.register_forward_hook(lambda *_: None)
    with pytest.raises(SpecError, match=r"decoder\.conv_in has hooks"):
        decoder.decode(normal(1, 4, 6, 6))


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (2, 1, 1, 1), (1, 4, 2, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_upsampling_and_its_gradients_are_those_of_two_steps(shape, bias):
    x = normal(*shape).requires_grad_()
    conv = made(nn.Conv2d(shape[1], 5, 3, padding=1, bias=bias))
    inputs = [x, *conv.parameters()]
    folded = upsampled_conv(x, conv.weight, conv.bias)
    plain = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    weights = normal(*plain.shape)
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad((folded * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_folded_upsampling_follows_weights_that_change_in_any_way():
    layer, x = made(Upsample(4)), normal(1, 4, 3, 3)

    def plain() -> torch.Tensor:
        return functional.conv2d(
            functional.interpolate(x, scale_factor=2.0), layer.conv.weight, layer.conv.bias, padding=1
        )

    torch.testing.assert_close(layer(x), plain())
    layer.conv.weight.mul_(-2.0)
    torch.testing.assert_close(layer(x), plain())
    layer.conv.weight.data = layer.conv.weight.data + 1.0
    torch.testing.assert_close(layer(x), plain())
    layer.load_state_dict({"conv.weight": normal(4, 4, 3, 3), "conv.bias": normal(4)}, assign=True)
    torch.testing.assert_close(layer(x), plain())


@torch.no_grad()
def test_a_convolution_that_is_watched_or_replaced_is_called():
    layer, x, seen = made(Upsample(4)), normal(1, 4, 3, 3), []
    folded = layer(x)
    hook = layer.conv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    torch.testing.assert_close(layer(x), folded)
    assert len(seen) == 1
    hook.remove()
    layer.conv = nn.Sequential(layer.conv, nn.Flatten(0, 1))
    assert layer(x).shape == (4, 6, 6)


def test_recorded_outputs_are_not_overwritten():
    block, x = made(ResnetBlock(8, 8, 4, "silu")), normal(1, 8, 4, 4)
    for name in ("norm1", "norm2", "conv2"):
        seen: list[torch.Tensor] = []
        hook = block.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, seen=seen: seen.append(output.detach())
        )
        block(x)
        with torch.no_grad():
            block(x)
        hook.remove()
        assert torch.equal(*seen), name


def test_a_norm_that_hands_on_its_input_leaves_it_as_it_was():
    block, x = made(ResnetBlock(8, 8, 4, "silu")), normal(1, 8, 4, 4)
    block.norm1 = nn.Identity()
    expected, before = block(x).detach(), x.clone()
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


@torch.no_grad()
def test_norms_of_large_maps_keep_their_digits():
    x = (normal(2, 4, 300, 200) + 3.0).float().contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(2, 4)
    norm.load_state_dict({"weight": normal(4).float(), "bias": normal(4).float()})
    truth = functional.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double())
    ours, plain = (
        float((y - truth).square().mean().sqrt())
        for y in (norm(x), functional.group_norm(x, 2, norm.weight, norm.bias))
    )
    assert ours < 3e-7
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
    assert plain > 3 * ours, "the detour is not needed any more"


MEASURE = """
import threading, torch
from ldm_kl_vae import {part}, KLVAEConfig
from ldm_registry.runtime.heap import return_freed
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
part = {part}(KLVAEConfig(
    block_out_channels=(32, 64, 128, 128), layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)).eval()
call = getattr(part, "{call}")
x = torch.rand({shape})
with torch.inference_mode():
    call(x[:, :, :64, :64])
    part.tile_pixels = {tile}
    return_freed()
    start, done = resident(), threading.Event()
    peak = [start]
    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())
    watcher = threading.Thread(target=watch)
    watcher.start()
    call(x)
    done.set()
    watcher.join()
print(peak[0] - start + x.nbytes, part.working_memory(1, 512, 512))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux tells it")
@pytest.mark.parametrize(
    ("part", "call", "shape", "tile", "at_most"),
    [
        ("KLDecoder", "decode", (1, 4, 64, 64), 128, 1.3),
        ("KLDecoder", "decode", (1, 4, 64, 64), None, 1.6),
        ("KLEncoder", "encode", (1, 3, 512, 512), 128, 1.6),
    ],
)
def test_stated_memory_is_what_the_process_takes(part, call, shape, tile, at_most):
    code = MEASURE.format(part=part, call=call, shape=shape, tile=tile)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured, stated = map(int, done.stdout.split())
    assert 0.6 * stated < measured < at_most * stated
