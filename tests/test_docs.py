"""The examples of the documentation run as they stand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from benchmarks import tables
from edgespec import __version__

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / name).read_text() for name in ("docs/python.md", "README.md")}
EXAMPLES = [
    pytest.param(text, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE), start=1)
]


@pytest.mark.model
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(smollm2)
    exec(compile(example, "example", "exec"), {"__name__": "example"})


def test_the_page_of_the_command_line_is_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    cli_docs = importlib.import_module("cli_docs")
    assert cli_docs.PAGE.read_text(encoding="utf-8") == cli_docs.page(), "run: python tools/cli_docs.py"


def test_the_tables_of_the_measurements_are_those_of_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "draw", lambda *where: {})
    page = re.sub(r"!\[[^]]*\]\(plots/.*\)\n\n", "", tables.PAGE.read_text(encoding="utf-8"))
    assert page == tables.filled(page), "run: python -m benchmarks.tables"


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")):
        for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_newest_version_in_the_changelog_is_the_programs_own() -> None:
    sections = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == ("Unreleased", ""), "changes that come next have a place"
    version, date = sections[1]
    assert version == __version__ and re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date)
