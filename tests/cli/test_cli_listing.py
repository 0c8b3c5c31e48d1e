from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ldm_registry.vocabulary import Kind

HEAVY = {"torch", "huggingface_hub", "numpy", "PIL", "safetensors"}
RAISES = "raise RuntimeError('this plugin always fails')\n"
RETURNS_LESS = """
import ldm_registry

@ldm_registry.hookimpl
def register_components():
    return []
"""


def imported_by(*words: str) -> set[str]:
    """Every module that a command leaves imported, in a process of its own."""
    code = (
        "import sys\nfrom ldm_registry.__main__ import main\n"
        f"code = main({list(words)!r})\n"
        "print(*sorted(sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ended.stderr.split())


@pytest.mark.parametrize(
    "words",
    [["list"], ["list", "encoder", "--json"], ["--version"], ["--help"], ["run", "--help"]],
    ids=" ".join,
)
def test_looking_around_imports_nothing_heavy(words: list[str]) -> None:
    assert imported_by(*words) & HEAVY == set()


@pytest.mark.parametrize("words", [["list"], ["--version"]], ids=" ".join)
def test_the_fastest_commands_import_neither_typer_nor_pydantic(words: list[str]) -> None:
    assert imported_by(*words) & {"typer", "click", "pydantic", "yaml"} == set()


def test_list_names_every_component_with_its_plugin(ldm: Any, install: Any) -> None:
    install("some-plugin", {"denoiser.some-net": "some_module", "schedule.some_noise": "some_module"})
    rows = ldm("list", "--json").document["components"]
    mine = [row for row in rows if row["distribution"] == "some-plugin"]
    assert [(row["kind"], row["name"], row["version"], row["status"]) for row in mine] == [
        ("denoiser", "some-net", "1.0", "declared"),
        ("schedule", "some_noise", "1.0", "declared"),
    ]


def test_list_comes_in_the_order_of_the_data_flow(ldm: Any, install: Any) -> None:
    install("all", {f"{kind}.one": "module_of_all" for kind in Kind})
    kinds = [row["kind"] for row in ldm("list", "--json").document["components"]]
    assert kinds == sorted(kinds, key=list(Kind).index)


def test_list_of_a_kind_shows_no_other(ldm: Any, install: Any) -> None:
    install("some-plugin", {"denoiser.some-net": "some_module", "decoder.some-net": "some_module"})
    ended = ldm("list", "decoder")
    assert "some-net" in ended.out
    assert "denoiser" not in ended.out


def test_list_of_an_unknown_kind_names_the_near_one(ldm: Any) -> None:
    ended = ldm("list", "encodr")
    assert ended.code == 2
    assert "'encoder'" in ended.err


def test_list_does_not_import_a_plugin_that_raises(ldm: Any, install: Any) -> None:
    install("broken", {"denoiser.broken": "broken_when_listed"}, RAISES)
    ended = ldm("list")
    assert ended.code == 0
    assert "broken_when_listed" not in sys.modules


def test_checked_list_marks_a_plugin_that_raises_and_lists_the_others(ldm: Any, install: Any) -> None:
    install("broken", {"denoiser.broken": "broken_when_checked"}, RAISES)
    install("toy", {"encoder.toy-codec": "toy_plugin", "decoder.toy-codec": "toy_plugin"})
    ended = ldm("list", "denoiser", "--check", "--json")
    assert ended.code == 6
    rows = {row["name"]: row for row in ended.document["components"]}
    assert rows["broken"]["status"] == "broken"
    assert "RuntimeError: this plugin always fails" in rows["broken"]["error"]
    assert all(row["status"] == "declared" for name, row in rows.items() if name != "broken")


def test_checked_list_marks_a_plugin_that_returns_less_than_it_declares(ldm: Any, install: Any) -> None:
    install("empty", {"scheduler.empty": "returns_too_little"}, RETURNS_LESS)
    rows = {row["name"]: row for row in ldm("list", "scheduler", "--check", "--json").document["components"]}
    assert "declared but not returned: scheduler.empty" in rows["empty"]["error"]


def test_a_name_that_two_plugins_claim_belongs_to_neither(ldm: Any, install: Any) -> None:
    install("first", {"decoder.contested": "first_module"})
    install("second", {"decoder.contested": "second_module"})
    rows = [
        row for row in ldm("list", "decoder", "--json").document["components"] if row["name"] == "contested"
    ]
    assert [row["status"] for row in rows] == ["broken", "broken"]
    assert all("first" in row["error"] and "second" in row["error"] for row in rows)
    shown = ldm("show", "decoder/contested")
    assert shown.code == 6


@pytest.fixture
def broken_neighbours(install: Callable[..., None]) -> None:
    install("broken", {"denoiser.broken": "broken_neighbour"}, RAISES)
    install("first", {"decoder.contested": "first_module"})
    install("second", {"decoder.contested": "second_module"})
    install("nonsense", {"neither": "no_such_module"})


@pytest.mark.usefixtures("broken_neighbours")
def test_broken_plugins_do_not_stop_a_run_of_others(ldm: Any, toy_spec: Any) -> None:
    assert ldm("check", toy_spec).code == 0


@pytest.mark.usefixtures("broken_neighbours")
def test_using_a_broken_plugin_says_which_and_why(ldm: Any) -> None:
    ended = ldm("show", "broken")
    assert ended.code == 6
    assert "RuntimeError: this plugin always fails" in ended.err
    assert "pip uninstall broken" in ended.err
