"""The index of a sharded checkpoint, `{metadata: {total_size}, weight_map: {tensor: shard}}`, held against its shards.

`total_size` is not compared: what writes it does not agree on what it counts (bytes of storage, which views and
tied tensors share; sizes of files; the tensors before some were left out). Nothing can hide behind it, since
every byte of every shard belongs to a tensor that the index lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_registry.errors import CheckpointError
from ldm_registry.json_files import read_json
from ldm_registry.links import contained
from ldm_registry.safetensors_header import TensorEntry, read_header

MAX_INDEX_BYTES = 8 * 2**20


def read_shards(index: Path) -> dict[str, TensorEntry]:
    """The tensors of all shards.

    Args:
        index: The index file; the shards lie beside it.

    Raises:
        IntegrityError: A shard is a link out of the folder.
        CheckpointError: The index is malformed, or it and the shards differ; all differences at once.
    """
    weight_map = _weight_map(index)
    shards: dict[str, Mapping[str, TensorEntry] | None] = {}
    problems = []
    for name in sorted(set(weight_map.values())):
        path = contained(index.with_name(name))
        shards[name] = None
        try:
            if path.is_file():
                shards[name] = read_header(path)
            else:
                count = sum(shard == name for shard in weight_map.values())
                problems.append(f"missing: {name}, which should hold {count} tensors")
        except CheckpointError as error:
            problems += [f"broken: {name}: {problem}" for problem in error.problems]
    problems += _differences(weight_map, shards)
    if problems:
        raise CheckpointError(f"{index} and its shards differ", problems, hint="fetch the folder again")
    return {name: entry for entries in shards.values() if entries for name, entry in entries.items()}


def _weight_map(index: Path) -> dict[str, str]:
    document = read_json(index, max_bytes=MAX_INDEX_BYTES)
    stated: Any = document.get("weight_map")
    if not isinstance(stated, dict) or not stated:
        raise CheckpointError(
            f"{index} was refused", ["it has no `weight_map` of tensors to shards"], hint="fetch it again"
        )
    refused = sorted({ascii(shard)[:80] for shard in stated.values() if not _is_plain_name(shard)})
    if refused:
        raise CheckpointError(
            f"{index} was refused",
            [f"{shard} is not the name of a safetensors file in the folder" for shard in refused],
            hint="a shard index names files of its own folder only",
        )
    return stated


def _is_plain_name(shard: object) -> bool:
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not {"/", "\\", "\0"} & set(shard)
        and shard.isprintable()
        and len(shard) <= 255
    )


def _differences(
    weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorEntry] | None]
) -> Iterator[str]:
    holders = defaultdict(list)
    for shard, entries in shards.items():
        for name in entries or ():
            holders[name].append(shard)
    for name, shard in sorted(weight_map.items()):
        entries = shards[shard]
        if entries is not None and name not in entries:
            elsewhere = f"; it is in {' and '.join(holders[name])}" if name in holders else ""
            yield f"{ascii(name)[1:-1][:256]}: is not in {shard}, where the index has it{elsewhere}"
    for name, found in sorted(holders.items()):
        if len(found) > 1:
            yield f"{name}: is in {' and in '.join(found)}"
        if name not in weight_map:
            yield f"{name}: is in {found[0]}, and the index does not list it"
