"""What a spec says under `condition` to the tensors that a denoiser takes, through conditioners where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.interfaces import Conditioner, Denoiser

Values = Mapping[str, Sequence[int] | Sequence[str]]
"""By name, the values that the images of a run take in turn."""


def condition_of(
    denoiser: Denoiser,
    conditioners: Mapping[str, Conditioner],
    values: Values,
    images: range,
    size: tuple[int, int],
) -> dict[str, Tensor]:
    """The condition of a batch of images.

    Args:
        denoiser: Takes some names itself.
        conditioners: Turn texts into the others; by label.
        values: Image i takes value `i % len(values)`.
        images: Indices of the batch.
        size: (height, width) of the image, pixels.

    Returns:
        By name, tensors [B, ...] on the CPU or where the conditioner is.

    Raises:
        SpecError: A name that nothing takes, or a text that is missing.
    """
    inputs = [name for conditioner in conditioners.values() for name in conditioner.inputs]
    unknown = [name for name in values if name not in denoiser.conditioning and name not in inputs]
    if unknown:
        known = [*denoiser.conditioning, *inputs]
        problems = [
            f"{name}: {did_you_mean(name, known) if known else 'nothing is taken'}" for name in unknown
        ]
        raise SpecError("neither the denoiser nor a conditioner takes these conditions", problems)
    turns = {name: [given[index % len(given)] for index in images] for name, given in values.items()}
    direct = {
        name: torch.tensor(turn, dtype=denoiser.conditioning[name].dtype)
        for name, turn in turns.items()
        if name in denoiser.conditioning
    }
    texts = {name: [str(text) for text in turn] for name, turn in turns.items()}
    return {**direct, **encoded(conditioners, texts, len(images), size)}


def negative_of(
    conditioners: Mapping[str, Conditioner], negative: Values, count: int, size: tuple[int, int]
) -> dict[str, Tensor]:
    """What stands for "no condition", as far as conditioners make it: the encoding of the negative texts.

    Args:
        conditioners: By label.
        negative: By name; a name that is not there has the empty text.
        count: B.
        size: (height, width) of the image, pixels.
    """
    inputs = {name for conditioner in conditioners.values() for name in conditioner.inputs}
    given = {name: negative.get(name, ("",)) for name in inputs}
    texts = {
        name: [str(values[index % len(values)]) for index in range(count)] for name, values in given.items()
    }
    return encoded(conditioners, texts, count, size)


def encoded(
    conditioners: Mapping[str, Conditioner],
    texts: Mapping[str, Sequence[str]],
    count: int,
    size: tuple[int, int],
) -> dict[str, Tensor]:
    """What conditioners give for a batch; equal texts are encoded once.

    Args:
        conditioners: By label; what several give under one name is joined in the order of their labels.
        texts: By name, B each.
        count: B.
        size: (height, width) of the image, pixels.

    Raises:
        SpecError: A text is missing.
    """
    parts: dict[str, list[Tensor]] = {}
    for label in sorted(conditioners):
        conditioner = conditioners[label]
        lacking = [name for name in conditioner.inputs if name not in texts]
        if lacking:
            raise SpecError(
                f"conditioner {label} ({conditioner.name}) reads {', '.join(lacking)}, and nothing gives it",
                hint=f"add `condition: {{{lacking[0]}: ...}}` to the spec",
            )
        rows = [tuple(texts[name][index] for name in conditioner.inputs) for index in range(count)]
        distinct = list(dict.fromkeys(rows))
        columns = {name: [row[at] for row in distinct] for at, name in enumerate(conditioner.inputs)}
        which = torch.tensor([distinct.index(row) for row in rows])
        with torch.no_grad():
            outputs = conditioner.encode(columns, size)
        for name, tensor in outputs.items():
            parts.setdefault(name, []).append(tensor[which.to(tensor.device)])
    return {
        name: given[0] if len(given) == 1 else torch.cat([one.to(given[0]) for one in given], dim=-1)
        for name, given in parts.items()
    }
