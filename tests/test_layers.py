"""The shape of the package: imports go to earlier packages, no package has a circle, one package knows llama.cpp."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import edgespec

PACKAGE = Path(edgespec.__file__).parent
ORDER = (
    *("errors", "core", "system", "latency", "gguf", "grammar", "decode", "policy", "testing", "backend", "drafters"),
    *("vocabtrim", "heads", "hub", "engine", "__init__", "doctor", "bench", "integrations", "cli", "__main__"),
)
"""Every package may import those before it."""
SOURCES = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))}
MOST_LINES = 420


def imported(path: Path) -> set[str]:
    """The modules that a file imports, for type checking too: `backend.context`, or `llama_cpp`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = {f"edgespec.{module}" for module in SOURCES.values()} | {f"edgespec.{name}.__init__" for name in ORDER}
    found = set()
    for name in names:
        if name.split(".")[0] != "edgespec":
            found.add(name.split(".")[0])
            continue
        candidates = (name, name.rpartition(".")[0], f"{name}.__init__", f"{name.rpartition('.')[0]}.__init__")
        module = next((one for one in candidates if one in known), "edgespec.__init__")
        found.add(module.removeprefix("edgespec."))
    return found


@pytest.mark.parametrize(("path", "module"), SOURCES.items(), ids=SOURCES.values())
def test_imports_go_to_earlier_packages(path: Path, module: str) -> None:
    own = module.split(".", maxsplit=1)[0]
    for name in imported(path):
        package = name.split(".")[0]
        assert name != "llama_cpp" or own in ("backend", "integrations"), "only backend imports llama_cpp"
        if package in ORDER and package != own:
            assert ORDER.index(package) < ORDER.index(own), f"{module} imports {name}, which comes later"


def test_no_package_has_a_circle() -> None:
    graph = {
        module: {name for name in imported(path) if name in SOURCES.values() and not module.startswith("__")}
        for path, module in SOURCES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCES, ids=SOURCES.values())
def test_modules_have_one_subject_and_say_which(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text)), "a module begins with what it is for"


def test_public_names_are_all_and_there() -> None:
    assert {*edgespec._HOMES, "EdgespecError", "__version__"} == set(edgespec.__all__)
    assert all(hasattr(edgespec, name) for name in edgespec.__all__)
    assert sorted(edgespec.__all__) == edgespec.__all__
