"""Commands that read and write the formats of others: import, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ldm_registry.cli.arguments import Json, Overwrite, Spec, resolve
from ldm_registry.cli.outcome import Result
from ldm_registry.vocabulary import DType, Prediction


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of a diffusers pipeline, or a single safetensors file in the original layout.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SPEC", help="YAML file to write.")],
    variant: Annotated[
        str | None, typer.Option("--variant", help="Which of several sets of weights, such as fp16.")
    ] = None,
    dtype: Annotated[
        DType | None, typer.Option("--dtype", help="Of every stage that is safe in it; default: float32.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of the sampler; default: the pipeline class's.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="PIXELS", help="512 or 512x768 (height x width).")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Of a pipeline with text.")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME=DIR",
            help="A part that the source does not hold, such as tokenizer=DIR; may come several times.",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Of a single file that does not show it: sd1, sdxl, sd3, flux."),
    ] = None,
    prediction: Annotated[
        Prediction | None,
        typer.Option("--prediction", help="Of a single file that does not show it: epsilon or v."),
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            "--yaml", metavar="FILE", help="YAML of latent-diffusion that a single file was trained with."
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take the averaged weights of a single file that holds both.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Write a spec for a checkpoint of diffusers, whose weights stay where they lie. Nothing is guessed.

    A single file is first converted into component folders beside the spec.
    """
    from ldm_registry.interchange import SingleFile, Wishes, import_source
    from ldm_registry.report.interchange import describe_import, render_import

    wishes = Wishes(variant, dtype, steps, _size(size), prompt, _parts(part or ()))
    single = SingleFile(family, prediction, description, ema)
    found = import_source(source, output, wishes, single, overwrite=overwrite)
    document = describe_import(found, output)
    return Result(document, render_import(document))


def export(
    spec: Spec,
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> Result:
    """Write the pipeline of a spec as a folder that diffusers opens."""
    resolved = resolve(spec)
    from ldm_registry.interchange import export_pipeline
    from ldm_registry.report.interchange import describe_export, render_export

    document = describe_export(export_pipeline(resolved, output, overwrite=overwrite))
    return Result(document, render_export(document))


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    from ldm_registry.errors import SpecError

    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and side.isascii() for side in sides):
        raise SpecError(f"cannot read the size {text!r}: expected 512, or 512x768 (height x width)")
    return int(sides[0]), int(sides[-1])


def _parts(words: Sequence[str]) -> dict[str, Path]:
    from ldm_registry.errors import SpecError

    parts = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise SpecError(f"cannot read the part {word!r}: expected NAME=DIR")
        parts[name] = Path(folder)
    return parts


COMMANDS = (import_, export)
