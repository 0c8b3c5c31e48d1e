from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from ldm_registry.cli.app import app
from ldm_registry.spec import bundled_specs, load_spec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGIN_PAGES = sorted((ROOT / "plugins").glob("*/README.md"))
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")

per_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text("utf-8")):
        if match["info"].split()[:1] == [language]:
            yield match["body"]


def ldm_commands(page: Path) -> Iterator[list[str]]:
    """The words after `ldm` of every command in the page's shell blocks."""
    for body in blocks(page, "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "ldm":
                    yield words[1:]


@pytest.mark.parametrize("page", [*PAGES, *PLUGIN_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    targets = {match["target"].partition("#")[0] for match in LINK.finditer(text)}
    inner = {target for target in targets if target and "://" not in target}
    assert {target for target in inner if not (page.parent / target).exists()} == set()


@pytest.mark.parametrize("page", [*PAGES, *PLUGIN_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_path_of_somebodys_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.~-])/(home|root|work|tmp|Users|mnt|opt)/", page.read_text("utf-8"))


@per_page
def test_every_command_in_a_page_parses(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in ldm_commands(page):
        assert words[0] in group.commands, f"ldm {words[0]} does not exist"
        if not any(re.search(r"[A-Z]{3}", word) for word in words):
            group.commands[words[0]].make_context(f"ldm {words[0]}", words[1:])


@per_page
def test_every_bundled_spec_that_a_page_names_exists(page: Path) -> None:
    named = {word for words in ldm_commands(page) for word in words[1:] if word.startswith("emoji-")}
    assert named <= set(bundled_specs())


@per_page
def test_python_in_a_page_is_python(page: Path) -> None:
    for body in blocks(page, "python"):
        compile(body, page.name, "exec")


def test_every_command_is_described_in_the_docs() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    names = typer.main.get_command(app).commands
    assert {name for name in names if f"ldm {name}" not in text} == set()


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert {page.name for page in PAGES[1:] if f"docs/{page.name}" not in text} == set()


def test_the_readme_begins_with_what_it_is_then_the_command_then_the_picture() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.startswith("**ldm-registry: ")
    places = [text.index(part) for part in ("```bash images", "![", "```yaml", "```bash tests")]
    assert places == sorted(places)


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    commands = runpy.run_path(str(ROOT / ".ci" / "readme_commands.py"))["commands"]
    found = commands((ROOT / "README.md").read_text("utf-8"))
    assert set(found) == {"images", "tests"}
    assert "ldm run emoji-kl-dit" in found["images"]
    assert "pytest" in found["tests"]
    assert all(len(block.strip().splitlines()) == 1 for block in found.values())


def test_the_spec_in_the_readme_has_seven_lines_and_is_valid(tmp_path: Path) -> None:
    body, *_ = blocks(ROOT / "README.md", "yaml")
    assert len(body.splitlines()) == 7
    path = tmp_path / "readme.yaml"
    path.write_text(body)
    spec, bundled = load_spec(path), load_spec("emoji-kl-dit")
    assert (spec.encoder.use, spec.denoiser.use, spec.scheduler, spec.condition) == (
        bundled.encoder.use,
        bundled.denoiser.use,
        bundled.scheduler,
        bundled.condition,
    )
