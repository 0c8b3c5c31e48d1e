"""Which one measurement would separate two answers that are equally likely."""

from __future__ import annotations

from ldm_registry.diagnostics.evidence import Stages
from ldm_registry.diagnostics.report import stages_name
from ldm_registry.vocabulary import Kind

_PAIRS: dict[frozenset[Kind], str] = {
    frozenset({Kind.ENCODER, Kind.DECODER}): (
        "decode the encoder's latents with a decoder that is known to be good (`ldm swap SPEC decoder=NAME`, then "
        "`ldm diagnose` again): the round trip recovers if the decoder is at fault"
    ),
    frozenset({Kind.ENCODER, Kind.DENOISER}): (
        "measure the denoiser on latents that were stored when it was trained: its error is the recorded one if the "
        "encoder is at fault"
    ),
    frozenset({Kind.DENOISER, Kind.SCHEDULER}): (
        "run another sampler with this denoiser (`ldm swap SPEC scheduler=ddim`): the images recover if the scheduler "
        "is at fault"
    ),
    frozenset({Kind.DENOISER, Kind.DECODER}): (
        "decode latents of known images: they come back if the denoiser is at fault"
    ),
    frozenset({Kind.ENCODER, Kind.SCHEDULER}): (
        "sample from pure noise, in which the encoder has no part: the images are good if the encoder is at fault"
    ),
    frozenset({Kind.SCHEDULER, Kind.DECODER}): (
        "decode latents of known images: they come back if the scheduler is at fault"
    ),
}
_MORE = "repeat without --quick, and on more images: the margin grows with their number"


def deciding_measurement(one: Stages, other: Stages) -> str:
    """What would decide between two answers; the empty set is "nobody"."""
    if not one or not other:
        suspect = one or other
        return f"{_MORE}; a contract with recorded values for the {stages_name(suspect)} would settle it"
    apart = one ^ other
    if len(apart) == 1:
        (stage,) = apart
        return f"`ldm diagnose SPEC {stage}` by itself, and with that stage swapped for another: {_MORE}"
    pair = frozenset({min(one - other or one), min(other - one or other)})
    return _PAIRS.get(pair, _MORE)
