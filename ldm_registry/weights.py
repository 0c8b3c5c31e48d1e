"""Checkpoint folders: `config.json` and safetensors to a component and back. Never a pickle.

::

    config.json                          keys of the diffusers class; keys of ours start with `_`
    diffusion_pytorch_model.safetensors  or another set of weights, see `weight_files`
    contract.json                        what the part promises, and the digest of every other file
    README.md                            model card
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm_registry.contracts import Contract
from ldm_registry.digests import file_digest
from ldm_registry.errors import CheckpointError, SpecError, did_you_mean
from ldm_registry.interfaces import Component, ComponentConfig
from ldm_registry.json_files import MAX_JSON_BYTES as MAX_JSON_BYTES
from ldm_registry.json_files import read_json as read_json
from ldm_registry.mapped_tensors import read_tensors
from ldm_registry.stored_names import Match, match_names
from ldm_registry.weight_files import WEIGHTS as WEIGHTS
from ldm_registry.weight_files import StoredWeights, read_weights

CONFIG = "config.json"
CONTRACT = "contract.json"
CARD = "README.md"
TRANSFORMERS_BY_NORM = {
    "ada_norm_zero": "DiTTransformer2DModel",
    "ada_norm_single": "PixArtTransformer2DModel",
}


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, as it stands.

    Raises:
        NotFoundError: There is no such folder or file.
        IntegrityError: The file is a link out of the folder.
        CheckpointError: It is not a JSON object of reasonable size.
    """
    return read_json(folder / CONFIG)


def read_contract(folder: Path, name: str = CONTRACT) -> Contract | None:
    """`contract.json` of a checkpoint folder; None where there is none (a foreign folder).

    Args:
        folder: Where the contract lies.
        name: Of its file; another name than the usual one has to be there.

    Raises:
        NotFoundError: A file that was named does not exist.
        IntegrityError: The file is a link out of the folder.
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
        return component.Config.model_validate(component.adopt_config(kept))
    except SpecError as error:
        raise SpecError(f"{where}: {error.summary}", error.problems, error.hint) from error
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


def classes_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a stored config says it is for, in today's names; () where it says none.

    diffusers writes `_class_name`, transformers `architectures`, and a component without a foreign class
    `_component`, its name. What diffusers once called `Transformer2DModel` is two classes by now.

    Args:
        values: A `config.json`.
    """
    said = values.get("_class_name") or values.get("architectures") or values.get("_component") or ()
    names = (said,) if isinstance(said, str) else tuple(said) if isinstance(said, list | tuple) else ()
    return tuple(
        TRANSFORMERS_BY_NORM.get(str(values.get("norm_type")), name) if name == "Transformer2DModel" else name
        for name in names
        if isinstance(name, str)
    )


def defaulted(config: ComponentConfig) -> tuple[str, ...]:
    """`key: value` for every key of the foreign class that was not stated and took the default of the class.

    Args:
        config: As `parse_config` made it. Keys of ours, which start with `_`, are left out.
    """
    return tuple(
        f"{info.alias or name}: {json.dumps(config.model_dump(mode='json', include={name})[name])}"
        for name, info in type(config).model_fields.items()
        if name not in config.model_fields_set and not (info.alias or name).startswith("_")
    )


def load_weights(
    component: Component, folder: Path, *, variant: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Assign the tensors of a checkpoint to a component, which may be on the meta device.

    Tensors are memory-mapped and assigned, not copied, unless they have to change their type.

    Args:
        component: Built from the folder's config.
        folder: The checkpoint.
        variant: Of the weights, such as `fp16`; None takes the plain ones, or the only ones that there are.
        dtype: Floating-point tensors are converted to it one by one; None keeps the types of the file.

    Raises:
        NotFoundError: The folder has no such weights.
        IntegrityError: All that it has is a pickle, or a file is a link out of the folder.
        CheckpointError: Missing, unexpected or wrong-shape tensors, all at once; a broken file; NaN or infinity.
    """
    tensors = stored_tensors(component, folder, variant=variant, dtype=dtype)
    if tensors:
        _assign(component, tensors)


def stored_tensors(
    component: Component, folder: Path, *, variant: str | None = None, dtype: torch.dtype | None = None
) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by the names that they have in a component; arguments and errors as `load_weights`.

    Memory-mapped: what is not looked at is not read.
    """
    expected = component.state_dict()
    if not expected:
        return {}
    match = _matching(component, expected, read_weights(folder, variant))
    tensors = read_tensors(match.sources, dtype)
    # An old 1x1 convolution may stand for a linear layer; every other shape is known to be equal.
    return {name: tensor.view(expected[name].shape) for name, tensor in tensors.items()}


def check_weights(component: Component, folder: Path, variant: str | None = None) -> StoredWeights:
    """Whether `load_weights` would find the tensors that it needs, told from the headers alone.

    Args:
        component: Built from the folder's config.
        folder: The checkpoint.
        variant: Of the weights.

    Raises:
        LdmError: As `load_weights`, but for values that are not finite.
    """
    stored = read_weights(folder, variant)
    _matching(component, component.state_dict(), stored)
    return stored


def _assign(component: Component, tensors: Mapping[str, Tensor]) -> None:
    """What `load_state_dict(strict=True, assign=True)` does with tensors that are known to fit, in half its time."""
    modules = dict(component.named_modules(remove_duplicate=False))
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        module = modules.get(owner)
        if module is None or not (key in module._parameters or key in module._buffers):
            # A component that stores its tensors under other names than its modules' knows how to read them.
            component.load_state_dict(tensors, strict=True, assign=True)
            return
        setattr(
            module, key, nn.Parameter(tensor, requires_grad=False) if key in module._parameters else tensor
        )


def _matching(component: Component, expected: Mapping[str, Tensor], stored: StoredWeights) -> Match:
    match = match_names(component, expected, stored.tensors)
    if match.problems:
        raise CheckpointError(
            f"{stored.path} does not match {component.kind} {component.name!r}",
            match.problems,
            hint="check config.json, and that the checkpoint was made by this class",
        )
    return match


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
