"""Faults of weights: altered in transit, never loaded, or worn down to a few codes."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn

from ldm_faults.fault import Fault, SeededConfig, floating
from ldm_registry.interfaces import Component
from ldm_registry.vocabulary import Kind

_SHARE_OF_WEIGHTS = 0.01
_FEWEST_CODES = 4


@final
class CorruptedDecoderWeights(Fault):
    """F18: the decoder's file was altered in transit and has the right size.

    Met as a mesh over every image (a broken download of a video VAE). Flips the sign, the lowest bit of the
    exponent or the highest of the mantissa of some weights, at most 1 % of them with strength 1. The weights of
    one strength are among those of a higher one.
    """

    name = "corrupted-decoder-weights"
    fault_id = "F18"
    Config = SeededConfig
    modifies = stages = (Kind.DECODER,)
    words = ("weights are altered or corrupt", "files differ from the contract", "mesh")
    fault_class = "weights of the decoder"

    @torch.no_grad()
    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        tensors = list(floating(part))
        if not tensors:
            raise self.refusal(part, "it has no weights")
        generator = self.generator()
        bits = torch.tensor([-(2**31), 1 << 23, 1 << 22], dtype=torch.int32)
        for tensor in tensors:
            hit = torch.rand(tensor.shape, generator=generator) < _SHARE_OF_WEIGHTS * self.strength
            which = bits[torch.randint(0, 3, tensor.shape, generator=generator)]
            flipped = (tensor.float().cpu().contiguous().view(torch.int32) ^ which).view(torch.float32)
            tensor.copy_(torch.where(hit.to(tensor.device), flipped.to(tensor), tensor))


@final
class RandomWeights(Fault):
    """F44: some layers keep the random weights that they were built with, and nothing but a log line says so.

    Met as noise or a loss of quality (loading with `strict=False`; 12 of the 24 blocks of a video model). Strength
    is the share of the layers, in a random order, the same for every strength.
    """

    name = "random-weights"
    fault_id = "F44"
    Config = SeededConfig
    modifies = (Kind.ENCODER, Kind.DENOISER, Kind.DECODER)
    stages = (Kind.DENOISER,)
    words = ("weights are left at random", "weights were never")
    fault_class = "weights never loaded"

    @torch.no_grad()
    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        layers = [
            module for module in part.modules() if next(module.parameters(recurse=False), None) is not None
        ]
        if not layers:
            raise self.refusal(part, "it has no weights that a training made")
        generator = self.generator()
        order = torch.randperm(len(layers), generator=generator).tolist()
        for index in order[: math.ceil(self.strength * len(layers))]:
            _forget(layers[index], torch.Generator().manual_seed(index))


@final
class CollapsedCodebook(Fault):
    """F29: almost all codes of a codebook have become copies of a few.

    Met as flat or blurry reconstructions and a perplexity that stays near 1 (VQ-VAE trainings). Of N codes about
    `N ** (1 - strength)` stay, and no fewer than 4.
    """

    name = "collapsed-codebook"
    fault_id = "F29"
    Config = SeededConfig
    modifies = stages = (Kind.DECODER,)
    words = ("codebook has collapsed",)
    fault_class = "codebook collapse"

    @torch.no_grad()
    def injure(self, part: Component) -> None:
        """As `Fault.injure`."""
        book = getattr(getattr(part, "quantize", None), "embedding", None)
        if not isinstance(book, nn.Embedding):
            raise self.refusal(part, "it has no codebook (no embedding under `quantize`)")
        weight = book.weight
        count = len(weight)
        kept = max(_FEWEST_CODES, round(count ** (1.0 - self.strength)))
        order = torch.randperm(count, generator=self.generator()).to(weight.device)
        weight[order] = weight[order[torch.arange(count, device=weight.device) % kept]]


def _forget(layer: nn.Module, generator: torch.Generator) -> None:
    """The weights that a layer is built with; the global random state stays as it was."""
    reset: Any = getattr(layer, "reset_parameters", None)
    if callable(reset):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            reset()
        return
    for tensor in layer.parameters(recurse=False):
        noise: Tensor = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(0.02 * noise)
