"""Texts to token ids, with the files of one tokenizer folder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError, SpecError

MAX_JSON_BYTES = 2**20
SETTINGS = "tokenizer_config.json"


@final
class Tokens:
    """A tokenizer that gives every text the same number of tokens: padded where shorter, cut where longer.

    Args:
        folder: Of the tokenizer's files, as transformers writes them.
        class_name: Of the tokenizer in transformers.
        files: Which files hold its vocabulary; one of these sets has to be there.
        length: Tokens of every text; None is the tokenizer's limit, at most `limit`.
        limit: The longest text that the network takes; None is any.
        component: Named in errors.

    Attributes:
        length: Tokens of every text.

    Raises:
        SpecError: No folder was named.
        NotFoundError: The folder or its vocabulary is not there.
        IntegrityError: The folder asks for code of its own to be run.
        CheckpointError: Its files cannot be read, or are of another class of tokenizer.
    """

    def __init__(
        self,
        folder: Path | None,
        class_name: str,
        files: Sequence[tuple[str, ...]],
        *,
        length: int | None,
        limit: int | None,
        component: str,
    ) -> None:
        if folder is None:
            raise SpecError(
                f"conditioner {component!r} has no tokenizer",
                hint="name the folder of its files beside the checkpoint: `tokenizer: DIR`",
            )
        _require_files(folder, files)
        _refuse_foreign_code(folder, class_name)
        self._folder = folder
        self._tokenizer = _load(folder, class_name)
        own: int = self._tokenizer.model_max_length
        self.length = length if length is not None else own if limit is None else min(own, limit)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise texts.

        Returns:
            Ids, int64 [B, length], and which of them are no padding, bool [B, length]; on the CPU.
        """
        made = self._tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return made.input_ids, made.attention_mask.bool()

    def require_known(self, ids: Tensor, vocab_size: int) -> None:
        """Stop before an id beyond the embedding table reaches an accelerator, where it kills the process.

        Raises:
            CheckpointError: The tokenizer is not the one that the network was trained with.
        """
        largest = int(ids.max())
        if largest >= vocab_size:
            raise CheckpointError(
                f"the tokenizer {self._folder} does not belong to this text encoder",
                [f"it gives token {largest}; the encoder knows tokens 0 to {vocab_size - 1}"],
            )

    def cut(self, texts: Sequence[str]) -> list[str]:
        """What does not fit of each text, and so has no effect; empty where all of it does."""
        rest = []
        for text in texts:
            ids = self._tokenizer(text, verbose=False).input_ids
            # The last token of both the whole and the cut text marks the end.
            dropped = ids[self.length - 1 : -1] if len(ids) > self.length else []
            rest.append(str(self._tokenizer.decode(dropped)) if dropped else "")
        return rest


def _require_files(folder: Path, files: Sequence[tuple[str, ...]]) -> None:
    # A name that is no folder would be looked up on the Hub.
    if not folder.is_dir():
        raise NotFoundError(f"there is no tokenizer folder {folder}")
    if not any(all((folder / name).is_file() for name in names) for names in files):
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "nothing"
        wanted = ", or ".join(" and ".join(names) for names in files)
        raise NotFoundError(f"{folder} holds no vocabulary", [f"it holds {there}", f"expected {wanted}"])


def _refuse_foreign_code(folder: Path, class_name: str) -> None:
    path = folder / SETTINGS
    if not path.is_file():
        return
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is longer than {MAX_JSON_BYTES} bytes")
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON", [str(error)]) from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds {type(settings).__name__}, expected an object")
    if "auto_map" in settings:
        raise IntegrityError(
            f"{path} names code of its own, which is never run",
            [f"auto_map is {ascii(settings['auto_map'])[:80]}"],
            hint=f"take a folder of the plain {class_name}",
        )
    said = settings.get("tokenizer_class")
    if said not in (None, class_name, f"{class_name}Fast", "PreTrainedTokenizerFast", "TokenizersBackend"):
        raise CheckpointError(f"{path} is for {ascii(said)[:80]}, expected {class_name}")


def _load(folder: Path, class_name: str) -> Any:
    # transformers takes seconds to import, and only who builds a text encoder should wait for it.
    tokenizer_class = getattr(import_module("transformers"), class_name)
    try:
        return tokenizer_class.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # transformers and its parsers raise whatever they meet first, bare Exception among it.
    except Exception as error:
        raise CheckpointError(f"the tokenizer {folder} cannot be read", [ascii(str(error))[:400]]) from error
