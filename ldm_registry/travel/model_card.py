"""The model card of a checkpoint that is published: how to use it, what it promises, what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from ldm_registry.contracts import Contract
from ldm_registry.travel.card_text import COMPONENT_TAG, card, table
from ldm_registry.vocabulary import Kind

CHANNELS_SHOWN = 8
MADE_FROM_THESE = "It was made from these very images, so the figures say nothing about others."
NO_FOREIGN_CLASS = "It has no class in diffusers; it is used through ldm-registry."


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a card.

    Attributes:
        name: Of its file.
        png: Its content.
        title: In a few words, for those who cannot see it.
        caption: What is to be seen, and how it was made.
    """

    name: str
    png: bytes = field(repr=False)
    title: str = ""
    caption: str = ""


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says beside its contract.

    Attributes:
        repository: `org/name`.
        version: Of the publication.
        foreign: Library and class that read the folder too, if there are any.
        plugins: Distribution that supplies the component of each kind.
        latent_stride: Pixels per latent cell, where it is known.
        codec: Address of the codec that a denoiser goes with, where it is on the Hub too.
        pictures: In order.
        measured_again: How many of the recorded figures were measured before publication, and agreed.
        licence: As the Hub writes it; None where nobody stated one.
        base_model: What it was derived from.
    """

    repository: str
    version: str
    foreign: tuple[str, str] | None = None
    plugins: Mapping[Kind, str] = field(default_factory=dict)
    latent_stride: int | None = None
    codec: str | None = None
    pictures: Sequence[Picture] = ()
    measured_again: int = 0
    licence: str | None = None
    base_model: str | None = None


def checkpoint_card(existing: str | None, contract: Contract, facts: Facts) -> str:
    """The card of a checkpoint, with what its author wrote.

    Args:
        existing: The card in the folder; None where there is none.
        contract: As it is published.
        facts: Everything else.

    Raises:
        SpecError: The front matter of the existing card is not plain YAML.
    """
    name = facts.repository.rpartition("/")[2]
    parts = [
        *_pictures(facts.pictures),
        *_use(contract, facts),
        "## What it promises",
        table(("what", "promise"), [*_promises(contract, facts)]),
        *_measured(contract, facts),
    ]
    return card(existing, _front(contract, facts, name), name, "\n\n".join(parts))


def tags_of(contract: Contract, latent_stride: int | None = None) -> list[str]:
    """The tags by which a checkpoint is found."""
    stride = contract.stride or latent_stride
    of_pixels = f"-f{stride}" if stride else ""
    return [
        COMPONENT_TAG,
        *(f"ldm-{kind}" for kind in contract.components),
        *dict.fromkeys(f"ldm-uses-{name}" for name in contract.components.values()),
        *([f"ldm-latent-{contract.latent_channels}ch{of_pixels}"] if contract.latent_channels else []),
    ]


def figures(contract: Contract) -> str:
    """What was measured when the checkpoint was saved, as Markdown tables; empty where nothing was."""
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
    tables = [table(("figure", "value"), kept)] if kept else []
    if test is not None and test.denoising_error:
        tables.append(_denoising_table(contract))
    return "\n\n".join(tables)


def _front(contract: Contract, facts: Facts, name: str) -> dict[str, Any]:
    tags = tags_of(contract, facts.latent_stride)
    results = [*_results(contract)]
    return {
        "library_name": "",
        "license": facts.licence,
        "base_model": facts.base_model,
        "tags": [*tags, facts.foreign[0]] if facts.foreign else tags,
        **({"model-index": [{"name": name, "results": results}]} if results else {}),
    }


def _use(contract: Contract, facts: Facts) -> Iterator[str]:
    plugins = sorted(set(facts.plugins.values()))
    serves = " and ".join(f"{kind} `{name}`" for kind, name in contract.components.items())
    supplied = f" The class comes with the plugin {' and '.join(plugins)}." if plugins else ""
    yield "## How to use it"
    yield (
        f"This is the {serves} of `ldm-registry`, a registry of interchangeable parts of diffusion models."
        f"{supplied}"
    )
    yield f"```bash\nldm pull {facts.repository}@v{facts.version}\n```"
    yield "fetches and verifies it, and prints the lines for a spec with the commit in them:"
    address = f"hf://{facts.repository}@COMMIT"
    lines = [f"{kind}: {{use: {name}, checkpoint: {address}}}" for kind, name in contract.components.items()]
    yield "```yaml\n" + "\n".join(lines) + "\n```"
    if facts.foreign is None:
        yield NO_FOREIGN_CLASS
        return
    library, name = facts.foreign
    yield (
        f"The same files open in {library}:\n\n```python\nfrom {library} import {name}\n\n"
        f'model = {name}.from_pretrained("{facts.repository}", revision="v{facts.version}")\n```'
    )


def _pictures(pictures: Sequence[Picture]) -> Iterator[str]:
    for picture in pictures:
        yield f"## {picture.title}"
        yield f"![{picture.title}]({picture.name})"
        yield picture.caption


def _promises(contract: Contract, facts: Facts) -> Iterator[tuple[str, Any]]:
    for kind, name in contract.components.items():
        plugin = facts.plugins.get(kind)
        yield str(kind), f"`{name}`" + (f", of plugin {plugin}" if plugin else "")
    if contract.image_channels:
        low, high = contract.value_range or (-1.0, 1.0)
        yield "image", f"{contract.image_channels} channels, values from {low:g} to {high:g}"
    if contract.latent_channels:
        stride = contract.stride or facts.latent_stride
        of_pixels = f", one cell for {stride} x {stride} pixels" if stride else ""
        yield "latent", f"{contract.latent_channels} channels of mean 0 and variance 1{of_pixels}"
    if contract.latent_sizes:
        yield (
            "trained on latents of",
            ", ".join(f"{height} x {width}" for height, width in contract.latent_sizes),
        )
    if contract.prediction:
        yield "prediction", f"`{contract.prediction}`"
    if contract.schedule:
        stated = ", ".join(f"{key} {value}" for key, value in contract.schedule.items() if key != "name")
        yield "training schedule", f"`{contract.schedule.get('name')}`" + (f" ({stated})" if stated else "")
    if contract.classes:
        null = "" if contract.null_class is None else f"; {contract.null_class} stands for none"
        yield "class labels", f"0 to {contract.classes - 1}{null}"
    if contract.codec_sha256:
        address = f"`{facts.codec}`, " if facts.codec else ""
        yield "codec", f"{address}whose weights have sha256 `{contract.codec_sha256}`"
    yield "runs in", ", ".join(f"`{dtype}`" for dtype in contract.safe_dtypes)


def _measured(contract: Contract, facts: Facts) -> Iterator[str]:
    shown = figures(contract)
    if shown:
        yield "## What was measured"
        data = (contract.self_test.data or "").partition(" ")[0] if contract.self_test else ""
        on = f"On `{data}`" if data else "On a validation set"
        yield f"{on}, with the weights as they are stored here."
        yield shown
        if data and data == contract.training.get("trained_on"):
            yield MADE_FROM_THESE
    if facts.measured_again:
        count = facts.measured_again
        yield (
            f"Before publication {count} recorded figure{'s were' if count != 1 else ' was'} measured again, and came "
            "out the same up to rounding."
        )


def _results(contract: Contract) -> Iterator[dict[str, Any]]:
    """The figures in the form in which the Hub lists evaluation results."""
    test = contract.self_test
    if test is None or not test.data:
        return
    name = test.data.split()[0]
    data = {"name": name, "type": name.rpartition(".")[0] or name}
    if test.round_trip_psnr_db is not None:
        yield _result(
            "image-to-image", "Reconstruction", data, "psnr", "Round-trip PSNR (dB)", test.round_trip_psnr_db
        )
    if test.denoising_error:
        yield _result(
            "unconditional-image-generation",
            "Denoising",
            data,
            "mse",
            "x0 error over that of the Gaussian-optimal denoiser, mean over log-SNR",
            mean_ratio(contract),
        )


def _result(
    task: str, task_name: str, data: Mapping[str, str], metric: str, metric_name: str, value: float
) -> dict[str, Any]:
    return {
        "task": {"type": task, "name": task_name},
        "dataset": dict(data),
        "metrics": [{"type": metric, "name": metric_name, "value": round(value, 4)}],
    }


def mean_ratio(contract: Contract) -> float:
    """Mean over noise levels of the x0 error divided by the Gaussian-optimal denoiser's; below 1 beats it."""
    errors = contract.self_test.denoising_error if contract.self_test else ()
    return sum(one.x0_mse / one.gaussian_x0_mse for one in errors) / max(len(errors), 1)


def _denoising_table(contract: Contract) -> str:
    assert contract.self_test is not None
    rows = [
        (
            f"{one.log_snr:+.0f}",
            f"{one.x0_mse:.4f}",
            f"{one.gaussian_x0_mse:.4f}",
            f"{one.x0_mse / one.gaussian_x0_mse:.3f}",
        )
        for one in contract.self_test.denoising_error
    ]
    mean = mean_ratio(contract)
    return (
        "Mean squared error of the clean latent, beside that of the Gaussian-optimal (Wiener) denoiser with the "
        "training latents' full covariance:\n\n"
        + table(("log-SNR (nats)", "x0 error", "Gaussian-optimal", "ratio"), rows)
        + f"\n\nMean ratio {mean:.3f}: "
        + (f"{100 * (1 - mean):.1f} % below it." if mean < 1 else "not below it.")
    )


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.3f}" for value in values[:CHANNELS_SHOWN])
    return f"{shown}, ..." if len(values) > CHANNELS_SHOWN else shown
