"""Checkpoint folders: `config.json` and safetensors to a component and back. Never a pickle.

::

    config.json                          keys of the diffusers class; keys of ours start with `_`
    diffusion_pytorch_model.safetensors
    contract.json                        what the part promises, and the digest of every other file
    README.md                            model card
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm_registry.contracts import Contract
from ldm_registry.digests import file_digest
from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, SpecError, did_you_mean
from ldm_registry.interfaces import Component, ComponentConfig
from ldm_registry.safetensors_header import read_header

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONTRACT = "contract.json"
CARD = "README.md"
MAX_JSON_BYTES = 2**20
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        NotFoundError: There is no such file.
        CheckpointError: It is larger than 1 MiB, or not a JSON object.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NotFoundError(f"{path} does not exist", hint=_what_is_there(path.parent)) from error
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is {size} bytes long; at most {MAX_JSON_BYTES} are allowed")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON", [str(error)]) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds {type(document).__name__}, expected an object")
    return document


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, as it stands.

    Raises:
        NotFoundError: There is no such folder or file.
        CheckpointError: The file is not a JSON object of reasonable size.
    """
    return read_json(folder / CONFIG)


def read_contract(folder: Path, name: str = CONTRACT) -> Contract | None:
    """`contract.json` of a checkpoint folder; None where there is none (a foreign folder).

    Args:
        folder: Where the contract lies.
        name: Of its file; another name than the usual one has to be there.

    Raises:
        NotFoundError: A file that was named does not exist.
        CheckpointError: It is not a valid contract.
    """
    path = folder / name
    if name == CONTRACT and not path.is_file():
        return None
    try:
        return Contract.model_validate(read_json(path))
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a valid contract", problems_of(error)) from error


def parse_config(component: type[Component], values: Mapping[str, Any], where: str) -> ComponentConfig:
    """A component's config from a `config.json` or a spec's `config:` block.

    Keys that start with `_` and are not the component's own are notes of the writing library, and are dropped.

    Args:
        component: Whose config it is.
        values: Key to value.
        where: Named in errors.

    Raises:
        SpecError: Unknown keys, wrong types or values, all at once.
    """
    fields = component.Config.model_fields
    own = {info.alias or name for name, info in fields.items()}
    kept = {key: value for key, value in values.items() if not key.startswith("_") or key in own}
    try:
        return component.Config.model_validate(kept)
    except ValidationError as error:
        known = [*fields, *own]
        problems = [
            f"{problem}; {did_you_mean(str(item['loc'][-1]), known)}"
            if item["type"] == "extra_forbidden"
            else problem
            for item, problem in zip(error.errors(), problems_of(error), strict=True)
        ]
        raise SpecError(
            f"{where}: invalid config for {component.kind} {component.name!r}", problems
        ) from error


def problems_of(error: ValidationError) -> list[str]:
    """One line for each problem of a pydantic error: key path, what was got, what is wrong."""
    return [
        f"{'.'.join(map(str, item['loc'])) or '(whole)'}: {item['msg']} (got {ascii(item['input'])[:80]})"
        for item in error.errors()
    ]


def load_weights(component: Component, folder: Path) -> None:
    """Assign the tensors of a checkpoint to a component, which may be on the meta device.

    Tensors are memory-mapped and assigned, not copied; their dtype is that of the file.

    Args:
        component: Built from the folder's config.
        folder: The checkpoint.

    Raises:
        NotFoundError: The folder has no weights.
        IntegrityError: All that it has is a pickle.
        CheckpointError: Missing, unexpected or wrong-shape tensors, all at once; a broken file; NaN or infinity.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in component.state_dict().items()}
    if not expected:
        return
    path = _weights_file(folder)
    found = read_header(path)
    mine = {
        name: entry
        for name, entry in found.items()
        if not name.startswith(component.sibling_prefixes or ("\0",))
    }
    problems = [
        *(f"missing: {name} {list(expected[name])}" for name in expected.keys() - mine.keys()),
        *(f"unexpected: {name} {list(mine[name].shape)}" for name in mine.keys() - expected.keys()),
        *(
            f"wrong shape: {name} is {list(mine[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in mine and mine[name].shape != shape
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not match {component.kind} {component.name!r}",
            sorted(problems),
            hint="check config.json, and that the checkpoint was made by this class",
        )
    component.load_state_dict(_read_tensors(path, expected), strict=True, assign=True)


def _read_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read", [str(error)]) from error
    broken = [
        f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} values are NaN or infinite"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise CheckpointError(
            f"{path} holds values that are not finite", broken, hint="the training diverged"
        )
    return tensors


def save_checkpoint(
    parts: Sequence[Component],
    folder: Path,
    *,
    contract: Contract | None,
    card: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint folder that loads here and, where the class is diffusers' own, in diffusers too.

    Every file is written beside its place and renamed; the contract goes last and its digests with it, so a
    folder that was cut short is refused when it is loaded.

    Args:
        parts: One component, or the two halves of a codec with one config between them.
        folder: Made when it is missing.
        contract: Its `files` are filled in here; None writes none.
        card: The model card.
        dtype: Floating-point tensors are stored in this type; None keeps theirs.

    Raises:
        CheckpointError: The halves share a tensor name or have different configs.
    """
    config = parts[0].config
    if any(part.config != config for part in parts[1:]):
        raise CheckpointError(f"{folder}: the two halves of a codec have different configs")
    tensors: dict[str, Tensor] = {}
    for part in parts:
        for name, tensor in part.state_dict().items():
            if name in tensors:
                raise CheckpointError(f"{folder}: both halves have a tensor {name}")
            stored = tensor.detach().cpu()
            tensors[name] = (
                (stored.to(dtype) if dtype and stored.is_floating_point() else stored).contiguous().clone()
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONTRACT).unlink(missing_ok=True)
    values = config.model_dump(mode="json", by_alias=True)
    diffusers_class = getattr(parts[0], "diffusers_class", None)
    names = {"_class_name": diffusers_class} if diffusers_class else {"_component": parts[0].name}
    _write(folder / CONFIG, (json.dumps({**names, **values}, indent=2) + "\n").encode())
    _write(folder / CARD, card.encode())
    written = [CONFIG, CARD]
    if tensors:
        partial = folder / f".{WEIGHTS}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, folder / WEIGHTS)
        written.append(WEIGHTS)
    if contract is not None:
        files = {name: file_digest(folder / name) for name in written}
        text = contract.model_copy(update={"files": files}).model_dump_json(indent=2, exclude_defaults=True)
        _write(folder / CONTRACT, (text + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if pickles:
        raise IntegrityError(
            f"{folder} has no safetensors; a pickle can run code and is not opened",
            pickles,
            hint=(
                "convert it where you trust it: python -c 'import torch, safetensors.torch as s; "
                f's.save_file(torch.load("{pickles[0]}", weights_only=True), "{WEIGHTS}")\''
            ),
        )
    raise NotFoundError(f"{path} does not exist", hint=_what_is_there(folder))


def _what_is_there(folder: Path) -> str:
    if not folder.is_dir():
        near = (
            [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
            if folder.parent.is_dir()
            else []
        )
        return f"there is no folder {folder}; {did_you_mean(folder.name, near)}"
    return f"{folder} holds {', '.join(sorted(entry.name for entry in folder.iterdir())[:12]) or 'nothing'}"
