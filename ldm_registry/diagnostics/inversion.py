"""Latents for given images from a decoder alone, no encoder asked: a linear estimate first, then gradient descent."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_registry.interfaces import Decoder
from ldm_registry.noise import randn
from ldm_registry.pipeline import placement

RIDGE = 3e-3
"""Relative to the mean power of the features."""
LEARNING_RATE = 0.2
BETAS = (0.8, 0.95)
"""Of Adam: shorter memories than usual, for a few dozen steps."""
POOLED_STRIDE = 8
"""Images are averaged down until a latent cell has this many pixels along one side, for the linear estimate."""

Decode = Callable[[Tensor], Tensor]


def linear_inverse(
    decode: Decode, images: Tensor, latents: tuple[int, int, int], seed: int, probes: int
) -> Tensor:
    """The latents that a linear, translation-invariant inverse of the decoder gives, [N, c, h, w] in float32.

    Decodes noise, and fits each latent cell to the image around it by ridge regression; then once more around the
    first estimate, where the decoder is better known. What the encoder does has no part in it.

    Args:
        decode: Latents [B, c, h, w] to images, float32 on the CPU.
        images: [N, C, H, W] to find latents for.
        latents: (c, h, w).
        seed: Of the noise.
        probes: How many latents to decode each time, even.
    """
    channels, height, width = latents
    count = probes // 2
    noise = _noise((2 * count, channels, height, width), seed)
    # Half of the probes vary smoothly, as latents of images do.
    smooth = functional.interpolate(
        functional.avg_pool2d(noise[count:], 2, ceil_mode=True) * 2.0, (height, width), mode="bilinear"
    )
    first = torch.cat([noise[:count], smooth])
    stride = images.shape[-1] // width
    estimate = _regress(first, decode(first), images, stride)
    near = estimate.repeat(-(-probes // len(estimate)), 1, 1, 1)[:probes]
    near = near + 0.5 * _noise(near.shape, seed + 1)
    return _regress(near, decode(near), images, stride)


def optimised(
    decoder: Decoder, images: Tensor, start: Tensor, steps: int, budget_s: float
) -> tuple[Tensor, list[float]] | None:
    """Latents whose decoding comes nearest to the images, by Adam on the squared error.

    Works on a copy of the decoder, so that no gradient, mode or hook stays behind. A quantiser passes the gradient
    straight through (van den Oord et al. 2017, section 3.2).

    Args:
        decoder: Not changed.
        images: [N, C, H, W].
        start: [N, c, h, w].
        steps: At most.
        budget_s: Stops early when this much time has passed.

    Returns:
        The latents, float32 on the CPU, and the mean squared error before each step; None where no gradient
        reaches the latents.
    """
    device, dtype = placement(decoder)
    # Gradients in half precision underflow.
    working = torch.promote_types(dtype, torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        twin = copy.deepcopy(decoder).to(working).eval().requires_grad_(False)
        _pass_gradients(twin)
        target = images.clone().to(device, working)
        z = start.clone().to(device, working).requires_grad_(True)
        adam = torch.optim.Adam([z], lr=LEARNING_RATE, betas=BETAS)
        best, least = z.detach().clone(), torch.full((len(z),), torch.inf, dtype=working, device=device)
        errors: list[float] = []
        begin = time.perf_counter()
        for step in range(steps + 1):
            each = (twin.decode(z) - target).square().flatten(1).mean(1)
            better = each.detach() < least
            best[better], least[better] = z.detach()[better], each.detach()[better]
            errors.append(float(each.detach().mean()))
            if step == steps or time.perf_counter() - begin > budget_s:
                break
            if not each.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(each.sum(), z, allow_unused=True)
            if gradient is None:
                return None
            z.grad = torch.nan_to_num(gradient)
            for group in adam.param_groups:
                group["lr"] = LEARNING_RATE * (1.0 - step / steps) ** 0.5 + 1e-3
            adam.step()
    return best.float().cpu(), errors


def _noise(shape: tuple[int, ...] | torch.Size, seed: int) -> Tensor:
    return randn(shape, torch.Generator().manual_seed(seed))


def _regress(latents: Tensor, decoded: Tensor, images: Tensor, stride: int) -> Tensor:
    """Ridge regression from the surroundings of each cell to the cell."""
    features, wanted = _surroundings(decoded, stride), latents.movedim(1, -1).flatten(0, 2).double()
    centre, mean = features.mean(0), wanted.mean(0)
    features = features - centre
    gram = features.T @ features
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(ridge)
    weight: Tensor = torch.linalg.solve(gram, features.T @ (wanted - mean))
    made: Tensor = (_surroundings(images, stride) - centre) @ weight + mean
    shape = (len(images), *latents.shape[2:], latents.shape[1])
    return made.reshape(shape).movedim(-1, 1).contiguous().float()


def _surroundings(images: Tensor, stride: int) -> Tensor:
    """The pixels of each cell and half a cell around it, as rows [N h w, features] in float64."""
    values = images.double().nan_to_num()
    if stride > POOLED_STRIDE and stride % POOLED_STRIDE == 0:
        values, stride = functional.avg_pool2d(values, stride // POOLED_STRIDE), POOLED_STRIDE
    margin = stride // 2
    if margin:
        values = functional.pad(values, (margin,) * 4, mode="replicate")
    return functional.unfold(values, stride + 2 * margin, stride=stride).mT.flatten(0, 1)


def _pass_gradients(module: nn.Module) -> None:
    """Let every part of a (copied) module that stops a gradient hand it on to an input of the same shape."""
    for part in module.modules():
        if part is not module:
            part.register_forward_hook(_straight_through)


def _straight_through(_part: nn.Module, inputs: tuple[Any, ...], output: object) -> object:
    given = next((one for one in inputs if isinstance(one, Tensor) and one.requires_grad), None)
    return output if given is None else _reattached(output, given)


def _reattached(output: object, given: Tensor) -> object:
    if isinstance(output, Tensor):
        if output.requires_grad or not output.is_floating_point() or output.shape != given.shape:
            return output
        return given + (output - given).detach()
    if isinstance(output, tuple):
        changed: list[Any] = [_reattached(one, given) for one in output]
        return type(output)(*changed) if hasattr(output, "_fields") else tuple(changed)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {
            one.name: _reattached(getattr(output, one.name), given) for one in dataclasses.fields(output)
        }
        return dataclasses.replace(output, **fields)
    return output
