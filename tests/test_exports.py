from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import ldm_registry

NAMES = sorted(set(ldm_registry.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_name_resolves_to_something_of_that_name(name: str) -> None:
    # `hookimpl` is an instance, which has no name of its own.
    assert getattr(getattr(ldm_registry, name), "__name__", name) == name


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_name_is_documented_where_it_is_defined(name: str) -> None:
    assert inspect.getdoc(getattr(ldm_registry, name))


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_name_stands_in_the_docs(name: str, root: Path) -> None:
    text = "\n".join(path.read_text("utf-8") for path in (*root.glob("docs/*.md"), root / "README.md"))
    assert name in text


def test_type_checkers_see_the_names_that_exist_at_run_time() -> None:
    tree = ast.parse(Path(ldm_registry.__file__).read_text("utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(NAMES)


def test_dir_lists_what_is_exported() -> None:
    assert set(ldm_registry.__all__) <= set(dir(ldm_registry))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        ldm_registry.no_such_name  # noqa: B018  # reading it is the test
