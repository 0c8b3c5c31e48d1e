"""A model card as text: front matter, what its author wrote, and one part that is written for them.

The part of ours stands between two comments that no reader sees. All else in a card is its author's and stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_registry.errors import SpecError
from ldm_registry.hub_local import front_matter
from ldm_registry.yaml_reader import parse_yaml

LIBRARY = "ldm-registry"
COMPONENT_TAG = "ldm-component"
PLUGIN_TAG = "ldm-plugin"
BEGIN = "<!-- ldm: from here to the next such line the text is made by a command; write above or below -->"
END = "<!-- ldm: end of what was made -->"

_OURS = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END) + r"\n*", re.DOTALL)
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)(?:^|\n)---[ \t]*(?:\n|\Z)", re.DOTALL)
_SECTION = re.compile(r"^## ", re.MULTILINE)


def split(text: str, name: str = "README.md") -> tuple[dict[str, Any], str]:
    """The front matter of a card, and what stands below it.

    Args:
        text: Of the card.
        name: Named in errors.

    Raises:
        SpecError: The front matter is not plain YAML.
    """
    text = text.replace("\r\n", "\n")
    match = _FRONT.match(text)
    if match is None:
        return {}, text.lstrip("\n")
    # The opening line counts too, so that an error names the line of the file.
    fields = parse_yaml(("\n" + match[1]).encode(), name).plain()
    if fields is not None and not isinstance(fields, dict):
        raise SpecError(f"{name}: the front matter is {type(fields).__name__}, expected `key: value` lines")
    return fields or {}, text[match.end() :].lstrip("\n")


def card(existing: str | None, ours: Mapping[str, Any], title: str, made: str) -> str:
    """A card with front matter and a part of ours, in which all that its author wrote is kept.

    Args:
        existing: The card as it is; None where there is none.
        ours: Front matter. What the author states wins, but for the library's name; tags are joined.
        title: For a card that has none.
        made: Our part, Markdown; put where it stood before, else before the author's first section.

    Raises:
        SpecError: The front matter is not plain YAML.
    """
    fields, body = split(existing or "")
    stated = {key: value for key, value in fields.items() if value not in (None, "", [])}
    joined = {**{key: value for key, value in ours.items() if value not in (None, "", [], ())}, **stated}
    joined["tags"] = list(dict.fromkeys([*_texts(ours.get("tags")), *_texts(fields.get("tags"))]))
    joined["library_name"] = LIBRARY
    if "model-index" in ours:
        joined["model-index"] = _results(ours["model-index"], fields.get("model-index"))
    return f"---\n{front_matter(joined).strip()}\n---\n\n{_with_ours(body or f'# {title}', made)}"


def enclosed(made: str) -> str:
    """Our part with its two comments."""
    return f"{BEGIN}\n\n{made.strip()}\n\n{END}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that the Hub renders; a bar in a cell stays a bar."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _with_ours(body: str, made: str) -> str:
    block = enclosed(made) if made.strip() else ""
    if _OURS.search(body):
        first, *rest = _OURS.split(body)
        parts = [first.rstrip("\n"), block, "".join(rest).strip("\n")]
    else:
        section = _SECTION.search(body)
        at = section.start() if section else len(body)
        parts = [body[:at].rstrip("\n"), block, body[at:].strip("\n")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(ours: Sequence[Mapping[str, Any]], stated: Any) -> list[Any]:
    """Evaluation results: ours afresh, or those that the author lists under another name; the Hub takes one name."""
    names = {one["name"] for one in ours}
    theirs = [one for one in (stated if isinstance(stated, list) else []) if isinstance(one, dict)]
    return theirs if any(one.get("name") not in names for one in theirs) else list(ours)


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)] if value else []


def _cell(value: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")
