"""Publish a checkpoint: checked, measured again, scanned, in one commit, under a version that never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from ldm_registry.contracts import Contract, FileDigest
from ldm_registry.errors import ContractError, SpecError
from ldm_registry.hub import Hub
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec
from ldm_registry.testing import promises
from ldm_registry.testing.check import CheckResult, Status
from ldm_registry.testing.conformance import subject_of
from ldm_registry.travel.model_card import Facts, checkpoint_card
from ldm_registry.travel.publishing import Parcel, Published, check_version, facts_before, publish
from ldm_registry.travel.pull import DATA_ENDINGS
from ldm_registry.travel.references import is_commit, parse_repository
from ldm_registry.travel.remeasured import Remeasured, remeasure
from ldm_registry.travel.scan import CHECKPOINT, Finding, gather, refuse, scan
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import CARD, CONFIG, CONTRACT, classes_of, parse_config, read_config, read_contract

FIRST_VERSION = "1.0.0"
NAMES_CODE = ("auto_map", "custom_pipelines")
"""Keys by which other libraries let a config name code to run."""


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint that is ready to be published.

    Attributes:
        repository: Where to.
        contract: As it will be published.
        parcel: The files.
        measured: What was found before.
        left_out: What stays at home.
        notes: What was not done, and how it could be.
    """

    repository: str
    contract: Contract
    parcel: Parcel
    measured: Remeasured
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self, commit: str) -> list[str]:
        """What others paste into a spec."""
        return [
            f"{kind}: {{use: {name}, checkpoint: hf://{self.repository}@{commit}}}"
            for kind, name in self.contract.components.items()
        ]


def prepare(
    folder: Path,
    repository: str,
    *,
    version: str = FIRST_VERSION,
    spec: PipelineSpec | None = None,
    images: Path | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    registry: Registry | None = None,
    knows_secret: Callable[[bytes], bool] = lambda content: False,
) -> Prepared:
    """Check, measure and scan a checkpoint, and write its card; the folder itself stays as it is.

    Args:
        folder: The checkpoint.
        repository: `org/name`.
        version: To publish it as.
        spec: A pipeline that it is measured in; for a denoiser this gives errors and samples.
        images: Image set to measure it with, in place of the spec's.
        licence: As the Hub writes it, such as `apache-2.0`; None leaves the one in the card.
        base_model: What it was derived from, `org/name`; None leaves the one in the card.
        registry: Where the components come from; None discovers what is installed.
        knows_secret: Whether a content holds a secret of ours.

    Raises:
        NotFoundError: There is no such folder.
        SpecError: The repository, the version or the card is not valid, or the folder has no contract.
        ContractError: The component does not do what its contract says; every failed check, every differing figure.
        IntegrityError: There is something that must not be published; every finding.
    """
    repository = repository_of(repository)
    check_version(version, "--version")
    gathered = gather(folder, CHECKPOINT)
    # Before a byte of it is read as anything else.
    refuse([*gathered.findings, *scan(gathered.files, CHECKPOINT, knows_secret)], str(folder))
    contract = _contract(folder)
    refuse(_code_in(read_config(folder)), str(folder))
    registry = registry or Registry.discover()
    _require_kept(folder, contract, registry)
    measured = remeasure(folder, contract, spec=spec, images=images, registry=registry)
    if measured.disagreements:
        raise ContractError(
            f"{folder} does not measure as its contract says",
            measured.disagreements,
            hint="was a file exchanged since it was saved? Save it again, so that it is measured again",
        )
    existing = (folder / CARD).read_text("utf-8") if CARD in gathered.files else None
    facts = Facts(
        repository,
        version,
        foreign=_foreign(read_config(folder)),
        plugins=_plugins(contract, registry),
        latent_stride=measured.latent_stride,
        codec=measured.codec,
        pictures=measured.pictures,
        measured_again=sum(figure.recorded is not None for figure in measured.figures),
        licence=licence,
        base_model=base_model,
    )
    card = checkpoint_card(existing, measured.contract, facts)
    files: dict[str, Path | bytes] = {
        **gathered.files,
        **{picture.name: picture.png for picture in measured.pictures},
        CARD: card.encode(),
    }
    contract = _with_digests(measured.contract, files)
    text = contract.model_dump_json(indent=2, exclude_defaults=True) + "\n"
    files[CONTRACT] = text.encode()
    refuse(scan(files, CHECKPOINT, knows_secret), str(folder))
    parcel = Parcel("checkpoint", version, dict(sorted(files.items())), CONTRACT, "--version")
    notes = (*measured.notes, *_lacks(card))
    return Prepared(repository, contract, parcel, measured, gathered.left_out, notes)


def push(prepared: Prepared, hub: Hub, *, private: bool = False) -> Published:
    """Publish what was prepared.

    Args:
        prepared: By `prepare`.
        hub: With a token that may write there.
        private: Only the owners may see it.

    Raises:
        LdmError: As `publish`.
    """
    return publish(hub, prepared.repository, prepared.parcel, private=private)


def repository_of(text: str) -> str:
    """The repository that a user names to publish to.

    Raises:
        SpecError: It is none, or names a revision.
    """
    repository, revision = parse_repository(text)
    if revision is not None:
        what = "a commit" if is_commit(revision) else "a revision"
        raise SpecError(
            f"{text} names {what}; what is published becomes a new one",
            hint=f"write {repository}, and --version X.Y.Z",
        )
    return repository


def _contract(folder: Path) -> Contract:
    contract = read_contract(folder)
    if contract is None:
        raise SpecError(
            f"{folder} has no {CONTRACT}: nobody could tell what it promises",
            hint=f"`ldm train` writes one; `ldm import` writes one beside its spec, to be copied here as {CONTRACT}",
        )
    return contract


def _require_kept(folder: Path, contract: Contract, registry: Registry) -> None:
    """Load every component, and compare it with what the contract says.

    Raises:
        ContractError: Every check that failed.
        LdmError: A component cannot be built.
    """
    problems = []
    for kind, name in contract.components.items():
        component = registry.get(kind, name)
        config = parse_config(component, read_config(folder), str(folder / CONFIG))
        subject = replace(subject_of(component, config), checkpoint=folder)
        results: list[CheckResult] = [
            check.result(subject) for check in promises.CHECKS if kind in check.kinds
        ]
        problems += [
            f"{kind} {name!r}: {result.name}: {result.detail}"
            for result in results
            if result.status is Status.FAILED
        ]
    if problems:
        raise ContractError(
            f"{folder} does not keep its contract",
            problems,
            hint="nothing was published; train or export it again, so that its contract is written anew",
        )


def _code_in(config: Mapping[str, Any]) -> Iterator[Finding]:
    for key in NAMES_CODE:
        if key in config:
            yield Finding(
                CONFIG, f"{key}: it names code to run; a component is built from its registered name"
            )


def _foreign(config: Mapping[str, Any]) -> tuple[str, str] | None:
    names = classes_of(config)
    if not names or "_component" in config:
        return None
    return ("diffusers" if "_class_name" in config else "transformers"), names[0]


def _plugins(contract: Contract, registry: Registry) -> dict[Kind, str]:
    """Who supplies the components, as far as they are installed and not merely handed over."""
    return {
        kind: f"`{entry.distribution}` {entry.version}".strip()
        for kind, name in contract.components.items()
        for entry in registry.entries(kind)
        if entry.name == name and entry.distribution
    }


def _with_digests(contract: Contract, files: Mapping[str, Path | bytes]) -> Contract:
    """The contract with the digests of what is pulled from its own folder; pictures are not, and are left out."""
    digests = {}
    for path, held in sorted(files.items()):
        if "/" not in path and path != CONTRACT and path.lower().endswith(DATA_ENDINGS):
            facts = facts_before(held)
            digests[path] = FileDigest(sha256=facts.sha256, size=facts.size)
    return contract.model_copy(update={"files": digests})


def _lacks(card: str) -> Iterator[str]:
    front = card.split("\n---\n", 1)[0]
    if "\nlicense:" not in front:
        yield "the card states no licence: say --license, such as --license apache-2.0"
