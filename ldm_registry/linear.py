"""Linear layers of many rows, with the kernel that is fastest on this processor."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_registry.runtime import processor

HEAVY = 2**16
"""Weights from which a convolution gains more than its call costs."""
LARGE = 20_480
"""Numbers in the input up to which torch leaves oneDNN aside."""
WEIGHTS_A_ROW = 2**17
"""Weights for each row of the input from which it is more work to rearrange them, as oneDNN does in each call."""


def mkl_lags() -> bool:
    """Whether this processor has AVX-512 and MKL does not use it."""
    return (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # torch's stubs
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's stubs
        and processor.maker() != "GenuineIntel"
    )


MKL_LAGS = mkl_lags()
"""As it was when this was imported: code that is being compiled can read it, but not ask the machine."""


@final
class TokenLinear(nn.Linear):
    """`torch.nn.Linear` for tokens or positions: the same weights and result, in less time on some processors."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; without gradients as a 1x1 convolution, where that is faster.

    Torch gives matrix products to MKL, which uses AVX-512 on Intel's processors alone, and convolutions to oneDNN,
    which uses it wherever there is any: on AMD's it takes about half the time.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        [..., N]; rounded differently in its last bits by the two ways.
    """
    if not _convolves(x, weight):
        return F.linear(x, weight, bias)
    # A single column of rows in channels_last, each stride spelt out: of an axis of one, torch would take any.
    column = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    kernel = weight.view(len(weight), 1, 1, -1).permute(0, 3, 1, 2)
    # A 1x1 kernel looks nowhere else, however dilated. With one thread torch gives only dilated ones to oneDNN.
    dilation = 2 if not torch.compiler.is_compiling() and torch.get_num_threads() == 1 else 1
    return F.conv2d(column, kernel, bias, dilation=dilation).permute(0, 2, 3, 1).view(*x.shape[:-1], -1)


def _convolves(x: Tensor, weight: Tensor) -> bool:
    return (
        HEAVY <= weight.numel() <= WEIGHTS_A_ROW * (x.numel() // x.shape[-1])
        and x.numel() > LARGE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.is_contiguous()
        and not torch.is_grad_enabled()
        and MKL_LAGS
    )
