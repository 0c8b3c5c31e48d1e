"""The modules of the original code, as far as their parameters: names and shapes come from here, not from a table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Dropout(0), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))


class GEGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width), nn.Dropout(0), nn.Linear(4 * width, width))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context: int, depth: int, linear: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width)
        project = nn.Linear if linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.proj_in = project(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context) for _ in range(depth))
        self.proj_out = project(width, width)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)


class UNetModel(nn.Module):
    def __init__(
        self,
        channels: int,
        factors: tuple[int, ...],
        layers: int,
        depths: tuple[int, ...],
        context: int,
        linear: bool,
        added: int | None = None,
        in_channels: int = 4,
    ) -> None:
        super().__init__()
        time = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        if added:
            inner = nn.Sequential(nn.Linear(added, time), nn.SiLU(), nn.Linear(time, time))
            self.label_emb = nn.Sequential(inner)

        def attend(width: int, depth: int) -> SpatialTransformer:
            return SpatialTransformer(width, context, depth, linear)

        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1))])
        width, stack = channels, [channels]
        for level, factor in enumerate(factors):
            for _ in range(layers):
                modules: list[nn.Module] = [ResBlock(width, factor * channels, time)]
                width = factor * channels
                if depths[level]:
                    modules.append(attend(width, depths[level]))
                self.input_blocks.append(nn.Sequential(*modules))
                stack.append(width)
            if level != len(factors) - 1:
                self.input_blocks.append(nn.Sequential(Downsample(width)))
                stack.append(width)
        middle = depths[-1] or 1
        self.middle_block = nn.Sequential(
            ResBlock(width, width, time), attend(width, middle), ResBlock(width, width, time)
        )
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(factors))):
            for block in range(layers + 1):
                modules = [ResBlock(width + stack.pop(), factor * channels, time)]
                width = factor * channels
                if depths[level]:
                    modules.append(attend(width, depths[level]))
                if level and block == layers:
                    modules.append(Upsample(width))
                self.output_blocks.append(nn.Sequential(*modules))
        self.out = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, 4, 3, padding=1))


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)


class AttnBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))


class Half(nn.Module):
    """Encoder or Decoder of `ldm.modules.diffusionmodules.model`."""

    def __init__(
        self,
        widths: tuple[int, ...],
        layers: int,
        attends: tuple[bool, ...],
        inputs: int,
        outputs: int,
        down: bool,
    ) -> None:
        super().__init__()
        order = list(enumerate(widths)) if down else list(reversed(list(enumerate(widths))))
        width = widths[0] if down else widths[-1]
        self.conv_in = nn.Conv2d(inputs, width, 3, padding=1)
        levels = {}
        for level, target in order:
            module = nn.Module()
            module.block, module.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(layers if down else layers + 1):
                module.block.append(ResnetBlock(width, target))
                width = target
                if attends[level]:
                    module.attn.append(AttnBlock(width))
            if down and level != len(widths) - 1:
                module.downsample = Upsample(width)
            if not down and level:
                module.upsample = Upsample(width)
            levels[level] = module
        stack = nn.ModuleList(levels[level] for level in range(len(widths)))
        setattr(self, "down" if down else "up", stack)
        self.mid = nn.Module()
        deep = widths[-1]
        self.mid.block_1, self.mid.attn_1 = ResnetBlock(deep, deep), AttnBlock(deep)
        self.mid.block_2 = ResnetBlock(deep, deep)
        self.norm_out = nn.GroupNorm(32, width)
        self.conv_out = nn.Conv2d(width, outputs, 3, padding=1)


class Autoencoder(nn.Module):
    def __init__(
        self,
        widths: tuple[int, ...],
        layers: int = 2,
        latent: int = 4,
        attends: tuple[bool, ...] | None = None,
        quant: bool = True,
        codes: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        attends = attends or (False,) * len(widths)
        moments = latent if codes else 2 * latent
        self.encoder = Half(widths, layers, attends, 3, moments, True)
        self.decoder = Half(widths, layers, attends, latent, 3, False)
        if codes:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(*codes)
        if quant:
            self.quant_conv = nn.Conv2d(moments, codes[1] if codes else moments, 1)
            self.post_quant_conv = nn.Conv2d(codes[1] if codes else latent, latent, 1)


class OpenClip(nn.Module):
    """The text half of open_clip's models."""

    def __init__(
        self, width: int, layers: int, vocabulary: int = 49408, projection: int | None = None
    ) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(77, width))
        self.text_projection = nn.Parameter(torch.empty(width, projection or width))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(self._block(width) for _ in range(layers))
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.ln_final = nn.LayerNorm(width)

    @staticmethod
    def _block(width: int) -> nn.Module:
        block = nn.Module()
        block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        block.attn = nn.MultiheadAttention(width, max(1, width // 64))
        block.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width))
        )
        return block


def clip(width: int, layers: int, vocabulary: int = 49408) -> dict[str, Tensor]:
    """OpenAI's text encoder, which the original code took from transformers with its names of that time."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=vocabulary,
        bos_token_id=0,
        eos_token_id=2,
    )
    state = CLIPTextModel(config).state_dict()
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()} | ids


NOISE = ("betas", "alphas_cumprod", "sqrt_alphas_cumprod", "posterior_variance", "logvar")


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def pipeline_file(unet: nn.Module, vae: nn.Module, text: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    tensors = prefixed("model.diffusion_model.", unet.state_dict())
    tensors |= prefixed("first_stage_model.", vae.state_dict())
    for prefix, state in text.items():
        tensors |= prefixed(prefix, state)
    return tensors | {name: torch.zeros(10) for name in NOISE}


def sd1(small: bool = True) -> dict[str, Tensor]:
    if small:
        unet = UNetModel(64, (1, 2), 2, (1, 0), 64, False)
        vae, text = Autoencoder((32, 64), 1), clip(64, 2, 99)
    else:
        unet = UNetModel(320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 768, False)
        vae, text = Autoencoder((128, 256, 512, 512)), clip(768, 12)
    return pipeline_file(unet, vae, {"cond_stage_model.transformer.": text})


def sd2(small: bool = True) -> dict[str, Tensor]:
    if small:
        unet = UNetModel(64, (1, 2), 1, (1, 0), 64, True)
        vae, text = Autoencoder((32, 64), 1), OpenClip(64, 3, 99)
    else:
        unet = UNetModel(320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1024, True)
        vae, text = Autoencoder((128, 256, 512, 512)), OpenClip(1024, 24)
    return pipeline_file(unet, vae, {"cond_stage_model.model.": text.state_dict()})


def sdxl(small: bool = True) -> dict[str, Tensor]:
    if small:
        unet = UNetModel(64, (1, 2, 2), 2, (0, 1, 2), 192, True, added=6 * 256 + 192)
        vae, first, second = Autoencoder((32, 64), 1), clip(64, 2, 99), OpenClip(128, 2, 99, 192)
    else:
        unet = UNetModel(320, (1, 2, 4), 2, (0, 2, 10), 2048, True, added=2816)
        vae, first, second = Autoencoder((128, 256, 512, 512)), clip(768, 12), OpenClip(1280, 32)
    text = {
        "conditioner.embedders.0.transformer.": first,
        "conditioner.embedders.1.model.": second.state_dict(),
    }
    return pipeline_file(unet, vae, text) | {"denoiser.sigmas": torch.zeros(1000)}


FILES: dict[str, Callable[..., dict[str, Tensor]]] = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def randomised(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Every floating-point tensor with other values than any other."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator).mul(0.05).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture(scope="session")
def original() -> Any:
    """The modules of the original code and files made of them."""
    return SimpleNamespace(
        UNetModel=UNetModel,
        Autoencoder=Autoencoder,
        OpenClip=OpenClip,
        clip=clip,
        files=FILES,
        randomised=randomised,
        seeded=seeded,
    )
