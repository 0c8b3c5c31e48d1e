"""Publish a plugin's project: tested, scanned, in one commit, under the version that its manifest states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ldm_registry.authoring.manifest import FILE, Manifest, read_manifest
from ldm_registry.authoring.plugin_check import CHECKPOINT, PluginReport, check_project
from ldm_registry.errors import ContractError
from ldm_registry.hub import Hub
from ldm_registry.testing.check import Status
from ldm_registry.travel.card_text import COMPONENT_TAG, PLUGIN_TAG, card, table
from ldm_registry.travel.plugin_contents import LICENCE, contents_of
from ldm_registry.travel.publishing import Parcel, Published, check_version, facts_before, publish
from ldm_registry.travel.push import repository_of
from ldm_registry.travel.scan import PROJECT, gather, refuse, scan
from ldm_registry.travel.sealed_code import code_digest
from ldm_registry.weights import CARD, CONTRACT


@final
@dataclass(frozen=True, slots=True)
class PreparedPlugin:
    """A plugin that is ready to be published.

    Attributes:
        repository: Where to.
        manifest: Of the project.
        parcel: The files.
        report: Of the conformance suite.
        digest: Of the code, which those who install it consent to.
        left_out: What stays at home.
        notes: What could be better.
    """

    repository: str
    manifest: Manifest
    parcel: Parcel
    report: PluginReport
    digest: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self, commit: str) -> list[str]:
        """What others paste."""
        return [f"ldm plugin install hf://{self.repository}@{commit} --trust-code {self.digest}"]


def prepare_plugin(
    folder: Path,
    repository: str,
    *,
    licence: str | None = None,
    knows_secret: Callable[[bytes], bool] = lambda content: False,
) -> PreparedPlugin:
    """Scan a project, run the conformance suite on it, and write its card; the folder itself stays as it is.

    This runs the project's code.

    Args:
        folder: Of the project.
        repository: `org/name`.
        licence: As the Hub writes it; None leaves the one in the card.
        knows_secret: Whether a content holds a secret of ours.

    Raises:
        NotFoundError: There is no such folder, or no manifest in it.
        SpecError: The manifest, the repository or the card is not valid.
        ContractError: A component does not conform; every failed check.
        IntegrityError: There is something that must not be published, or that nobody could install; every finding.
    """
    repository = repository_of(repository)
    manifest = read_manifest(folder)
    version = check_version(manifest.version, f"`version` in {FILE}")
    gathered = gather(folder, PROJECT)
    # Before a line of it runs.
    refuse([*gathered.findings, *scan(gathered.files, PROJECT, knows_secret)], str(folder))
    sizes = {path: held.stat().st_size for path, held in gathered.files.items()}
    contents = contents_of((folder / FILE).read_bytes(), sizes, str(folder))
    report = check_project(folder)
    _require_conforming(folder, report)
    digest = code_digest({path: facts_before(gathered.files[path]).sha256 for path in contents.sources})
    existing = gathered.files[CARD].read_text("utf-8") if CARD in gathered.files else None
    weights = f"/{CHECKPOINT}" if f"{CHECKPOINT}/{CONTRACT}" in gathered.files else None
    made = _card(existing, repository, manifest, report, digest, licence, weights)
    files: dict[str, Path | bytes] = {**gathered.files, CARD: made.encode()}
    refuse(scan(files, PROJECT, knows_secret), str(folder))
    parcel = Parcel("plugin", version, dict(sorted(files.items())), FILE, f"`version` in {FILE}")
    return PreparedPlugin(
        repository, manifest, parcel, report, digest, gathered.left_out, tuple(_lacks(made, files))
    )


def push_plugin(prepared: PreparedPlugin, hub: Hub, *, private: bool = False) -> Published:
    """Publish what was prepared.

    Args:
        prepared: By `prepare_plugin`.
        hub: With a token that may write there.
        private: Only the owners may see it.

    Raises:
        LdmError: As `publish`.
    """
    return publish(hub, prepared.repository, prepared.parcel, private=private)


def _require_conforming(folder: Path, report: PluginReport) -> None:
    problems = [
        f"{one.component}: {result.name}: {result.detail}"
        for one in report.reports
        for result in one.failures
    ]
    if problems:
        raise ContractError(
            f"{folder} does not conform, and is not published",
            problems,
            hint=f"`ldm plugin test {folder if folder.is_absolute() else f'./{folder}'}` says more",
        )


def _card(
    existing: str | None,
    repository: str,
    manifest: Manifest,
    report: PluginReport,
    digest: str,
    licence: str | None,
    weights: str | None,
) -> str:
    kinds = dict.fromkeys(str(one.kind) for one in manifest.components)
    front = {
        "license": licence,
        "tags": [COMPONENT_TAG, PLUGIN_TAG, *(f"ldm-{kind}" for kind in kinds)],
    }
    parts = _parts(repository, manifest, report, digest, weights)
    return card(existing, front, manifest.distribution, "\n\n".join(parts))


def _parts(
    repository: str, manifest: Manifest, report: PluginReport, digest: str, weights: str | None
) -> Iterator[str]:
    first = manifest.components[0]
    yield "## How to use it"
    about = f" {manifest.description.rstrip('.')}." if manifest.description else ""
    yield f"This is a plugin of `ldm-registry`, a registry of interchangeable parts of diffusion models.{about}"
    yield f"```bash\nldm plugin install hf://{repository}@v{manifest.version}\n```"
    yield (
        "shows what it holds, with its code's digest, and asks before anything is installed. Nothing of it runs "
        "before that. Then a spec names its components:"
    )
    trained = f", checkpoint: hf://{repository}@COMMIT{weights}" if weights else ""
    yield f"```yaml\n{first.kind}: {{use: {first.name}{trained}}}\n```"
    if weights:
        yield (
            f"`ldm pull {repository}@v{manifest.version} --folder {CHECKPOINT}` fetches the weights that come with it, "
            "and prints that line with its commit."
        )
    yield "## What it holds"
    yield table(
        ("kind", "name", "checks passed", "left out with a reason"),
        [_row(manifest, index, report) for index in range(len(manifest.components))],
    )
    needs = ", ".join(f"`{one}`" for one in manifest.dependencies) or "nothing"
    yield table(
        ("", ""),
        [
            ("distribution", f"`{manifest.distribution}` {manifest.version}"),
            ("needs", needs),
            ("digest of the code", f"`{digest}`"),
        ],
    )
    reasons = [*_exemptions(report)]
    if reasons:
        yield "What does not hold, and why:\n\n" + "\n".join(reasons)


def _row(manifest: Manifest, index: int, report: PluginReport) -> tuple[str, ...]:
    one, results = manifest.components[index], report.reports[index].results
    counts: Mapping[Any, int] = {
        status: sum(result.status is status for result in results) for status in Status
    }
    asked = counts[Status.PASSED] + counts[Status.FAILED]
    return str(one.kind), f"`{one.name}`", f"{counts[Status.PASSED]} of {asked}", f"{counts[Status.SKIPPED]}"


def _exemptions(report: PluginReport) -> Iterator[str]:
    for one in report.reports:
        for result in one.results:
            if result.status is Status.SKIPPED:
                yield f"- `{one.component}`, {result.name.replace('_', ' ')}: {result.detail}"


def _lacks(made: str, files: Mapping[str, object]) -> Iterator[str]:
    front = made.split("\n---\n", 1)[0]
    if "\nlicense:" not in front:
        yield "the card states no licence: say --license, such as --license apache-2.0"
    if not any(LICENCE.fullmatch(path) for path in files):
        yield "there is no LICENSE file beside pyproject.toml"
