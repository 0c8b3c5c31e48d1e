"""The patch discriminator that a codec may be trained against."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_WEIGHT = 1e4


@final
class PatchDiscriminator(nn.Module):
    """Scores overlapping patches as real or made (Isola et al. 2017, section 3.2.2).

    Group norms in place of the paper's batch norms, so that gradients do not depend on how a step is split.

    Args:
        channels: Of the image.
        width: Channels of the first layer; each further one doubles it.
        layers: Layers of stride 2.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        widths = [width * 2 ** min(index, 3) for index in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            body += [
                nn.Conv2d(widths[index - 1], widths[index], 4, stride, 1, bias=False),
                nn.GroupNorm(1, widths[index]),
                nn.LeakyReLU(0.2),
            ]
        self.discriminator = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, 1, h, w] of images [B, C, H, W]; higher means more real."""
        scores: Tensor = self.discriminator(image)
        return scores


def layers_for(size: int) -> int:
    """Strided layers for images of a side in pixels: the usual three, fewer where they would leave no patch."""
    return max(1, min(3, size.bit_length() - 4))


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator minimises (Lim and Ye 2017): `(relu(1 - real) + relu(1 + made)) / 2`."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, image: Tensor) -> Tensor:
    """The ratio of two losses' gradients (Eq. 7, Esser et al. 2021).

    Taken at the decoded image, where the paper takes the decoder's last layer: the same for any decoder.

    Args:
        reconstruction: Scalar loss.
        adversarial: Scalar loss.
        image: [B, C, H, W], which both depend on.

    Returns:
        A scalar without gradient, at most `LARGEST_WEIGHT`.
    """
    (pull,) = torch.autograd.grad(reconstruction, image, retain_graph=True)
    (push,) = torch.autograd.grad(adversarial, image, retain_graph=True)
    weight: Tensor = pull.norm() / (push.norm() + 1e-6)
    return weight.clamp(max=LARGEST_WEIGHT).detach()
