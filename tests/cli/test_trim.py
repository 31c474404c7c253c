"""`calibrate` and `trim` as a person meets them, on a tiny model: from prompts to a drafter in one file."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.errors import UnsupportedModel
from edgespec.gguf.reader import walk
from edgespec.system import child
from edgespec.system.files import sha256_of
from edgespec.vocabtrim.counts import load_counts, tokenizer_hash
from edgespec.vocabtrim.format import trimming_of
from edgespec.vocabtrim.keep_list import KeepList, load_keep_list
from edgespec.vocabtrim.pipeline import trim
from edgespec.vocabtrim.quantized import quantized
from tests.gguf_files import tiny_model
from tests.present import present
from tests.vocabtrim.test_pipeline import TEMPLATE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model that can be talked to, and prompts for it."""
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"turns": [f"prompt {n}"]}) for n in range(11)))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def calibrate(*arguments: str) -> Result:
    return run("calibrate", "-m", "tiny.gguf", "--ctx", "64", "-n", "8", "--threads", "1", *arguments)


def test_from_prompts_to_a_trimmed_drafter(here: Path) -> None:
    result = calibrate("--prompts", "p.jsonl", "-o", "c.json")
    assert result.exit_code == 0, result.output
    assert "tokens counted" in result.stdout and "11 of 11 answers" in result.stderr
    counts = json.loads((here / "c.json").read_text())
    assert counts["source"] == "target" and counts["texts"] == 11 and counts["held_out_tokens"] > 0
    result = run("trim", "tiny.gguf", "-o", "small.gguf", "--counts", "c.json", "--size", "128")
    assert result.exit_code == 0, result.output
    assert "128 of 320 tokens" in result.stdout and "identical" in result.stdout and "covered" in result.stdout
    kept = present(trimming_of(walk(here / "small.gguf"))).kept_ids
    assert set(map(int, counts["counts"])) <= set(kept.tolist())
    assert sorted(path.name for path in here.iterdir()) == ["c.json", "p.jsonl", "small.gguf", "tiny.gguf"]


def test_counts_of_text_and_of_recorded_answers(here: Path) -> None:
    (here / "t.txt").write_text("some words\n" * 200)
    (here / "a.jsonl").write_text('{"tokens": [5, 6]}\n{"text": "a"}\n')
    assert calibrate("--text", "t.txt", "-o", "t.json").exit_code == 0
    assert calibrate("--answers", "a.jsonl", "-o", "a.json").exit_code == 0
    result = run("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "a.json", "--counts", "t.json", "--coverage", "0.95")
    assert result.exit_code == 0, result.output
    assert {5, 6} <= set(present(trimming_of(walk(here / "s.gguf"))).kept_ids.tolist())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json"), 2, "either --size K or --coverage F"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--size", "64"), 2, "give --counts"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "no.json", "--size", "64"), 1, "no such file"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json", "--size", "1000"), 1, "the vocabulary has 320"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json", "--size", "1"), 1, "are needed"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json", "--coverage", "2"), 1, "from 0 to 1"),
        (("trim", "tiny.gguf", "-o", "tiny.gguf", "--counts", "c.json", "--size", "64"), 1, "there is one already"),
        (
            ("trim", "tiny.gguf", "-o", "tiny.gguf", "--force", "--counts", "c.json", "--size", "64"),
            1,
            "the full model itself",
        ),
        (("trim", "tiny.gguf", "-o", "p.jsonl/s.gguf", "--counts", "c.json", "--size", "64"), 1, "cannot be written"),
        (("trim", "tiny.gguf", "-o", ".", "--counts", "c.json", "--size", "64"), 1, "that is a folder: name a file"),
        (("calibrate", "-m", "tiny.gguf", "-o", ".", "--prompts", "p.jsonl"), 1, "that is a folder: name a file in it"),
        (("trim", "c.json", "-o", "s.gguf", "--counts", "c.json", "--size", "64"), 1, "not a GGUF"),
        (("trim", "tiny.gguf", "-o", "s.gguf", "--kept", "c.json", "--size", "64"), 1, "no list of kept tokens"),
        (("calibrate", "-m", "tiny.gguf", "-o", "x.json"), 2, "one of --prompts"),
        (("calibrate", "-m", "tiny.gguf", "-o", "x.json", "--answers", "p.jsonl"), 1, "line 1"),
        (("calibrate", "-m", "tiny.gguf", "-o", "x.json", "--text", "no.txt"), 1, "cannot read"),
    ],
)
def test_bad_input_gets_one_line(here: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    assert calibrate("--prompts", "p.jsonl", "-o", "c.json").exit_code == 0
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr and "Traceback" not in result.stderr
    assert status == 2 or len(result.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "-m", "tiny.gguf", "--ctx", "64", "-n", "2", "--threads", "1", "--prompts", "p.jsonl"),
        ("calibrate", "-m", "tiny.gguf", "--text", "p.jsonl"),
        ("trim", "tiny.gguf", "--counts", "c.json", "--size", "128"),
    ],
)
def test_a_file_that_is_there_is_replaced_only_with_force(here: Path, arguments: tuple[str, ...]) -> None:
    assert calibrate("--prompts", "p.jsonl", "-o", "c.json").exit_code == 0
    out = here / "out"
    out.write_text("a year of work")
    refused = run(*arguments, "-o", "out")
    assert (refused.exit_code, out.read_text()) == (1, "a year of work")
    assert refused.stderr == ("edgespec: out: there is one already: choose another name, or replace it with --force\n")
    assert sorted(path.name for path in here.iterdir()) == ["c.json", "out", "p.jsonl", "tiny.gguf"]
    done = run(*arguments, "-o", "out", "--force")
    assert done.exit_code == 0, done.output
    assert out.read_bytes() != b"a year of work"


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_stopped_calibration_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...]) -> None:
    def stop(_progress: object, _stage: str, done: int, *_: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    if force:
        (here / "c.json").write_text("an earlier one")
    with monkeypatch.context() as patch:
        patch.setattr("edgespec.cli.progress.AnswerProgress.__call__", stop)
        assert calibrate("--prompts", "p.jsonl", "-o", "c.json", "--parallel", "1", *force).exit_code == 130
    assert (here / "c.json").exists() is bool(force)
    done = calibrate("--prompts", "p.jsonl", "-o", "c.json", "--parallel", "1", *force)
    assert done.exit_code == 0 and done.stderr.startswith("3 of 11 answers"), done.output
    assert json.loads((here / "c.json").read_text())["texts"] == 11


def test_a_drafter_from_a_list_of_kept_tokens(here: Path) -> None:
    ids = [300, 5, 301]
    hashed = tokenizer_hash(walk(here / "tiny.gguf"))
    KeepList(hashed, np.array(ids, np.int32), {"by": "hand"}).save(here / "k.json")
    assert load_keep_list(here / "k.json").ids.tolist() == ids
    result = run("trim", "tiny.gguf", "-o", "s.gguf", "--kept", "k.json", "--size", "6")
    assert result.exit_code == 0, result.output
    assert {300, 5} <= set(present(trimming_of(walk(here / "s.gguf"))).kept_ids.tolist())


def test_a_quantized_drafter_is_proved_against_the_model_so_quantized(here: Path) -> None:
    assert calibrate("--prompts", "p.jsonl", "-o", "c.json").exit_code == 0
    result = run("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json", "--size", "128", "--quantize", "q4_0")
    assert result.exit_code == 0, result.output
    part = walk(here / "s.gguf")
    assert {tensor.type for tensor in part.tensors if len(tensor.shape) == 2} == {gguf.GGMLQuantizationType.Q4_0}
    trimming = present(trimming_of(part))
    assert trimming.source_name == "tiny.gguf"
    assert trimming.provenance["quantized"] == {"to": "q4_0", "from_sha256": sha256_of(here / "tiny.gguf")}
    assert (here / "s.gguf").stat().st_size < (here / "tiny.gguf").stat().st_size / 2
    assert sorted(path.name for path in here.iterdir()) == ["c.json", "p.jsonl", "s.gguf", "tiny.gguf"]


DYING = "import os, signal, sys; print('/a/b.c:1: GGML_ASSERT(no) failed'); os.kill(os.getpid(), signal.SIGABRT)"


@pytest.mark.parametrize(
    ("script", "free", "message"),
    [
        ("print('why not'); raise SystemExit(3)", 1 << 40, "edgespec: why not"),
        (DYING, 1 << 40, "does not survive bringing it to q4_0 (signal 6, Aborted: b.c:1: GGML_ASSERT(no) failed)"),
        ("print('iostream error'); raise SystemExit(3)", 0, "no space left"),
    ],
)
def test_a_model_that_cannot_be_quantized_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, script: str, free: int, message: str
) -> None:
    assert calibrate("--prompts", "p.jsonl", "-o", "c.json").exit_code == 0
    monkeypatch.setattr(child, "program", lambda _module: (sys.executable, "-c", script))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    result = run("trim", "tiny.gguf", "-o", "s.gguf", "--counts", "c.json", "--size", "128", "--quantize", "q4_0")
    assert result.exit_code == 1 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == ["c.json", "p.jsonl", "tiny.gguf"]


def test_llama_cpp_says_why_it_does_not_quantize(here: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"no\.gguf: llama.cpp cannot bring it to q4_0 \(.*failed to load model"):
        quantized(here / "no.gguf", here / "out", "q4_0", print).__enter__()
    assert sorted(path.name for path in (here / "out").iterdir()) == []


def test_ctrl_c_ends_the_quantizer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import time; print('[   1/   9] a', flush=True); time.sleep(600)"
    monkeypatch.setattr(child, "program", lambda _module: (sys.executable, "-c", script))

    def stop(done: int, total: int) -> None:
        assert (done, total) == (1, 9)
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        quantized(here / "tiny.gguf", here / "out", "q4_0", stop).__enter__()
    assert time.monotonic() - begun < 60 and not list((here / "out").iterdir())


def test_quantizing_and_writing_are_seen(here: Path) -> None:
    assert calibrate("--prompts", "p.jsonl", "-o", "c.json").exit_code == 0
    stages = []
    trim(
        here / "tiny.gguf", here / "s.gguf", [load_counts(here / "c.json")], size=128, quantization="q4_0",
        progress=lambda *stage: stages.append(stage),
    )  # fmt: skip
    assert stages[0] == ("quantizing", 1, 21) and ("quantizing", 21, 21) in stages
    assert stages[-1][0] == "writing" and stages[-1][1] == stages[-1][2] == (here / "s.gguf").stat().st_size
