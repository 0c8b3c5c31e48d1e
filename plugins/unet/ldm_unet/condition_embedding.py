"""How a conditional UNet is told time, class, pooled text and sizes: as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_unet.block import ACTIVATION
from ldm_unet.condition_config import UNetConditionConfig
from ldm_unet.embedding import Sinusoids


@final
class FourierTimes(nn.Module):
    """Sines and cosines of time at random frequencies (Tancik et al. 2020).

    Args:
        channels: Frequencies; twice as many features come out.
        flip_sin_to_cos: Cosines before sines.
    """

    def __init__(self, channels: int, flip_sin_to_cos: bool) -> None:
        super().__init__()
        self.cosine_first = flip_sin_to_cos
        self.weight = nn.Parameter(torch.randn(channels), requires_grad=False)

    @property
    def features(self) -> int:
        """Channels put out."""
        return 2 * self.weight.numel()

    def forward(self, time: Float[Tensor, " t"], like: Tensor) -> Float[Tensor, "t k"]:
        """Expand [T] to [T, 2 * channels].

        Args:
            time: Any real numbers.
            like: Gives device and dtype of the result.
        """
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        angle = time.to(like.device, dtype, non_blocking=True)[:, None] * self.weight.to(dtype) * 2 * math.pi
        halves = (angle.cos(), angle.sin()) if self.cosine_first else (angle.sin(), angle.cos())
        return torch.cat(halves, dim=1).to(like.dtype)


@final
class EmbeddingLayers(nn.Module):
    """Two linear layers from features to an embedding.

    Args:
        features: Channels in.
        width: Channels out.
        act: Activation between the layers.
        post_act: Activation after them; None for none.
        added: Channels of a second input, projected onto the features; None where there is none.
    """

    def __init__(
        self,
        features: int,
        width: int,
        act: str = "silu",
        post_act: str | None = None,
        added: int | None = None,
    ) -> None:
        super().__init__()
        self.act = ACTIVATION[act]
        self.post_act: Callable[[Tensor], Tensor] | None = ACTIVATION[post_act] if post_act else None
        self.linear_1 = nn.Linear(features, width)
        self.cond_proj = nn.Linear(added, features, bias=False) if added is not None else None
        self.linear_2 = nn.Linear(width, width)

    def forward(
        self, features: Float[Tensor, "t k"], added: Float[Tensor, "s c"] | None = None
    ) -> Float[Tensor, "r d"]:
        """[T, features] to [T, width].

        Args:
            features: What is embedded.
            added: The second input; None leaves it out.
        """
        if self.cond_proj is not None and added is not None:
            features = features + self.cond_proj(added)
        embedding: Tensor = self.linear_2(self.act(self.linear_1(features)))
        return embedding if self.post_act is None else self.post_act(embedding)


@final
class TextPooling(nn.Module):
    """One vector for a text: its mean token attends to all of them (DeepFloyd IF).

    Args:
        text_width: Channels of a token.
        width: Channels out.
        heads: Heads of the attention.
    """

    def __init__(self, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(text_width)
        self.pool = AttentionPooling(text_width, heads)
        self.proj = nn.Linear(text_width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, text: Float[Tensor, "b n c"]) -> Float[Tensor, "b d"]:
        """[B, T, text_width] to [B, width]; every token counts, masked ones too, as in diffusers."""
        pooled: Tensor = self.norm2(self.proj(self.pool(self.norm1(text))))
        return pooled


@final
class AttentionPooling(nn.Module):
    """The mean of all tokens asks, it and all tokens answer.

    Args:
        width: Channels of a token.
        heads: Heads of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        """[B, T, width] to [B, width]."""
        mean = tokens.mean(dim=1, keepdim=True) + self.positional_embedding.to(tokens.dtype)
        tokens = torch.cat([mean, tokens], dim=1)
        query, key, value = (
            flat.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for flat in (self.q_proj(mean), self.k_proj(tokens), self.v_proj(tokens))
        )
        return F.scaled_dot_product_attention(query, key, value).flatten(1)


def time_projection(config: UNetConditionConfig) -> Sinusoids | FourierTimes:
    """What expands time, without weights of its own but for random frequencies."""
    if config.time_embedding_type == "fourier":
        return FourierTimes(config.time_dim // 2, config.flip_sin_to_cos)
    return Sinusoids(config.block_out_channels[0], float(config.freq_shift), config.flip_sin_to_cos)


def class_embedding(config: UNetConditionConfig, time_features: int) -> nn.Module | None:
    """What turns the class into a vector as wide as the time embedding; None where no class enters."""
    given = config.projection_class_embeddings_input_dim or 0
    match config.class_embed_type:
        case "timestep":
            return EmbeddingLayers(time_features, config.time_dim, config.act_fn)
        case "identity":
            return nn.Identity()
        case "projection":
            return EmbeddingLayers(given, config.time_dim)
        case "simple_projection":
            return nn.Linear(given, config.time_dim)
        case _ if config.num_class_embeds is not None:
            return nn.Embedding(config.num_class_embeds, config.time_dim)
        case _:
            return None


def added_embedding(config: UNetConditionConfig, text_width: int | None) -> nn.Module | None:
    """What turns text, or pooled text and sizes, into a vector as wide as the time embedding; None for neither."""
    match config.addition_embed_type:
        case "text":
            return TextPooling(text_width or 0, config.time_dim, config.addition_embed_type_num_heads)
        case "text_time":
            return EmbeddingLayers(config.projection_class_embeddings_input_dim or 0, config.time_dim)
        case _:
            return None
