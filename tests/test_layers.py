"""The shape of the package: imports point one way, one package knows llama.cpp, `__all__` is true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgespec

PACKAGE = Path(edgespec.__file__).parent
# Each layer may import itself and those above; a new module has to take a place.
LAYERS = [
    {"errors"},
    {"core"},
    {
        "sampling",
        "verify",
        "tally",
        "text",
        "cost",
        "estimate",
        "drawn",
        "accounts",
        "rest",
        "acceptance",
        "machine",
        "store",
        "child",
        "jsonl",
        "kv_file",
        "gguf_walk",
        "gguf_header",
        "gguf_values",
    },
    {"prospects", "reading"},
    {"policy", "testing", "backend", "drafters", "models", "catalogue"},
    {"session", "vetting", "lossless", "exact", "measured", "doctor", "vocabtrim"},
    {"chat", "matching", "pairing"},
    {"engine"},
    {"__init__"},
    {"bench", "integrations", "examine"},
    {"cli", "__main__"},
]
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules imported at run time."""
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for guard in guarded:
        guard.body = [ast.Pass()]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            here = (
                node.module == "edgespec"
            )  # from edgespec import machine: the module, or a public name of the package
            names |= {f"edgespec.{alias.name}" if here else node.module for alias in node.names}
    return names


def unit(module: str) -> str:
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in set.union(*LAYERS) else "__init__"


def layer_of(name: str) -> int:
    return next(place for place, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    known = set.union(*LAYERS)
    assert own in known, f"give {own} a place in LAYERS"
    for name in imported(ast.parse(path.read_text())):
        if name.split(".")[0] == "llama_cpp":
            assert own in ("backend", "integrations"), (
                f"{path.name} imports llama_cpp; only backend and integrations do"
            )
        elif name.split(".")[0] == "edgespec":
            assert layer_of(unit(name)) <= layer_of(own), f"{own} imports {name}, which stands above it"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_are_small_and_say_what_they_are_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 280, "split it: one idea per module"
    assert ast.get_docstring(ast.parse(text)), "a module begins with what it is for"


def test_public_names_are_all_and_there():
    assert {*edgespec._HOMES, "EdgespecError", "__version__"} == set(edgespec.__all__)
    assert all(hasattr(edgespec, name) for name in edgespec.__all__)
    assert sorted(edgespec.__all__) == edgespec.__all__
