"""The state of a training run, and its one file: safetensors with a JSON header, replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.training.average import Average
from ldm_registry.training.settings import LoopSettings
from ldm_registry.training.sharding import is_in_parts, parted_like, whole

FILE = "state.safetensors"
FORMAT = 1
FREE_TO_CHANGE = frozenset(
    {
        "minutes",
        "checkpoint_every_s",
        "validate_every",
        "validation_images",
        "threads",
        "compile",
        "sharded",
        "initialise_from",
    }
)
"""Settings that do not enter the arithmetic of a step."""

NOTED_WHEN_CHANGED = frozenset({"steps", "decay", "learning_rate", "muon_learning_rate"})
"""Settings that may change between two runs of one training; the card then says so."""


@runtime_checkable
class Stateful(Protocol):
    """A module with training state beside its weights, such as the running sums of an EMA codebook."""

    def training_state(self) -> Mapping[str, Tensor]:
        """The tensors by name."""
        ...

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `training_state` gave."""
        ...


@dataclass(slots=True)
class TrainingState:
    """Everything that a step changes, and what it must not be mixed with.

    Attributes:
        modules: What is trained, by name.
        optimizers: By name.
        average: Of the weights.
        scaler: Of the loss, for float16.
        identity: What the run is of: stage, configs, data; compared when it resumes.
        settings: Of the run.
        step: Steps taken.
        elapsed_s: Wall time of the steps taken.
        history: Changes of settings on the way, in words.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    average: Average
    scaler: torch.amp.GradScaler
    identity: Mapping[str, Any]
    settings: LoopSettings
    step: int = 0
    elapsed_s: float = 0.0
    history: list[str] = field(default_factory=list)


def save_state(state: TrainingState, folder: Path, *, writes: bool = True) -> None:
    """Write the state; a kill at any moment leaves either the previous file or this one, complete.

    Args:
        state: What to write. Where it is sharded, every process has to call this.
        folder: Made when it is missing.
        writes: Whether this process writes: one of several does.
    """
    tensors, scalars = _optimizer_state(state.optimizers)
    tensors |= _module_state(state)
    packed = {}
    for name, tensor in tensors.items():
        if writes or is_in_parts(tensor):
            complete = whole(tensor.detach())
            packed[name] = complete.cpu().contiguous() if writes else complete[:0]
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    notes = {
        "format": FORMAT,
        "step": state.step,
        "elapsed_s": state.elapsed_s,
        "history": state.history,
        "identity": state.identity,
        "settings": state.settings.model_dump(mode="json"),
        "scalars": scalars,
        "scaler": state.scaler.state_dict(),
    }
    partial = folder / f".{FILE}.partial"
    save_file(packed, partial, metadata={"training": json.dumps(notes)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE)


def load_state(state: TrainingState, folder: Path) -> bool:
    """Put a saved state back in place, to the bit.

    Args:
        state: Freshly built for the same training; changed in place.
        folder: Where it was saved.

    Returns:
        False when there is none.

    Raises:
        CheckpointError: The file is broken, or of other networks or data.
        SpecError: Settings that enter the arithmetic differ.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    notes = read_notes(folder)
    _check_identity(state, notes, path)
    state.history = [*notes["history"], *_changes(state.settings, notes, path)]
    expected = _module_state(state)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = sorted(file.keys())  # in one order: each process hands out its parts in turn
            _load_modules(
                state,
                {
                    name: file.get_tensor(name)
                    for name in names
                    if name in expected or name.startswith("extra/")
                },
                path,
            )
            packed = {name: file.get_tensor(name) for name in names if name.startswith("optimizer/")}
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read", [str(error)]) from error
    _load_optimizers(state.optimizers, packed, notes["scalars"])
    if notes["scaler"]:
        state.scaler.load_state_dict(notes["scaler"])
    state.step, state.elapsed_s = int(notes["step"]), float(notes["elapsed_s"])
    return True


def read_notes(folder: Path) -> dict[str, Any]:
    """The JSON part of a saved state.

    Raises:
        CheckpointError: There is none, or it is broken.
    """
    path = folder / FILE
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = json.loads((file.metadata() or {})["training"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a training state", [str(error)], hint="delete its folder"
        ) from error
    if not isinstance(notes, dict) or notes.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of another format", hint="delete its folder to start afresh")
    return notes


def _module_state(state: TrainingState) -> dict[str, Tensor]:
    tensors = {f"average/{name}": tensor for name, tensor in state.average.tensors().items()}
    for prefix, module in state.modules.items():
        tensors |= {f"module/{prefix}/{name}": tensor for name, tensor in module.state_dict().items()}
        if isinstance(module, Stateful):
            tensors |= {f"extra/{prefix}/{name}": tensor for name, tensor in module.training_state().items()}
    return tensors


@torch.no_grad()
def _load_modules(state: TrainingState, saved: Mapping[str, Tensor], path: Path) -> None:
    expected = _module_state(state)
    wrong = [
        f"{name}: {'missing' if name not in saved else tuple(saved[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if not name.startswith("extra/") and (name not in saved or saved[name].shape != tensor.shape)
    ]
    if wrong:
        raise CheckpointError(f"{path} is of other networks", wrong)
    for name, tensor in expected.items():
        if not name.startswith("extra/"):
            tensor.copy_(parted_like(saved[name], tensor))
    for prefix, module in state.modules.items():
        start = f"extra/{prefix}/"
        extra = {name.removeprefix(start): tensor for name, tensor in saved.items() if name.startswith(start)}
        if isinstance(module, Stateful) and extra:
            module.load_training_state(extra)


def _optimizer_state(
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                target = tensors if isinstance(value, Tensor) else scalars
                target[f"optimizer/{name}/{index}/{key}"] = value
    return tensors, scalars


def _load_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        for path, value in {**tensors, **scalars}.items():
            _, owner, index, key = path.split("/")
            if owner == name:
                states.setdefault(int(index), {})[key] = _laid_out(value, parameters[int(index)])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """With the strides of its parameter: vectorised kernels round differently over another memory layout."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(parted_like(value, parameter))
    return value


def _check_identity(state: TrainingState, notes: Mapping[str, Any], path: Path) -> None:
    now, then = json.loads(json.dumps(state.identity)), notes["identity"]
    differing = [
        f"{key}: now {now.get(key)!r:.200}, then {then.get(key)!r:.200}"
        for key in sorted({*now, *then})
        if now.get(key) != then.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{path} is the state of another training",
            differing,
            hint="delete its folder, or train elsewhere",
        )


def _changes(settings: LoopSettings, notes: Mapping[str, Any], path: Path) -> list[str]:
    now, then = settings.model_dump(mode="json"), notes["settings"]
    changed = {key for key in now if now[key] != then.get(key, now[key])} - FREE_TO_CHANGE
    words = {
        key: f"{key}: {then[key]!r} until step {notes['step']}, then {now[key]!r}" for key in sorted(changed)
    }
    refused = [text for key, text in words.items() if key not in NOTED_WHEN_CHANGED]
    if refused:
        raise SpecError(
            f"{path} was trained with other settings",
            refused,
            hint="put them back, or delete the folder to start afresh",
        )
    return list(words.values())
