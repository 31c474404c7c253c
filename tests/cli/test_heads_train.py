"""`heads train` and `heads evaluate` as a person meets them, on a tiny target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.gguf.validate import read_header
from tests.gguf_files import tiny_model
from tests.heads.data_set import write_data

TRAIN = ("train", "data", "-m", "tiny.gguf", "--size", "64", "--threads", "1", "--epochs", "3", "--batch", "64")
EVERY_STEP = "import edgespec.heads.train as t; t._CHECKPOINT_SECONDS = 0; from edgespec.cli import main; main()"
"""A program that writes a checkpoint after each step."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and its recorded answers."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data", read_header(tiny_model(tmp_path / "tiny.gguf")))
    return tmp_path


def heads(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("heads", *arguments))


def test_training_says_what_it_needs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = heads(*TRAIN, "--kind", "medusa", "-o", "m.gguf")
    assert result.exit_code == 1 and "pip install 'edgespec[train]'" in result.stderr


def test_from_answers_to_heads_and_their_replay(here: Path) -> None:
    pytest.importorskip("torch")
    result = heads(*TRAIN, "--kind", "hydra", "-o", "h.gguf", "--plot", "h.png")
    assert result.exit_code == 0, result.output
    assert "epoch 3: loss" in result.stderr and "held-out answers, chains: mean acceptance length" in result.stdout
    assert sorted(path.name for path in here.iterdir()) == ["data", "h.gguf", "h.png", "tiny.gguf"]
    assert (here / "h.png").read_bytes().startswith(b"\x89PNG")
    shown = heads("evaluate", "h.gguf", "data", "-m", "tiny.gguf", "--threads", "1", "--nodes", "4")
    assert shown.exit_code == 0, shown.output
    assert result.stdout.splitlines()[1] == shown.stdout.splitlines()[0]
    result = heads("evaluate", "h.gguf", "data", "-m", "tiny.gguf", "--threads", "1", "--json")
    assert set(json.loads(result.stdout)) == {"chain", "looping"}
    whole = json.loads(
        heads("evaluate", "h.gguf", "data", "-m", "tiny.gguf", "--threads", "1", "--json", "--all").stdout
    )
    assert whole["chain"]["tokens"] > 5 * json.loads(result.stdout)["chain"]["tokens"]


def test_outputs_are_not_replaced_unasked(here: Path) -> None:
    pytest.importorskip("torch")
    (here / "m.gguf").write_text("mine")
    result = heads(*TRAIN, "--kind", "medusa", "-o", "m.gguf")
    assert result.exit_code == 1 and "--force" in result.stderr and (here / "m.gguf").read_text() == "mine"
    result = heads(*TRAIN, "--kind", "medusa", "-o", "n.gguf", "--plot", "plot.txt")
    assert result.exit_code == 1 and "choose such a name" in result.stderr and not (here / "n.gguf").exists()


def test_a_folder_without_answers_is_one_line(here: Path) -> None:
    pytest.importorskip("torch")
    (here / "empty").mkdir()
    result = heads("train", "empty", "-m", "tiny.gguf", "--kind", "medusa", "-o", "m.gguf")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_to_the_same_file(here: Path, number: int) -> None:
    pytest.importorskip("torch")
    arguments = (*TRAIN, "--kind", "eagle3")
    assert heads(*arguments, "-o", "whole.gguf").exit_code == 0
    command = [sys.executable, "-c", EVERY_STEP, "heads", *arguments, "-o", "cut.gguf"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (here / "cut.gguf.checkpoint").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, printed = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), printed
    assert "Traceback" not in printed
    assert not (here / "cut.gguf").exists()
    assert heads(*arguments, "-o", "cut.gguf").exit_code == 0
    assert (here / "cut.gguf").read_bytes() == (here / "whole.gguf").read_bytes()
    assert not (here / "cut.gguf.checkpoint").exists()
