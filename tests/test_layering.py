from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "ldm_registry"
LAYERS = (
    (
        "errors",
        "vocabulary",
        "noise",
        "yaml_scalars",
        "training.settings",
        "training.progress",
        "runtime",
        "runtime.transfer",
    ),
    (
        "interfaces",
        "prediction",
        "guidance",
        "conditioning",
        "taps",
        "maps",
        "moments",
        "tiling",
        "linear",
        "data",
        "links",
        "json_files",
        "safetensors_header",
        "shard_index",
        "weight_files",
        "stored_names",
        "mapped_tensors",
        "without_memory",
        "yaml_reader",
        "spec",
        "spec_*",
        "runtime.*",
    ),
    ("contracts", "foreign", "hub", "hub_*", "hookspecs", "trainable"),
    (
        "registry",
        "weights",
        "digests",
        "golden",
        "authoring.manifest",
        "engines",
        "engines.*",
        "travel",
        "travel.references",
        "travel.listing",
        "travel.verified",
        "travel.lock",
        "travel.content",
        "travel.pull",
        "travel.pinning",
        "travel.in_specs",
        "travel.scan",
        "travel.publishing",
        "travel.card_text",
        "travel.model_card",
        "travel.sealed_code",
        "travel.code_review",
        "travel.plugin_contents",
        "travel.plugin_lock",
        "travel.plugin_store",
        "travel.plugin_offer",
        "travel.plugin_install",
        "travel.plugin_text",
        "travel.plugin_changes",
        "travel.plugin_history",
        "travel.plugin_states",
        "travel.plugin_surroundings",
        "travel.consent",
    ),
    ("build", "stage_config", "assembly", "pipeline", "original", "original.*"),
    (
        "interchange",
        "interchange.*",
        "training",
        "training.*",
        "costs",
        "costs.*",
        "matrix",
        "image_statistics",
        "image_statistics.*",
        "diagnostics",
        "diagnostics.*",
        "report",
        "report.*",
        "streaming",
        "streaming.*",
    ),
    (
        "testing",
        "testing.*",
        "authoring",
        "authoring.*",
        "travel.remeasured",
        "travel.push",
        "travel.plugin_push",
        "travel.publication_text",
    ),
    ("cli", "cli.*", "__main__"),
)
PUBLIC_TO_PLUGINS = {
    "interfaces",
    "foreign",
    "trainable",
    "vocabulary",
    "prediction",
    "errors",
    "hookspecs",
    "testing",
    "maps",
    "moments",
    "tiling",
    "linear",
}
PLUGIN_FILES = sorted((ROOT / "plugins").glob("*/ldm_*/**/*.py"))
PLUGIN_TEST_FILES = sorted((ROOT / "plugins").glob("*/tests/**/*.py"))


def module_name(path: Path, top: Path) -> str:
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


CORE_FILES = {module_name(path, CORE): path for path in sorted(CORE.rglob("*.py"))}


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file imports anywhere; the name is empty for `import module`."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def core_imports(path: Path) -> set[str]:
    """The modules of the core that a file imports, without `ldm_registry.`; the package itself is empty."""
    found = set()
    for module, name in imports(path):
        if module == "ldm_registry" or module.startswith("ldm_registry."):
            inner = module.removeprefix("ldm_registry").removeprefix(".")
            longer = f"{inner}.{name}".removeprefix(".")
            found.add(longer if longer in CORE_FILES else inner)
    return found


def layer(module: str) -> int:
    ranks = [
        rank
        for rank, patterns in enumerate(LAYERS)
        if any(fnmatchcase(module, pattern) for pattern in patterns)
    ]
    assert ranks, f"{module} has no layer; say in LAYERS where it belongs"
    return ranks[0]


@pytest.mark.parametrize("module", sorted(set(CORE_FILES) - {""}))
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    above = {other for other in core_imports(CORE_FILES[module]) - {""} if layer(other) > layer(module)}
    assert above == set()


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {module: core_imports(path) - {module, ""} for module, path in CORE_FILES.items() if module}
    list(TopologicalSorter(graph).static_order())


def test_core_imports_no_plugin_and_nothing_beside_its_dependencies() -> None:
    declared = (
        "torch numpy packaging pluggy pydantic pydantic_core safetensors huggingface_hub typer yaml PIL"
    )
    allowed = {*sys.stdlib_module_names, *declared.split(), "jaxtyping", "ldm_registry", "pytest"}
    found = {(module, name.split(".")[0]) for module, path in CORE_FILES.items() for name, _ in imports(path)}
    assert {(module, name) for module, name in found if name not in allowed} <= {
        ("diagnostics.similarity", "torchmetrics"),  # an extra, imported where it is used
        ("engines.ray_cluster", "ray"),
        ("engines.ray_engine", "ray"),
        ("streaming.crew", "ray"),
        ("training.processes", "accelerate"),
    }


def test_only_the_conformance_suite_imports_pytest() -> None:
    assert all(module.startswith("testing") for module in importers_of("pytest"))


def test_only_hub_imports_huggingface_hub() -> None:
    assert all(module.partition("_")[0] == "hub" for module in importers_of("huggingface_hub"))


def test_only_the_command_line_imports_typer() -> None:
    assert all(module.startswith("cli") for module in importers_of("typer"))


def importers_of(library: str) -> set[str]:
    return {
        module
        for module, path in CORE_FILES.items()
        if any(name.split(".")[0] == library for name, _ in imports(path))
    }


def test_no_pickle_is_ever_opened_and_no_code_built_from_text() -> None:
    offences = []
    for path in (*CORE_FILES.values(), *PLUGIN_FILES):
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
                offences.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
        offences += [
            f"{path.relative_to(ROOT)} {name}" for name, _ in imports(path) if name in FORBIDDEN_MODULES
        ]
    assert offences == []


FORBIDDEN_CALLS = {"torch.load", "torch.jit.load", "torch.hub.load", "eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib"}


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_a_plugin_imports_public_names_of_the_core_and_no_other_plugin(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[1]
    for module, name in imports(path):
        top = module.split(".")[0]
        if top == "ldm_registry":
            inner = module.removeprefix("ldm_registry").removeprefix(".")
            assert inner in PUBLIC_TO_PLUGINS | {""}, f"{module} is not public"
            assert not name.startswith("_"), f"{module}.{name} is not public"
        else:
            assert top == own or not top.startswith("ldm_"), f"{module} is another plugin"


@pytest.mark.parametrize("path", PLUGIN_TEST_FILES, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_the_tests_of_a_plugin_import_no_other_plugin(path: Path) -> None:
    folder = ROOT / "plugins" / path.relative_to(ROOT / "plugins").parts[0]
    own = {package.name for package in folder.glob("ldm_*")}
    tops = {module.split(".")[0] for module, _ in imports(path)}
    assert {top for top in tops if top.startswith("ldm_")} <= own | {"ldm_registry"}


@pytest.mark.parametrize(
    "module",
    [
        "",
        "errors",
        "vocabulary",
        "yaml_reader",
        "spec",
        "hookspecs",
        "registry",
        "training.settings",
        "engines.opening",
        "cli.app",
    ],
)
def test_reading_specs_and_listing_plugins_costs_no_torch(module: str) -> None:
    name = f"ldm_registry.{module}".removesuffix(".")
    code = f"import sys, {name}; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "huggingface_hub", "ray"} & set(ended.stdout.split()) == set()
