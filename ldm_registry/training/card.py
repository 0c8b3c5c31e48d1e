"""The model card of a checkpoint: what it is, how it came about, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch

from ldm_registry.contracts import Contract
from ldm_registry.runtime import processor
from ldm_registry.training.settings import LoopSettings
from ldm_registry.travel.card_text import card, table
from ldm_registry.travel.model_card import MADE_FROM_THESE, figures, tags_of

EMOJI = "noto-emoji"
EMOJI_LICENCE = "Noto Emoji by Google, Apache License 2.0 (npm package `emoji-datasource-google` 16.0.0)"


def machine(device: torch.device) -> str:
    """What a training ran on, in words: processor, threads, torch's version."""
    torch_version = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch_version}"
    threads = torch.get_num_threads()
    return f"{processor.name()} ({threads} thread{'s' if threads > 1 else ''}), {torch_version}"


def model_card(
    title: str,
    contract: Contract,
    settings: LoopSettings | None,
    *,
    command: str,
    history: Sequence[str] = (),
    dataset: str,
) -> str:
    """The README.md of a checkpoint.

    Args:
        title: Name of the folder.
        contract: Promises and figures.
        settings: Of the training; None for a part that was fitted instead.
        command: What makes it again.
        history: Changes of settings on the way.
        dataset: File name of the images that it was trained on.
    """
    parts = [
        f"# {title}",
        f"Made for `ldm_registry` by `{command}`. It serves {_components(contract)}.",
        "## How it came about",
        table(("", ""), [(name.replace("_", " "), value) for name, value in contract.training.items()]),
    ]
    if EMOJI in dataset:
        parts.append(f"The images are {EMOJI_LICENCE}.")
    if history:
        parts.append("The settings changed on the way:\n\n" + "\n".join(f"- {line}" for line in history))
    if settings is not None:
        # A folder's path says something of one machine only; its name stands in the table above.
        stated = settings.model_dump(mode="json", exclude_defaults=True, exclude={"initialise_from"})
        block = json.dumps(stated, indent=2)
        parts += ["## Settings", f"Everything else is as `ldm schema` gives it.\n\n```json\n{block}\n```"]
    front = {"license": "apache-2.0", "tags": tags_of(contract)}
    return card("\n\n".join(parts), front, title, _figures(contract, dataset))


def _components(contract: Contract) -> str:
    return " and ".join(f"{kind} `{name}`" for kind, name in contract.components.items())


def _figures(contract: Contract, dataset: str) -> str:
    shown = figures(contract)
    if not shown:
        return ""
    parts = ["## Figures", "On the validation set, with the weights as they are stored here.", shown]
    if contract.self_test is not None and (contract.self_test.data or "").startswith(f"{dataset} "):
        parts.append(MADE_FROM_THESE)
    return "\n\n".join(parts)


def training_facts(
    settings: LoopSettings, step: int, elapsed_s: float, device: torch.device, dataset: str, images: int
) -> Mapping[str, str | int | float | bool | None]:
    """The contract's `training` block."""
    return {
        "trained_on": dataset,
        "images": images,
        "steps": step,
        "images_seen": step * settings.batch * settings.accumulate,
        "minutes": round(elapsed_s / 60.0, 1),
        "machine": machine(device),
        "precision": settings.precision,
        "started_from": None
        if settings.initialise_from is None
        else settings.initialise_from.rsplit("/", 1)[-1],
    }
