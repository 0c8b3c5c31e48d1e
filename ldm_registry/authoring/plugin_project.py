"""A new plugin: a complete project that installs, passes its own tests and runs in a spec as it stands."""

from __future__ import annotations

import keyword
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

from ldm_registry.errors import SpecError, did_you_mean
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
MAX_NAME = 32
LINE_LENGTH = 110
CODEC = "codec"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Project:
    """A plugin that is about to be written, or was.

    Attributes:
        name: As it was asked for, with hyphens.
        kinds: What it supplies, in the order of the data flow.
        folder: Where it lies.
    """

    name: str
    kinds: tuple[Kind, ...]
    folder: Path

    @property
    def distribution(self) -> str:
        """Its name for pip."""
        return f"ldm-{self.name}"

    @property
    def module(self) -> str:
        """Its package."""
        return f"ldm_{self.name.replace('-', '_')}"

    @property
    def title(self) -> str:
        """How its classes begin."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def groups(self) -> tuple[str, ...]:
        """Which templates it takes; the two halves of a codec share one."""
        halves = {Kind.ENCODER, Kind.DECODER}
        if not halves <= set(self.kinds):
            return self.kinds
        return (CODEC, *(kind for kind in self.kinds if kind not in halves))

    def component(self, kind: Kind) -> str:
        """The registered name of its component of a kind; that of a schedule is joined by underscores."""
        return self.name.replace("-", "_") if kind is Kind.SCHEDULE else self.name

    def spec(self, group: str) -> str:
        """The file name of the example spec of a group."""
        return f"{self.name}.yaml" if len(self.groups) == 1 else f"{self.name}-{group}.yaml"


def new_project(
    name: str,
    kinds: Sequence[Kind],
    folder: Path | None = None,
    *,
    allow_clash: bool = False,
    registry: Registry | None = None,
) -> Project:
    """Write a plugin project.

    Args:
        name: Of its components; the distribution is called `ldm-NAME`.
        kinds: What it supplies, each once.
        folder: Where to write it; None is `ldm-NAME` here.
        allow_clash: Also where an installed plugin has a component, or a module, of that name.
        registry: What is installed; None discovers it.

    Returns:
        What was written.

    Raises:
        SpecError: The name or the kinds are not valid, the name is taken, or the folder exists; all problems.
    """
    registry = Registry.discover() if registry is None else registry
    ordered = tuple(kind for kind in Kind if kind in kinds)
    problems = [*_bad_kinds(kinds), *_bad_name(name, ordered)]
    if problems:
        raise SpecError(f"cannot make a plugin {name!r}", problems)
    plain = name.replace("_", "-")
    project = Project(plain, ordered, folder if folder is not None else Path(f"ldm-{plain}"))
    if not allow_clash and (taken := _clashes(project, registry)):
        raise SpecError(
            f"the name {name!r} is taken",
            taken,
            hint="choose another name, or say --allow-clash all the same",
        )
    if os.path.lexists(project.folder):
        raise SpecError(
            f"{project.folder} exists already", hint="choose another name, or another folder with --output"
        )
    _write(project)
    return project


def files_of(project: Project) -> Mapping[str, str]:
    """Every text file of a project, by its path inside the folder."""
    words = _words(project)
    files = {
        "pyproject.toml": _fill("pyproject.toml", words),
        "README.md": _fill("README.md", words),
        "LICENSE": _fill("LICENSE", words),
        ".gitignore": _fill("gitignore", words),
        f"{project.module}/__init__.py": _fill("init.py", words),
        f"{project.module}/py.typed": "",
    }
    for group in project.groups:
        own = {
            **words,
            "name": _name_in(project, group),
            "spec": project.spec(group),
            "imports": _import(project, group, config=True),
        }
        files[f"{project.module}/{group}.py"] = _fill(f"{group}/component.py", own)
        files[f"tests/test_{project.module.removeprefix('ldm_')}_{group}.py"] = _fill(f"{group}/test.py", own)
        files[project.spec(group)] = _fill(f"{group}/spec.yaml", own)
    return files


def _write(project: Project) -> None:
    """All of the project or nothing: it is written beside its place and renamed."""
    place = project.folder.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix=f".{project.folder.name}-") as partial:
        folder = Path(partial) / project.folder.name
        for path, text in files_of(project).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        if Kind.DENOISER in project.kinds:
            from ldm_registry.authoring.first_checkpoint import write_untrained

            write_untrained(folder, project.name, folder / CHECKPOINT)
        folder.rename(project.folder)


def describe(project: Project) -> dict[str, Any]:
    """What was written, as a JSON document."""
    return {
        "distribution": project.distribution,
        "folder": str(project.folder),
        "components": [{"kind": str(kind), "name": project.component(kind)} for kind in project.kinds],
        "specs": [project.spec(group) for group in project.groups],
        "files": sorted(
            path.relative_to(project.folder).as_posix()
            for path in project.folder.rglob("*")
            if path.is_file()
        ),
    }


def render(project: Project) -> str:
    """What was written and what to do next, for a reader."""
    document = describe(project)
    folder = shlex.quote(str(project.folder))
    return "\n".join(
        [
            f"wrote {project.distribution} to {project.folder}",
            *(f"  {file}" for file in document["files"]),
            "next:",
            f"  cd {folder}",
            "  pip install -e .",
            "  ldm plugin test ./",
            f"  ldm run {document['specs'][0]} -n 4 -o out",
        ]
    )


def _words(project: Project) -> dict[str, str]:
    """What the templates are filled in with."""
    registered = [name for group in project.groups for name in _classes(project, group)]
    cards = [_fill(f"{group}/card.md", {"name": _name_in(project, group)}) for group in project.groups]
    return {
        "name": project.name,
        "Title": project.title,
        "distribution": project.distribution,
        "module": project.module,
        "description": f"{_listed(project.kinds).capitalize()} {project.name!r} for ldm-registry",
        "entry_points": "\n".join(
            f'"{kind}.{project.component(kind)}" = "{project.module}"' for kind in project.kinds
        ),
        "imports": "\n".join(_import(project, group) for group in sorted(project.groups)),
        "classes": _wrapped("[", registered, "]", indent="    ", before="return "),
        "tags": ", ".join(f"ldm-{kind}" for kind in project.kinds),
        "spec": project.spec(project.groups[0]),
        "cards": "\n".join(cards),
    }


def _classes(project: Project, group: str) -> list[str]:
    """What a module registers."""
    return [f"{project.title}{kind.capitalize()}" for kind in _kinds_in(group)]


def _import(project: Project, group: str, *, config: bool = False) -> str:
    """The line that imports what a module registers, as a formatter would have it."""
    configs = [f"{group.capitalize()}Config"] if config else []
    names = sorted([*configs, *_classes(project, group)], key=str.lower)
    start = f"from {project.module}.{group} import "
    return start + _wrapped("(", names, ")", before=start, bare=True)


def _wrapped(
    opening: str,
    items: Sequence[str],
    closing: str,
    *,
    before: str,
    indent: str = "",
    bare: bool = False,
) -> str:
    """Items in brackets, on one line where that is short enough, else one line each.

    Args:
        opening: Bracket.
        items: In order.
        closing: Bracket.
        before: What stands on the line before them.
        indent: Of that line.
        bare: Whether one line needs no brackets.
    """
    inner = ", ".join(items)
    line = inner if bare else f"{opening}{inner}{closing}"
    if len(indent + before + line) <= LINE_LENGTH:
        return line
    return "\n".join([opening, *(f"{indent}    {item}," for item in items), f"{indent}{closing}"])


def _kinds_in(group: str) -> tuple[str, ...]:
    return (Kind.ENCODER, Kind.DECODER) if group == CODEC else (group,)


def _name_in(project: Project, group: str) -> str:
    return project.name if group == CODEC else project.component(Kind(group))


def _listed(kinds: Sequence[Kind]) -> str:
    *most, last = kinds
    return f"{', '.join(most)} and {last}" if most else str(last)


def _fill(template: str, words: Mapping[str, str]) -> str:
    """One template with its words filled in."""
    source = resources.files("ldm_registry.authoring") / "templates" / f"{template}.in"
    return Template(source.read_text("utf-8")).substitute(words)


def _bad_kinds(kinds: Sequence[Kind]) -> list[str]:
    if not kinds:
        return [f"it supplies nothing; choose from {', '.join(Kind)}"]
    return [f"kind {kind} is given twice" for kind in Kind if list(kinds).count(kind) > 1]


def _bad_name(name: str, kinds: Sequence[Kind]) -> list[str]:
    problems = []
    if not NAME.fullmatch(name):
        problems.append(
            "the name has to be lower-case words joined by hyphens, such as my-codec, from a letter on"
        )
    elif "_" in name and any(kind is not Kind.SCHEDULE for kind in kinds):
        problems.append(f"the name has to be joined by hyphens: {name.replace('_', '-')}")
    if len(name) > MAX_NAME:
        problems.append(f"the name has {len(name)} characters; expected at most {MAX_NAME}")
    if re.match("ldm[-_]", name):
        problems.append(f"leave out the `ldm-`, which the distribution gets by itself: {name[4:]}")
    if name == "registry":
        problems.append("the package `ldm_registry` is the core's own")
    if keyword.iskeyword(name):
        problems.append(f"{name!r} is a word of Python's")
    return problems


def _clashes(project: Project, registry: Registry) -> list[str]:
    taken = [
        f"{kind} {project.component(kind)!r} comes with {entry.distribution} already"
        for kind in project.kinds
        for entry in registry.entries(kind)
        if entry.name == project.component(kind)
    ]
    if find_spec(project.module) is not None:
        taken.append(f"a module {project.module!r} is installed already")
    return taken


def parse_kinds(words: Sequence[str]) -> tuple[Kind, ...]:
    """Kinds as a command line gives them: several words, or one with commas.

    Raises:
        SpecError: A word is no kind.
    """
    each = [word.strip() for given in words for word in given.split(",")]
    wrong = [
        f"there is no kind {word!r}; {did_you_mean(word, [kind.value for kind in Kind])}"
        for word in each
        if word not in set(Kind)
    ]
    if wrong:
        raise SpecError("cannot read --kind", wrong)
    return tuple(Kind(word) for word in each)
