"""A convolution that does its work as it is fastest on the CPU."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.linear import MKL_LAGS

LARGE = 2**14
"""Positions from which PyTorch's group norms lose digits in channels_last: 4e-6 of a deviation at 256 x 256."""

HEAVY = 2**19
"""Weights from which a small map is convolved as a matrix product."""
FEW = 2
"""How many output channels there are at least for each position of a small map."""
FEWER = 8
"""The same where MKL, which does the product, is the slower one."""


@final
class Convolution(nn.Conv2d):
    """A 2D convolution that without gradients, on the CPU, works in channels_last, and on small maps as a product.

    PyTorch takes the layout of the weights over to what comes out, so a network of these stays in it, and attention
    reads its maps as tokens without a copy. The weights are those of the state dict: nothing is kept beside them that
    could be out of date. With gradients they lie as they did before, so that training knows nothing of all this.
    """

    _was_laid = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, I, J]."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = self._prepared(x)
            if self._is_heavy(x):
                return self._product(x)
        return super().forward(x)

    def _is_heavy(self, x: Tensor) -> bool:
        """Whether it is more work to rearrange the weights, as PyTorch does in each call, than to gather windows."""
        positions = len(x) * x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        return (
            self.weight.numel() >= HEAVY
            and _channels_a_position(x.dtype) * positions <= self.out_channels
            and x.dtype in (torch.float32, torch.float64)
            and self.weight.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_grad_enabled()
        )

    def _product(self, x: Tensor) -> Tensor:
        """The convolution as one matrix product of windows and weights; what comes out lies in channels_last."""
        assert not isinstance(self.padding, str)
        (height, width), (down, right), (top, left) = self.kernel_size, self.stride, self.padding
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        windows = padded.unfold(1, height, down).unfold(2, width, right).permute(0, 1, 2, 4, 5, 3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(windows.flatten(3), weight, self.bias).permute(0, 3, 1, 2)

    def _prepared(self, x: Tensor) -> Tensor:
        large = x.shape[2] * x.shape[3] >= LARGE
        if not (large or torch.is_grad_enabled()):
            self._was_laid |= lay(self.weight, torch.channels_last)
            return x
        if self._was_laid:
            lay(self.weight, torch.contiguous_format)
            self._was_laid = False
        return x.contiguous() if large and not torch.is_grad_enabled() else x


def _channels_a_position(dtype: torch.dtype) -> int:
    return FEWER if dtype == torch.float32 and MKL_LAGS else FEW


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
