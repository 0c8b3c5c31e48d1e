from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import toy_plugin

from ldm_registry.errors import NotFoundError, PluginError
from ldm_registry.hookspecs import hookimpl
from ldm_registry.registry import Registry
from ldm_registry.vocabulary import Kind


def install(site: Path, distribution: str, points: dict[str, str], **modules: str) -> None:
    """Put a distribution with entry points and modules into a folder, as an installer would."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {module}" for name, module in points.items())
    info.joinpath("entry_points.txt").write_text(f"[ldm_registry]\n{lines}\n")
    for name, source in modules.items():
        site.joinpath(f"{name}.py").write_text(source)


SCHEDULER = """
from toy_plugin import ToyScheduler, hookimpl

class Mine(ToyScheduler.__mro__[1]):
    name = "{name}"
    Config = ToyScheduler.Config
    def __init__(self, config, schedule, tokens=None): super().__init__()
    levels = ToyScheduler.levels
    trajectory = ToyScheduler.trajectory

@hookimpl
def register_components():
    return [Mine]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_registry_of_modules_holds_just_their_components() -> None:
    registry = Registry([toy_plugin])
    assert registry.get(Kind.ENCODER, "toy-codec") is toy_plugin.ToyEncoder
    assert registry.get("decoder", "toy-codec") is toy_plugin.ToyDecoder
    assert [entry.key for entry in registry.entries(Kind.SCHEDULE)] == [("schedule", "toy_schedule")]


def test_discovery_imports_no_plugin(site: Path) -> None:
    install(site, "ldm-late", {"scheduler.late": "late_plugin"}, late_plugin=SCHEDULER.format(name="late"))
    registry = Registry.discover()
    assert "late" in registry.names(Kind.SCHEDULER)
    assert "late_plugin" not in sys.modules
    assert registry.get(Kind.SCHEDULER, "late").name == "late"
    assert "late_plugin" in sys.modules


def test_discovery_loads_no_torch() -> None:
    code = (
        "import sys; from ldm_registry.registry import Registry; Registry.discover().entries();"
        "assert not {'torch', 'huggingface_hub'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plugin_that_raises_on_import_is_a_broken_row_and_raises_only_when_used(site: Path) -> None:
    install(site, "ldm-bad", {"scheduler.bad": "bad_plugin"}, bad_plugin="raise ZeroDivisionError('oops')")
    install(site, "ldm-good", {"scheduler.good": "good_plugin"}, good_plugin=SCHEDULER.format(name="good"))
    registry = Registry.discover()
    for _ in range(2):
        with pytest.raises(PluginError, match=r"ldm-bad .*cannot be imported\n  ZeroDivisionError: oops"):
            registry.get(Kind.SCHEDULER, "bad")
    assert registry.get(Kind.SCHEDULER, "good").name == "good"
    rows = {entry.name: entry.error for entry in registry.entries(Kind.SCHEDULER)}
    assert "ZeroDivisionError: oops" in str(rows["bad"])
    assert rows["good"] is None
    assert "bad" not in registry.names(Kind.SCHEDULER)


def test_a_plugin_that_exits_on_import_does_not_end_the_program(site: Path) -> None:
    install(site, "ldm-exit", {"scheduler.exit": "exit_plugin"}, exit_plugin="import sys; sys.exit(3)")
    with pytest.raises(PluginError, match="SystemExit: 3"):
        Registry.discover().get(Kind.SCHEDULER, "exit")


def test_a_plugin_that_does_not_return_what_it_declares_is_refused_with_both_sides(site: Path) -> None:
    points = {"scheduler.one": "liar_plugin", "decoder.two": "liar_plugin"}
    install(site, "ldm-liar", points, liar_plugin=SCHEDULER.format(name="three"))
    with pytest.raises(PluginError) as caught:
        Registry.discover().get(Kind.SCHEDULER, "one")
    assert set(caught.value.problems) == {
        "declared but not returned: scheduler.one",
        "declared but not returned: decoder.two",
        "returned but not declared: scheduler.three",
    }


def test_a_name_that_two_distributions_claim_is_nobodys_and_both_are_named(site: Path) -> None:
    install(site, "ldm-first", {"scheduler.twin": "first_plugin"}, first_plugin=SCHEDULER.format(name="twin"))
    install(
        site, "ldm-second", {"scheduler.twin": "second_plugin"}, second_plugin=SCHEDULER.format(name="twin")
    )
    registry = Registry.discover()
    with pytest.raises(PluginError, match=r"ldm-first \(first_plugin\) and ldm-second \(second_plugin\)"):
        registry.get(Kind.SCHEDULER, "twin")
    assert len([entry for entry in registry.entries() if entry.name == "twin"]) == 2
    assert not {"first_plugin", "second_plugin"} & set(sys.modules)


def test_two_modules_with_one_name_make_no_registry() -> None:
    copy = ModuleType("copy_of_toy")
    copy.register_components = toy_plugin.register_components  # type: ignore[attr-defined]  # made by hand
    with pytest.raises(PluginError, match="claimed by"):
        Registry([toy_plugin, copy])


def test_a_misspelt_hook_fails_loudly(site: Path) -> None:
    source = "from toy_plugin import hookimpl\n@hookimpl\ndef register_component():\n    return []\n"
    install(site, "ldm-typo", {"scheduler.typo": "typo_plugin"}, typo_plugin=source)
    with pytest.raises(PluginError, match="register_component"):
        Registry.discover().get(Kind.SCHEDULER, "typo")


@pytest.mark.parametrize(
    ("returned", "problem"),
    [(42, "not a Component class"), (toy_plugin.Encoder, "is abstract"), (dict, "not a Component class")],
)
def test_what_is_not_a_concrete_component_is_refused(returned: object, problem: str) -> None:
    module = ModuleType("wrong")

    @hookimpl
    def register_components() -> list[object]:
        return [returned]

    module.register_components = register_components  # type: ignore[attr-defined]  # made by hand
    with pytest.raises(PluginError, match=problem):
        Registry([module])


def test_an_entry_point_of_no_known_kind_is_a_broken_row(site: Path) -> None:
    install(site, "ldm-odd", {"sampler.odd": "odd_plugin"})
    (row,) = (entry for entry in Registry.discover().entries() if entry.distribution == "ldm-odd")
    assert "not of the form kind.name" in str(row.error)


def test_an_unknown_name_suggests_the_nearest_and_says_where_else_it_exists() -> None:
    registry = Registry([toy_plugin])
    with pytest.raises(NotFoundError, match="did you mean 'toy-scheduler'"):
        registry.get(Kind.SCHEDULER, "toy-sheduler")
    with pytest.raises(NotFoundError, match="'toy-codec' exists as decoder and encoder"):
        registry.get(Kind.DENOISER, "toy-codec")
