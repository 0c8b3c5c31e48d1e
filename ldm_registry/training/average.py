"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from ldm_registry.training.sharding import forget_whole, is_in_parts, own_part


@final
class Average:
    """Running average of every floating-point tensor of some modules.

    The decay of step t is `0.5 ** (1 / min(half_life, warmup * t))`: a half-life that grows with the run until
    it reaches its final value, so that the random start does not linger (Karras et al. 2024, section 3.1, give
    the reason; the rule is their reference code's).

    Args:
        modules: By name.
        half_life: Steps; 0 makes the average follow the weights.
        warmup: Share of the steps taken that the half-life may reach.
    """

    def __init__(self, modules: Mapping[str, nn.Module], half_life: float, warmup: float) -> None:
        self._half_life, self._warmup = half_life, warmup
        self._modules = tuple(modules.values())
        self._live = {
            f"{prefix}.{name}": tensor
            for prefix, module in modules.items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if tensor.is_floating_point()
        }
        self._shadow = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights in.

        Args:
            step: Steps taken before this one.
        """
        half_life = min(self._half_life, self._warmup * step)
        decay = 0.5 ** (1.0 / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(
            [own_part(shadow) for shadow in self._shadow.values()],
            [own_part(live.detach()) for live in self._live.values()],
            1.0 - decay,
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The modules carry the averaged weights while this is entered."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """The modules carry the averaged weights from now on."""
        self._exchange()

    def tensors(self) -> Mapping[str, Tensor]:
        """The averages by the tensors' qualified names; writing into them changes the average."""
        return self._shadow

    def _exchange(self) -> None:
        for name, live in self._live.items():
            if is_in_parts(
                live
            ):  # what is sharded has other views of its memory: only the values can change places
                kept = own_part(live.detach()).clone()
                own_part(live.detach()).copy_(own_part(self._shadow[name]))
                own_part(self._shadow[name]).copy_(kept)
            else:
                live.data, self._shadow[name] = self._shadow[name], live.data
        for module in self._modules:
            forget_whole(module)
