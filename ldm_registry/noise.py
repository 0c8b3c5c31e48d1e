"""How much noise there is: `(alpha, sigma)` of `z_t = alpha * x0 + sigma * epsilon`, one level or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, overload

import torch
from torch import Tensor

from ldm_registry.runtime.transfer import moved
from ldm_registry.vocabulary import Scaling

_ROUNDING = 4e-16
"""What square root and sum of squares may lose of 1 in float64."""

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for the whole batch, or one for each of its B samples."""


@dataclass(frozen=True)
class NoiseLevel:
    """`(alpha, sigma)` of `z_t = alpha * x0 + sigma * epsilon`.

    What follows from the two is worked out once: every run of a sampler visits the same levels.

    Attributes:
        alpha: Signal scale, float64 on the CPU, shape [] or [B].
        sigma: Noise scale, same type and shape.
    """

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, alpha: float, sigma: float) -> Self:
        """One level from two numbers."""
        pair = torch.tensor([alpha, sigma], dtype=torch.float64, device="cpu")
        return cls(pair[0], pair[1])

    @classmethod
    def at(cls, log_snr: Tensor, scaling: Scaling) -> Self:
        """The level of a given log-SNR in the units of a scaling.

        Args:
            log_snr: `log(alpha**2 / sigma**2)`, nats, any shape; infinities give the two ends exactly.
            scaling: The units.
        """
        log_snr = log_snr.to("cpu", torch.float64)
        match scaling:
            case Scaling.VP:
                return cls(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())
            case Scaling.VE:
                return cls(torch.ones_like(log_snr), torch.exp(-0.5 * log_snr))
            case Scaling.FLOW:
                return cls(torch.sigmoid(0.5 * log_snr), torch.sigmoid(-0.5 * log_snr))

    @property
    def log_snr(self) -> Tensor:
        """`log(alpha**2 / sigma**2)` in nats, shape of alpha."""
        return 2.0 * (self.alpha.log() - self.sigma.log())

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of `z_t` for unit-variance data: `sqrt(alpha**2 + sigma**2)`."""
        # What is kept may outlive an inference mode, and be differentiated through elsewhere.
        with torch.inference_mode(False):
            return torch.hypot(self.alpha, self.sigma)

    @cached_property
    def is_single(self) -> bool:
        """Whether it is one level for a whole batch, rather than one for each of its samples."""
        return self.alpha.ndim == 0

    @cached_property
    def numbers(self) -> tuple[float, float]:
        """alpha and sigma of a single level: arithmetic with numbers takes no kernel, and waits for no device."""
        return float(self.alpha), float(self.sigma)

    @cached_property
    def has_signal(self) -> bool:
        """Whether alpha is above 0, for every sample of the batch."""
        return bool((self.alpha > 0).all())

    @cached_property
    def is_normalised(self) -> bool:
        """Whether `alpha**2 + sigma**2` is 1 but for rounding, as everywhere in a variance-preserving schedule."""
        return bool(((self.std - 1.0).abs() <= _ROUNDING).all())

    def normalised(self) -> NoiseLevel:
        """The same noise-to-signal ratio with `alpha**2 + sigma**2 = 1`; itself where it has that already."""
        return self if self.is_normalised else self._normalised

    @cached_property
    def _normalised(self) -> NoiseLevel:
        std = self.std
        with torch.inference_mode(False):
            return NoiseLevel(self.alpha / std, self.sigma / std)

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, ready to multiply a batch.

        Args:
            like: Any tensor of shape [B, ...].

        Returns:
            Two tensors of shape [], or [B, 1, ...] of the dtype and device of `like`.
        """
        return broadcast(self.alpha, like), broadcast(self.sigma, like)

    def add_noise(self, x0: Tensor, epsilon: Tensor) -> Tensor:
        """`alpha * x0 + sigma * epsilon`, shape of x0."""
        alpha, sigma = self.scales(x0)
        return alpha * x0 + sigma * epsilon


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample numbers, shaped to multiply a batch.

    Args:
        values: Shape [] or [B].
        like: Shape [B, ...]; gives dtype and device.

    Returns:
        Shape [B, 1, ...], or `values` as it is where it is a single number: that multiplies a tensor on any
        device without a transfer, and leaves its dtype alone.
    """
    if values.ndim == 0:
        return values
    return values.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class NoiseLevels(Sequence[NoiseLevel]):
    """The levels that a sampler visits, noisiest first.

    Attributes:
        alpha: float64 [N + 1] on the CPU.
        sigma: float64 [N + 1] on the CPU.
        prior_std: Standard deviation of the noise that sampling starts from; None means the marginal of
            unit-variance data at the first level, `sqrt(alpha[0]**2 + sigma[0]**2)`.
    """

    alpha: Tensor
    sigma: Tensor
    prior_std: float | None = None

    def __len__(self) -> int:
        return len(self.alpha)

    @overload
    def __getitem__(self, index: int) -> NoiseLevel: ...
    @overload
    def __getitem__(self, index: slice) -> NoiseLevels: ...
    def __getitem__(self, index: int | slice) -> NoiseLevel | NoiseLevels:
        if isinstance(index, slice):
            return NoiseLevels(self.alpha[index], self.sigma[index])
        return self._each[index]

    @cached_property
    def _each(self) -> tuple[NoiseLevel, ...]:
        return tuple(map(NoiseLevel, self.alpha.unbind(), self.sigma.unbind()))

    @property
    def log_snr(self) -> Tensor:
        """float64 [N + 1], nats, rising; the last is +inf when sampling ends without noise."""
        return 2.0 * (self.alpha.log() - self.sigma.log())

    def prior(self, noise: Tensor) -> Tensor:
        """Scale standard normal noise [B, C, H, W] to the start of the trajectory."""
        std = float(self[0].std) if self.prior_std is None else self.prior_std
        return std * noise


def randn(
    shape: Sequence[int],
    generator: Generators | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise that does not depend on device or dtype.

    Always drawn in float32 on the generator's own device and then converted, so that one seed means one image
    on every machine; with a generator for each sample it does not depend on the batch either.

    Args:
        shape: [B, ...].
        generator: One, or B of them.
        device: Of the result.
        dtype: Of the result.
    """
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(
                f"got {len(generator)} generators for a batch of {shape[0]}; give one for each sample"
            )
        draws = [_drawn((1, *shape[1:]), one) for one in generator]
        noise = draws[0] if len(draws) == 1 else torch.cat(draws)
    else:
        noise = _drawn(shape, generator)
    return moved(noise, torch.device(device), dtype)


def _drawn(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)
