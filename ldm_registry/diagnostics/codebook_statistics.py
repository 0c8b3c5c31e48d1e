"""How a codebook is used by latents, for any decoder that has one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ldm_registry.contracts import SelfTest
from ldm_registry.diagnostics.evidence import Healthy, Metric, Suspicion
from ldm_registry.interfaces import Decoder
from ldm_registry.pipeline import placement
from ldm_registry.vocabulary import Kind

CODEC = frozenset({Kind.ENCODER, Kind.DECODER})
DISTANCE = Healthy(None, 0.5, "nearest code against the spread of the latents; calibrated on healthy codecs")


@dataclass(frozen=True, slots=True)
class CodebookUse:
    """Figures over a set of latents.

    Attributes:
        codes: Size of the codebook.
        distinct: Codes that differ from all others.
        vectors: Latent cells that were looked up.
        perplexity: `exp` of the entropy of the codes in use.
        used: Codes that some cell chose.
        distance: RMS distance of a cell to its code, relative to the RMS of cells around their mean.
        counts: How many cells chose each code.
    """

    codes: int
    distinct: int
    vectors: int
    perplexity: float
    used: int
    distance: float
    counts: tuple[int, ...] = ()

    @property
    def reachable(self) -> float:
        """The perplexity that so few vectors could show at most."""
        return float(min(self.codes, self.vectors))


@torch.no_grad()
def codebook_usage(decoder: Decoder, latents: Tensor) -> CodebookUse | None:
    """Look up latents [N, C, h, w] in the decoder's codebook; None where it has none.

    A codebook is a submodule with an `embedding`, found by its shape; latents are brought into its units by the
    decoder's own `raw`.
    """
    found = [
        (owner, book)
        for owner in decoder.modules()
        for book in [getattr(owner, "quantize", None)]
        if isinstance(book, nn.Module) and isinstance(getattr(book, "embedding", None), nn.Embedding)
    ]
    if not found or not callable(getattr(found[0][0], "raw", None)):
        return None
    owner, book = found[0]
    device, dtype = placement(decoder)
    raw = cast(Callable[[Tensor], Tensor], owner.raw)(latents.to(device, dtype)).double().cpu()
    weight = cast(nn.Embedding, book.embedding).weight.detach().double().cpu()
    vectors = raw.movedim(1, -1).flatten(0, -2)
    if vectors.shape[1] != weight.shape[1]:
        return None
    nearest = torch.cat([torch.cdist(part, weight).min(1).indices for part in torch.split(vectors, 1024)])
    counts = torch.bincount(nearest, minlength=len(weight)).double()
    share = counts[counts > 0] / counts.sum()
    spread = (vectors - vectors.mean(0)).square().mean().sqrt().clamp(min=1e-12)
    return CodebookUse(
        codes=len(weight),
        distinct=len(torch.unique(weight, dim=0)),
        vectors=len(vectors),
        perplexity=math.exp(float(-(share * share.log()).sum())),
        used=int((counts > 0).sum()),
        distance=float((vectors - weight[nearest]).square().mean().sqrt() / spread),
        counts=tuple(int(count) for count in counts),
    )


def codebook_metrics(use: CodebookUse, recorded: SelfTest | None, images: int) -> Iterator[Metric]:
    """Figures of a codebook beside the recorded ones."""
    yield Metric(
        "perplexity",
        use.perplexity,
        f"effective number of codes that {images} images use",
        Healthy(_lowest_perplexity(use, recorded), None, "contract, for so few images; a tenth without one"),
    )
    yield Metric("used_codes", float(use.used), f"of {use.codes} codes, with {use.vectors} vectors")
    yield Metric(
        "distinct_codes",
        float(use.distinct),
        "codes that differ from all others",
        Healthy(0.5 * use.codes, None, "codes that coincide are wasted"),
    )
    yield Metric("code_distance", use.distance, "distance to the nearest code over the spread", DISTANCE)


def codebook_faults(use: CodebookUse, recorded: SelfTest | None) -> Iterator[Suspicion]:
    """What is wrong with a codebook or with the latents that are looked up in it."""
    lowest = _lowest_perplexity(use, recorded)
    if use.perplexity < lowest or use.distinct < 0.5 * use.codes:
        differ = f"{use.distinct} of {use.codes} codes differ"
        said = f"perplexity {use.perplexity:.0f} (at least {lowest:.0f} expected), {differ}"
        # Codes that coincide are the decoder's own; few codes in use may be the latents' doing.
        guilty = frozenset({Kind.DECODER}) if use.distinct < 0.5 * use.codes else CODEC
        # Of codes that were trained no two are alike: those that are are copies.
        strength = 0.97 if use.distinct < 0.5 * use.codes else 0.85
        yield Suspicion(guilty, "the codebook has collapsed", strength, said)
    if not DISTANCE.holds(use.distance):
        said = f"the nearest code is {use.distance:.2f} spreads away"
        yield Suspicion(CODEC, "latents do not lie where the codes are", 0.75, said)


def _lowest_perplexity(use: CodebookUse, recorded: SelfTest | None) -> float:
    expected = recorded.perplexity if recorded and recorded.perplexity is not None else 0.1 * use.codes
    # V vectors drawn from P equally likely codes hit P (1 - exp(-V / P)) of them; half of that is still healthy.
    return 0.5 * expected * -math.expm1(-use.vectors / max(expected, 1.0)) if expected > 0 else 0.0
