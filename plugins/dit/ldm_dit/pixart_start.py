"""The weights that a PixArt transformer starts training with."""

from __future__ import annotations

from torch import nn

from ldm_dit.embedding import TimestepEmbedder
from ldm_dit.patches import PatchEmbed
from ldm_dit.pixart_block import PixArtBlock
from ldm_dit.pixart_embedding import AdaptiveNormSingle, CaptionProjection


def initialise(network: nn.Module) -> None:
    """Fresh weights as the paper's code has them: text counts for nothing yet, and the network puts out zero.

    Draws from the global generator, as every constructor of torch does.

    Args:
        network: A PixArt transformer.
    """
    narrow: list[nn.Linear] = []
    zero: list[nn.Module] = [network.get_submodule("proj_out")]
    for module in network.modules():
        match module:
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case PatchEmbed():
                nn.init.xavier_uniform_(module.proj.weight.view(module.width, -1))
                assert module.proj.bias is not None
                nn.init.zeros_(module.proj.bias)
            case TimestepEmbedder() | CaptionProjection():
                narrow += [module.linear_1, module.linear_2]
            case AdaptiveNormSingle():
                narrow.append(module.linear)
            case PixArtBlock() if module.attn2 is not None:
                zero.append(module.attn2.to_out[0])
    # Last, for the linear layers among them were drawn above.
    for layer in narrow:
        nn.init.normal_(layer.weight, std=0.02)
    for last in zero:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
