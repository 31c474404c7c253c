"""Prompts with passages: what they take from a data set, and that the same ones come again."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.heads.collecting import WANTED, collect, talker

ROOT = Path(__file__).parents[2]


def test_prompts_come_from_a_data_set(tmp_path: Path) -> None:
    model = talker(tmp_path / "tiny.gguf")
    collect(model, tmp_path / "data", replace(WANTED, own_prompts=0))
    for name in ("a.jsonl", "b.jsonl"):
        run(model, tmp_path / "data", tmp_path / name)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    prompts = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len({prompt["question_id"] for prompt in prompts}) == 30
    assert all("{" not in prompt["turns"][0] for prompt in prompts), "every blank of a task is filled"


def run(model: Path, data: Path, out: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "passage_prompts.py"), str(model), str(data), "-o", str(out)]
    subprocess.run([*command, "-n", "30", "--least", "4"], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
