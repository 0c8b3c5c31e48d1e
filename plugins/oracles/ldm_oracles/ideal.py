"""The ideal denoiser: exact when the latents are a finite set, which it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from pydantic import Field
from torch import Tensor

from ldm_oracles.posterior import Posterior, divide, require_shape, scales, single_or_double
from ldm_registry.errors import SpecError
from ldm_registry.interfaces import (
    ComponentConfig,
    Condition,
    Conditioning,
    Denoiser,
    DenoiserOutput,
    LatentSpace,
    NoiseLevel,
    Trained,
)
from ldm_registry.vocabulary import Prediction


class IdealConfig(ComponentConfig):
    """Config of the denoiser `ideal`."""

    references: int = Field(1, ge=1, description="N, how many latents the checkpoint holds.")
    channels: int = Field(4, ge=1, description="Channels of the latent.")
    size: tuple[int, int] = Field((8, 8), description="(H, W) of the latent.")
    classes: int | None = Field(
        None,
        ge=1,
        description="Number of class labels; the label after the last means the whole set. None: unlabelled.",
    )
    prediction: Prediction = Field(
        Prediction.X0, description="What it puts out, unless the spec says `trained:`."
    )


@final
class IdealDenoiser(Denoiser):
    """Posterior mean over a finite set of references x_i, each as likely as any other.

    `E[x0 | z] = sum_i w_i x_i` with `w = softmax_i(-||z - alpha x_i||**2 / (2 sigma**2))` (Eq. 57, appendix B.3
    of Karras et al. 2022, there for alpha = 1). A class label narrows the set to the references of that class.

    Args:
        config: The shape of the set.
        trained: Its prediction is put out; the schedule is of no account, since it is right at every level.
    """

    name = "ideal"
    Config = IdealConfig
    size_multiple = 1
    training_schedule = None
    config: IdealConfig
    references: Tensor
    labels: Tensor

    def __init__(self, config: IdealConfig, trained: Trained | None = None) -> None:
        super().__init__()
        self.prediction = trained.prediction if trained else config.prediction
        self._adopt(config)
        self.register_buffer("references", torch.zeros(config.references, config.channels, *config.size))
        if config.classes is not None:
            self.register_buffer("labels", torch.zeros(config.references, dtype=torch.int64))

    def _adopt(self, config: IdealConfig) -> None:
        self.config = config
        self.latent_space = LatentSpace(config.channels, stride=1)
        self.latent_size = config.size
        label = Conditioning(classes=config.classes, null=config.classes)
        self.conditioning: Mapping[str, Conditioning] = (
            {} if config.classes is None else {"class_label": label}
        )

    def forward(self, z: Tensor, level: NoiseLevel, condition: Condition) -> DenoiserOutput:
        """The ideal prediction; without `class_label`, or with the null label, over the whole set.

        Raises:
            SpecError: A label is out of range, or no reference has it.
            ContractError: `z` has another shape than the references.
        """
        require_shape(z, self.config.channels, self.config.size, self.name)
        wide = single_or_double(z)
        posterior = self.posterior(wide, level, condition.get("class_label"))
        return posterior.output(self.prediction, level, z.dtype)

    def posterior(self, z: Tensor, level: NoiseLevel, class_label: Tensor | None = None) -> Posterior:
        """Both posterior means.

        Args:
            z: [B, C, H, W], float32 or float64.
            level: Shape [] or [B].
            class_label: int64 [B]; None is the whole set.
        """
        weights = self.weights(z, level, class_label)
        x0 = (weights @ self.references.to(z).flatten(1)).view_as(z)
        alpha, sigma = scales(level, z)
        return Posterior(x0, divide(z - alpha * x0, sigma))

    def weights(self, z: Tensor, level: NoiseLevel, class_label: Tensor | None = None) -> Tensor:
        """How likely each reference is behind each noisy latent: [B, N], rows sum to 1.

        Exact at both ends: without signal all references weigh the same, without noise the nearest has it all
        (references that are equally near share).

        Args:
            z: [B, C, H, W], float32 or float64.
            level: Shape [] or [B].
            class_label: int64 [B]; None is the whole set.
        """
        references = self.references.to(z).flatten(1)
        alpha, sigma = scales(level, z.flatten(1))
        # Distances by difference, not by the expanded square: that one cancels where it matters, at low noise.
        scaled = z.flatten(1) / torch.where(alpha == 0, 1.0, alpha)
        distance = torch.cdist(scaled, references, compute_mode="donot_use_mm_for_euclid_dist").square()
        classes = self.config.classes
        if class_label is not None and classes is not None:
            distance = distance.masked_fill(~self._allowed(class_label, classes), torch.inf)
        above_nearest = distance - distance.amin(1, keepdim=True).detach()
        half_snr = (alpha.square() / sigma.square() / 2).clamp_max(torch.finfo(z.dtype).max)
        logits = torch.where(torch.isinf(distance), -torch.inf, -half_snr * above_nearest)
        return torch.softmax(logits, dim=1)

    def _allowed(self, class_label: Tensor, classes: int) -> Tensor:
        """Which references may stand behind which sample: bool [B, N].

        Raises:
            SpecError: A label is out of range, or no reference has it.
        """
        same = class_label[:, None].eq(self.labels)
        everything = class_label[:, None].eq(classes)
        allowed = same | everything
        lacking = sorted({int(label) for label in class_label[~allowed.any(1)]})
        if lacking:
            present = sorted({int(label) for label in self.labels})
            raise SpecError(
                f"denoiser {self.name!r} has no references for class {', '.join(map(str, lacking))}",
                hint=f"choose from {present}, or {classes} for the whole set; or fit it to more images",
            )
        return allowed

    def fit(self, latents: Tensor, condition: Condition) -> IdealConfig:
        """Take latents [N, C, H, W] in as the references.

        Args:
            latents: In denoiser space.
            condition: `class_label` int64 [N] makes it class-conditional; with `classes` unset in the config, there
                are as many classes as the highest label says. Without labels it becomes unconditional.

        Raises:
            SpecError: A label is not below `classes`.
        """
        count, channels, height, width = latents.shape
        labels = condition.get("class_label")
        classes = None
        if labels is not None:
            highest = int(labels.max())
            classes = self.config.classes or highest + 1
            if highest >= classes or int(labels.min()) < 0:
                raise SpecError(
                    f"denoiser {self.name!r} cannot be fitted: labels run from {int(labels.min())} to {highest}",
                    hint=f"its config says `classes: {classes}`, so they have to lie in 0 to {classes - 1}",
                )
        update = {"references": count, "channels": channels, "size": (height, width), "classes": classes}
        config = self.config.model_copy(update=update)
        self.references = latents.detach().clone()
        if labels is not None:
            self.register_buffer("labels", labels.detach().clone().to(torch.int64))
        elif hasattr(self, "labels"):
            del self.labels
        self._adopt(config)
        return config
