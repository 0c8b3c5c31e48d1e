"""What is diagnosed: a pipeline, and images that it should be able to deal with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ldm_registry.contracts import Contract, SelfTest
from ldm_registry.diagnostics.chosen_features import ChosenFeatures
from ldm_registry.interfaces import NoiseLevel, broadcast
from ldm_registry.noise import randn
from ldm_registry.pipeline import Pipeline, placement
from ldm_registry.prediction import to_x0
from ldm_registry.vocabulary import Kind, Prediction


@dataclass(frozen=True)
class Subject:
    """A pipeline under diagnosis. Measurements read it and change nothing in it.

    Attributes:
        pipe: The pipeline.
        images: [N, C, H, W] in [-1, 1], float32 on the CPU, of the pipeline's own size.
        condition: What the denoiser is told about these images, by name, N each; empty where nothing is known.
        seed: Of all noise.
        quick: Whether to spend about a fifth of the time.
        features: For the quality of samples, beside those that need no choice.
    """

    pipe: Pipeline
    images: Tensor
    condition: Mapping[str, Tensor]
    seed: int = 0
    quick: bool = False
    features: ChosenFeatures | None = None

    def contract(self, kind: Kind) -> Contract | None:
        """What the checkpoint of a stage promises, if it has one."""
        return self.pipe.contracts.get(kind)

    def recorded(self, kind: Kind) -> SelfTest | None:
        """What was measured when the checkpoint of a stage was saved, if anything was."""
        contract = self.contract(kind)
        return contract.self_test if contract else None

    @cached_property
    def latents(self) -> Tensor:
        """[N, c, h, w]: the mode of the encoder for each image, float32 on the CPU."""
        return self.encode(self.images)

    @torch.inference_mode()
    def encode(self, images: Tensor, batch: int = 16) -> Tensor:
        """Latents of images [N, C, H, W], float32 on the CPU."""
        device, dtype = placement(self.pipe.encoder)
        return torch.cat(
            [
                self.pipe.encoder.encode(part.to(device, dtype)).float().cpu()
                for part in torch.split(images, batch)
            ]
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int = 16) -> Tensor:
        """Images of latents [N, c, h, w], unclamped, float32 on the CPU."""
        device, dtype = placement(self.pipe.decoder)
        return torch.cat(
            [
                self.pipe.decoder.decode(part.to(device, dtype)).float().cpu()
                for part in torch.split(latents, batch)
            ]
        )

    @torch.inference_mode()
    def predict(self, z: Tensor, level: NoiseLevel, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """The raw output of the denoiser, float32 on the CPU.

        Args:
            z: [N, c, h, w] at the level, in the level's own scaling.
            level: Shape [] or [N].
            condition: N each; None takes that of the images.
        """
        device, dtype = placement(self.pipe.denoiser)
        given = self.condition if condition is None else condition
        seen = (z / broadcast(level.std, z)).to(device, dtype)
        told = {
            name: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in given.items()
        }
        output: Tensor = self.pipe.denoiser(seen, level.normalised(), told).prediction
        return output.float().cpu()

    def clean(
        self,
        z: Tensor,
        level: NoiseLevel,
        condition: Mapping[str, Tensor] | None = None,
        prediction: Prediction | None = None,
    ) -> Tensor:
        """The denoiser's clean estimate [N, c, h, w], float32 on the CPU; arguments as for `predict`.

        Args:
            z: As for `predict`.
            level: As for `predict`.
            condition: As for `predict`.
            prediction: How to read the output; None as the denoiser declares.
        """
        seen = z / broadcast(level.std, z)
        output = self.predict(z, level, condition)
        return to_x0(prediction or self.pipe.denoiser.prediction, output, seen, level.normalised())

    def noise(self, like: Tensor, stream: int = 0) -> Tensor:
        """Standard normal noise of a shape [N, ...], the same for the same stream.

        Args:
            like: Gives the shape.
            stream: Each measurement takes streams of its own.
        """
        generators = [
            torch.Generator().manual_seed(self.seed + 1_000_003 * stream + index)
            for index in range(len(like))
        ]
        return randn(like.shape, generators)
