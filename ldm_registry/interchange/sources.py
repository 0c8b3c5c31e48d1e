"""From whatever a user points at to a spec: a pipeline folder, or a single file, which becomes one first."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.interchange.importing import Imported, Wishes, import_pipeline
from ldm_registry.interchange.pipeline_folder import INDEX
from ldm_registry.original import Converted, convert, read_ldm_yaml
from ldm_registry.registry import Registry
from ldm_registry.spec import dump_spec
from ldm_registry.vocabulary import Prediction


@dataclass(frozen=True, slots=True)
class SingleFile:
    """What a single file in the original layout does not say by itself.

    Attributes:
        family: sd1, sd2, sdxl, sd3 or flux; of an autoencoder alone.
        prediction: What the denoiser puts out; of Stable Diffusion 2.
        description: YAML of latent-diffusion that it was trained with.
        ema: Whether to take the averaged weights.
    """

    family: str | None = None
    prediction: Prediction | None = None
    description: Path | None = None
    ema: bool = False


def import_source(
    source: Path,
    output: Path,
    wishes: Wishes,
    single: SingleFile,
    *,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> Imported | Converted:
    """Import a pipeline folder or a single file, and write what comes of it.

    Args:
        source: Folder with `model_index.json`, or a safetensors file in the original layout.
        output: The spec's file. Contracts, and the folders that a single file becomes, lie beside it.
        wishes: What to have otherwise than the source says.
        single: What a single file does not say.
        overwrite: Also replace an earlier import.
        registry: Where the parts come from; None discovers what is installed.

    Returns:
        The import; of a file that is no whole pipeline the component folders that it became.

    Raises:
        LdmError: Something is missing, not understood or refused; nothing is left behind then.
    """
    if output.exists() and not overwrite:
        raise SpecError(f"{output} exists already", hint="name another file, or add --overwrite")
    if source.is_dir():
        if single != SingleFile():
            raise SpecError(f"{source} is a folder, which says its family and prediction itself")
        return _written(import_pipeline(source, output, wishes, registry), output)
    if not source.exists():
        raise NotFoundError(f"{source} does not exist")
    stated = read_ldm_yaml(single.description) if single.description else None
    folder = output.with_name(f"{output.stem}.checkpoints")
    if overwrite and (folder / INDEX).is_file():
        shutil.rmtree(folder)
    converted = convert(
        source, folder, family=single.family, prediction=single.prediction, stated=stated, ema=single.ema
    )
    if not (folder / INDEX).is_file():
        return converted
    try:
        _refuse_missing(converted, wishes.parts)
        imported = import_pipeline(folder, output, wishes, registry)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return _written(dataclasses.replace(imported, notes=(*converted.notes, *imported.notes)), output)


def write(imported: Imported, output: Path) -> None:
    """Write the contracts, and last the spec that refers to them.

    Args:
        imported: What was found.
        output: File of the spec; replaced where it exists.
    """
    for path, contract in imported.contracts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contract.model_dump_json(indent=2, exclude_defaults=True) + "\n", encoding="utf-8")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(dump_spec(imported.spec, relative_to=output.absolute().parent), encoding="utf-8")


def _written(imported: Imported, output: Path) -> Imported:
    write(imported, output)
    return imported


def _refuse_missing(converted: Converted, parts: Mapping[str, Path]) -> None:
    lacking = [part for part in converted.missing if part not in parts]
    if lacking:
        raise SpecError(
            f"a pipeline of family {converted.family} needs more than the file holds",
            [f"{part} is missing" for part in lacking],
            hint="name their folders: " + " ".join(f"--part {part}=DIR" for part in lacking),
        )
