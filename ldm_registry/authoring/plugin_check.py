"""The conformance suite on a whole plugin, without a test file: from its folder, or as it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm_registry.authoring.project_loading import loaded_project
from ldm_registry.errors import NotFoundError, SpecError, did_you_mean
from ldm_registry.interfaces import Component
from ldm_registry.registry import Entry, Registry
from ldm_registry.testing.check import Status
from ldm_registry.testing.conformance import ConformanceReport, check_component, check_names, subject_of
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import CONTRACT, parse_config

CHECKPOINT = "checkpoint"
"""Folder of a project with the weights of its component."""
MOST_CHARACTERS = 300
MARKS = {
    Status.PASSED: "ok",
    Status.FAILED: "FAILED",
    Status.SKIPPED: "skipped",
    Status.NOT_APPLICABLE: "nothing to try",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a component is tried, where its own defaults will not do.

    Attributes:
        config: Keys and values in place of its `conformance_config`.
        tokenizer: For a conditioner of text: folder of its tokenizer.
        checkpoint: Folder of weights whose contract is measured.
        images: Image set to measure it with.
    """

    config: Mapping[str, Any] | None = None
    tokenizer: Path | None = None
    checkpoint: Path | None = None
    images: Path | None = None


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What came out of the suite for every component of a plugin.

    Attributes:
        plugin: Distribution and version.
        source: Folder that it was loaded from; None for what is installed.
        reports: One for each component.
    """

    plugin: str
    source: Path | None
    reports: tuple[ConformanceReport, ...]

    @property
    def passed(self) -> bool:
        """Whether no check of any component failed."""
        return all(report.passed for report in self.reports)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {
            "plugin": self.plugin,
            "source": str(self.source) if self.source else None,
            "passed": self.passed,
            "components": [report.to_dict() for report in self.reports],
        }


def check_project(folder: Path, wishes: Wishes | None = None) -> PluginReport:
    """Run the suite on every component of a project, from its folder.

    This runs the code in the folder. A checkpoint in its folder `checkpoint` is measured too.

    Args:
        folder: Of the project.
        wishes: How its components are tried.

    Raises:
        LdmError: As `loaded_project` and `check_component`.
    """
    wishes = wishes or Wishes()
    own = folder / CHECKPOINT
    if wishes.checkpoint is None and (own / CONTRACT).is_file():
        wishes = replace(wishes, checkpoint=own)
    with loaded_project(folder) as project:
        plugin = f"{project.manifest.distribution} {project.manifest.version}"
        reports = tuple(_checked(component, wishes) for _, component in project.components)
        return PluginReport(plugin, folder, reports)


def check_installed(
    name: str, wishes: Wishes | None = None, registry: Registry | None = None
) -> tuple[PluginReport, ...]:
    """Run the suite on what is installed under a name.

    Args:
        name: Of a component, of a component as `kind/name`, or of a distribution.
        wishes: How the components are tried.
        registry: Where to look; None discovers what is installed.

    Returns:
        A report for each distribution that the name leads to.

    Raises:
        NotFoundError: It leads to nothing.
        PluginError: A plugin that it leads to is broken.
    """
    registry = Registry.discover() if registry is None else registry
    entries = _entries(name, registry)
    plugins: dict[str, list[ConformanceReport]] = {}
    for entry in entries:
        report = _checked(registry.get(entry.kind, entry.name), wishes)
        plugins.setdefault(f"{entry.distribution} {entry.version}", []).append(report)
    return tuple(PluginReport(plugin, None, tuple(reports)) for plugin, reports in plugins.items())


def render(report: PluginReport) -> str:
    """One line for each check, for a reader."""
    lines = []
    for one in report.reports:
        about = check_names(one.component.partition(".")[0])
        origin = f"{report.plugin}, from {report.source}" if report.source else report.plugin
        lines.append(f"{one.component.replace('.', ' ', 1)}  ({origin})")
        for result in one.results:
            detail = f": {_line(result.detail)}" if result.detail else ""
            lines.append(f"  {MARKS[result.status]:<14}  {result.name}{detail}")
            if result.status is Status.FAILED:
                lines.append(f"{'':18}expected: {about[result.name]}")
                lines.append(f"{'':18}where: {result.where}")
        lines.append(_summary(one))
    return "\n".join(lines)


def _line(detail: str) -> str:
    """A detail on one line, cut where it is long; the JSON document holds all of it."""
    line = "; ".join(part.strip() for part in detail.splitlines() if part.strip())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ... (--json shows all)"


def _summary(report: ConformanceReport) -> str:
    counts = {status: sum(result.status is status for result in report.results) for status in Status}
    said = [f"{counts[status]} {MARKS[status]}" for status in Status if counts[status]]
    return f"{len(report.results)} checks: {', '.join(said)}"


def _checked(component: type[Component], wishes: Wishes | None) -> ConformanceReport:
    wishes = wishes or Wishes()
    config = None
    if wishes.config is not None:
        where = f"the config of {component.kind} {component.name!r}"
        config = parse_config(component, {**component.conformance_config, **wishes.config}, where)
    subject = subject_of(component, config, tokenizer=wishes.tokenizer)
    try:
        subject.fresh()
    except SpecError as error:
        option = "--tokenizer DIR" if component.kind is Kind.CONDITIONER else "--config KEY=VALUE"
        raise SpecError(
            f"{component.kind} {component.name!r} cannot be built as it is tried",
            [error.summary, *error.problems],
            hint=f"say `{option}`, or give the class a `conformance_config`",
        ) from error
    except (Exception, SystemExit):
        pass  # Every check that builds it says so.
    return check_component(
        component,
        config,
        tokenizer=wishes.tokenizer,
        checkpoint=wishes.checkpoint,
        images=wishes.images,
    )


def _entries(name: str, registry: Registry) -> Sequence[Entry]:
    kind, _, rest = name.rpartition("/")
    every = registry.entries(kind or None)
    found = [entry for entry in every if entry.name == rest] or [
        entry for entry in every if not kind and _normal(entry.distribution) == _normal(name)
    ]
    if found:
        return found
    words = sorted({word for entry in every for word in (entry.name, entry.distribution)})
    hint = did_you_mean(rest, words)
    if Path(name).is_dir():
        hint = f"a folder is named with its path, and its code is run: `ldm plugin test ./{name}`"
    raise NotFoundError(f"no component or plugin {name!r} is installed", hint=hint)


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")
