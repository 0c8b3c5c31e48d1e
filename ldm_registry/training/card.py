"""The model card of a checkpoint: what it is, how it came about, and its figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ldm_registry.contracts import Contract
from ldm_registry.training.settings import LoopSettings

EMOJI = "noto-emoji"
EMOJI_LICENCE = "Noto Emoji by Google, Apache License 2.0 (npm package `emoji-datasource-google` 16.0.0)"


def machine(device: torch.device) -> str:
    """What a training ran on, in words: processor, threads, torch's version."""
    torch_version = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch_version}"
    threads = torch.get_num_threads()
    return f"{_processor()} ({threads} thread{'s' if threads > 1 else ''}), {torch_version}"


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
        _front_matter(contract),
        f"# {title}",
        f"Made for `ldm_registry` by `{command}`. It serves {_components(contract)}.",
        "## How it came about",
        _table(("", ""), [(name.replace("_", " "), value) for name, value in contract.training.items()]),
    ]
    if EMOJI in dataset:
        parts.append(f"The images are {EMOJI_LICENCE}.")
    if history:
        parts.append("The settings changed on the way:\n\n" + "\n".join(f"- {line}" for line in history))
    figures = _figures(contract)
    if figures:
        parts += ["## Figures", "On the validation set, with the weights as they are stored here.", figures]
        if contract.self_test is not None and (contract.self_test.data or "").startswith(f"{dataset} "):
            parts.append("It was made from these very images, so the figures say nothing about others.")
    if settings is not None:
        # A folder's path says something of one machine only; its name stands in the table above.
        stated = settings.model_dump(mode="json", exclude_defaults=True, exclude={"initialise_from"})
        block = json.dumps(stated, indent=2)
        parts += ["## Settings", f"Everything else is as `ldm schema` gives it.\n\n```json\n{block}\n```"]
    return "\n\n".join(parts) + "\n"


def _front_matter(contract: Contract) -> str:
    tags = ["ldm-component", *dict.fromkeys(f"ldm-{kind}" for kind in contract.components)]
    lines = [
        "---",
        "library_name: ldm-registry",
        "license: apache-2.0",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    return "\n".join(lines)


def _components(contract: Contract) -> str:
    return " and ".join(f"{kind} `{name}`" for kind, name in contract.components.items())


def _figures(contract: Contract) -> str:
    test = contract.self_test
    rows: list[tuple[str, Any]] = []
    if test is not None:
        rows += [
            ("round-trip PSNR (dB)", test.round_trip_psnr_db),
            ("perplexity of the codebook", test.perplexity),
            ("codes that nothing uses", test.dead_codes),
        ]
    for name, statistics in (
        ("training", contract.latent_declared),
        ("validation", contract.latent_measured),
    ):
        if statistics is not None:
            rows += [
                (f"latent mean by channel, {name} set", _numbers(statistics.mean)),
                (f"latent std by channel, {name} set", _numbers(statistics.std)),
            ]
    kept = [(name, value) for name, value in rows if value is not None]
    tables = [_table(("figure", "value"), kept)] if kept else []
    if test is not None and test.denoising_error:
        tables.append(_denoising_table(contract))
    return "\n\n".join(tables)


def _denoising_table(contract: Contract) -> str:
    assert contract.self_test is not None
    errors = contract.self_test.denoising_error
    ratios = [one.x0_mse / one.gaussian_x0_mse for one in errors]
    rows = [
        (f"{one.log_snr:+.0f}", f"{one.x0_mse:.4f}", f"{one.gaussian_x0_mse:.4f}", f"{ratio:.3f}")
        for one, ratio in zip(errors, ratios, strict=True)
    ]
    mean = sum(ratios) / len(ratios)
    return (
        "Mean squared error of the clean latent, beside that of the Gaussian-optimal (Wiener) denoiser with the "
        "training latents' full covariance:\n\n"
        + _table(("log-SNR (nats)", "x0 error", "Gaussian-optimal", "ratio"), rows)
        + f"\n\nMean ratio {mean:.3f}: "
        + (f"{100 * (1 - mean):.1f} % below it." if mean < 1 else "not below it.")
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.3f}" for value in values[:8])
    return f"{shown}, ..." if len(values) > 8 else shown


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


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
