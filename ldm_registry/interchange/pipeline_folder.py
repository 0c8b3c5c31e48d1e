"""A pipeline folder of diffusers: `model_index.json` and a folder for each part. Read as data, nothing is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError, SpecError, did_you_mean
from ldm_registry.interchange.recipes import NOT_FOR_IMAGES, SCHEDULER, Recipe, recipe_of
from ldm_registry.weights import CONFIG, read_json

INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler_config.json"
LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """A pipeline folder whose parts are all there.

    Attributes:
        path: Absolute.
        recipe: Of its class.
        classes: Class name of each part that it holds, by folder.
        settings: What `model_index.json` says beyond the parts.
        elsewhere: Folders of parts that lie elsewhere.
    """

    path: Path
    recipe: Recipe
    classes: dict[str, str]
    settings: dict[str, Any]
    elsewhere: Mapping[str, Path]

    @classmethod
    def read(cls, path: Path, elsewhere: Mapping[str, Path] | None = None) -> PipelineFolder:
        """Read and check the index.

        Args:
            path: The folder.
            elsewhere: Folders of parts that lie elsewhere, by the name that the pipeline has for them.

        Raises:
            NotFoundError: There is no such folder or no index in it.
            SpecError: The pipeline class or one of its entries is not known.
            CheckpointError: A part is missing, or a part's config is of another class than the index says.
        """
        path = path.absolute()
        index = read_json(path / INDEX)
        recipe = recipe_of(index.get("_class_name"), str(path / INDEX))
        classes, settings, problems = _entries(index, recipe)
        if problems:
            raise SpecError(f"{path / INDEX} has entries that are not understood", problems)
        elsewhere = {part: folder.absolute() for part, folder in (elsewhere or {}).items()}
        unknown = [
            f"{part}: {did_you_mean(part, recipe.parts)}" for part in elsewhere.keys() - {*recipe.parts}
        ]
        if unknown:
            raise SpecError(f"{recipe.pipeline} has no such part", unknown)
        lacking = [
            f"{part}: {'no such folder' if part in classes else 'null in the index'}"
            for part in recipe.parts
            if part not in elsewhere and (part not in classes or not (path / part).is_dir())
        ]
        lacking += [
            f"{part}: {place} is no folder" for part, place in elsewhere.items() if not place.is_dir()
        ]
        if lacking:
            raise CheckpointError(
                f"{path} is not a whole {recipe.pipeline}", lacking, hint="fetch or save the folder again"
            )
        folder = cls(path, recipe, classes, settings, elsewhere)
        folder._check_classes()
        folder._check_normalisation()
        return folder

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's config with what the pipeline's constructor sets in it.

        Raises:
            NotFoundError: There is none.
        """
        values = read_json(self.path / SCHEDULER / SCHEDULER_CONFIG)
        overrides = dict(self.recipe.scheduler_overrides)
        if self.classes[SCHEDULER] not in ("DDIMScheduler", "DDPMScheduler", "HeunDiscreteScheduler"):
            overrides.pop("clip_sample", None)  # no key of the others
        return {**values, **overrides}

    def folder_of(self, part: str) -> Path:
        """Where a part lies."""
        return self.elsewhere.get(part, self.path / part)

    def notes(self) -> list[str]:
        """What the pipeline's constructor changes in the scheduler's config, one line for each key."""
        stated = read_json(self.path / SCHEDULER / SCHEDULER_CONFIG)
        return [
            f"{SCHEDULER}: {key} is {value!r}, as {self.recipe.pipeline} sets it; the file says {stated.get(key)!r}"
            for key, value in self.scheduler_config().items()
            if stated.get(key) != value
        ]

    def _check_classes(self) -> None:
        problems = []
        for part, said in self.classes.items():
            name = SCHEDULER_CONFIG if part == SCHEDULER else CONFIG
            if "okenizer" in said or part not in self.recipe.parts:
                continue
            config = read_json(self.folder_of(part) / name)
            own = config.get("_class_name") or (config.get("architectures") or [None])[0]
            if own is not None and own not in (said, "Transformer2DModel"):
                problems.append(f"{part}/{name} is the config of {own}; {INDEX} says {said}")
        if problems:
            raise CheckpointError(f"{self.path} holds configs of other classes than it says", problems)

    def _check_normalisation(self) -> None:
        if self.recipe.codec is None:
            return
        path = self.folder_of(self.recipe.codec) / CONFIG
        unheeded = self.recipe.unheeded(read_json(path))
        if unheeded:
            raise SpecError(
                f"{path} normalises the latents in a way that {self.recipe.pipeline} "
                "passes over, so nothing says which latents the denoiser was trained on",
                [f"{key} is stated" for key in unheeded],
                hint="name the parts in a spec by hand; a codec applies everything that its config states",
            )


def _entries(index: dict[str, Any], recipe: Recipe) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    classes, settings, problems = {}, {}, []
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if key in recipe.settings and not isinstance(value, list):
            settings[key] = value
        elif value in ([None, None], None) or key in NOT_FOR_IMAGES:
            continue
        elif not (
            isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)
        ):
            problems.append(f"{key}: got {ascii(value)[:80]}; expected [library, class]")
        elif key not in recipe.parts:
            problems.append(f"{key}: {recipe.pipeline} has no such part")
        elif value[0] not in LIBRARIES:
            problems.append(
                f"{key}: comes from {value[0]!a}; only parts of {' and '.join(LIBRARIES)} are read, "
                "code that a folder brings is never run"
            )
        else:
            classes[key] = value[1]
    return classes, settings, problems


def is_pipeline(path: Path) -> bool:
    """Whether a folder is that of a pipeline."""
    return (path / INDEX).is_file()
