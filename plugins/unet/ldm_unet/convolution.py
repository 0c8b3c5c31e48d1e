"""A convolution whose weights lie in the memory as they are fastest to use."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

LARGE = 2**14
"""Positions from which PyTorch's group norms lose digits in channels_last: 4e-6 of a deviation at 256 x 256."""


@final
class Convolution(nn.Conv2d):
    """A 2D convolution that without gradients, on the CPU, works in channels_last.

    PyTorch takes the layout of the weights over to what comes out, so a network of these stays in it, and attention
    reads its maps as tokens without a copy. The weights are those of the state dict: nothing is kept beside them that
    could be out of date. With gradients they lie as they did before, so that training knows nothing of all this.
    """

    _was_laid = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, I, J]."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = self._prepared(x)
        return super().forward(x)

    def _prepared(self, x: Tensor) -> Tensor:
        large = x.shape[2] * x.shape[3] >= LARGE
        if not (large or torch.is_grad_enabled()):
            self._was_laid |= lay(self.weight, torch.channels_last)
            return x
        if self._was_laid:
            lay(self.weight, torch.contiguous_format)
            self._was_laid = False
        return x.contiguous() if large and not torch.is_grad_enabled() else x


def lay(weight: Tensor, layout: torch.memory_format) -> bool:
    """Give a parameter another layout: the same values in the same object.

    Args:
        weight: Four-dimensional; what is no parameter of a network stays as it is.
        layout: The wanted one.

    Returns:
        Whether it had another one.
    """
    if (
        weight.is_contiguous(memory_format=layout)
        or type(weight) is not nn.Parameter
        or weight.is_inference()
    ):
        return False
    # Tensors that are made in inference mode could never be trained again.
    with torch.inference_mode(False), torch.no_grad():
        weight.data = weight.data.contiguous(memory_format=layout)
    return True


def laid_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the layout of `like`, copied where it has another one."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
