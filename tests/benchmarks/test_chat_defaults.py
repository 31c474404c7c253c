"""The scores of edits: what is right counts 1, and each kind of mistake less."""

from __future__ import annotations

import pytest

from benchmarks.chat_defaults import EDITS, body, loops, right_results, score, without_hints
from benchmarks.common import read_prompts

PROMPTS = {row["question_id"]: row["turns"][0] for row in read_prompts(EDITS)}


@pytest.mark.parametrize("question", PROMPTS)
def test_a_right_edit_counts_1_with_words_around_it_and_without(question: str) -> None:
    prompt = PROMPTS[question]
    for right in right_results(question, prompt):
        assert score(question, prompt, right) == 1.0
        assert score(question, prompt, f"Here it is:\n```\n{right}\n```\nDone.") == 1.0
        assert score(question, prompt, right[: len(right) // 2]) < 0.8


@pytest.mark.parametrize("question", ["code 1", "code 2", "text 1", "text 2"])
def test_what_was_not_edited_counts_less(question: str) -> None:
    prompt = PROMPTS[question]
    assert body(prompt) not in right_results(question, prompt)
    assert score(question, prompt, f"```\n{body(prompt)}\n```") < 1.0


def test_type_hints_are_taken_out() -> None:
    hinted = "from typing import List\n\n\ndef make(rows: int, value: float = 0.0) -> List[List[float]]:\n    return []"
    assert without_hints(hinted) == "def make(rows, value=0.0):\n    return []"
    assert without_hints("def broken(") == "def broken("


def test_loops() -> None:
    assert loops("Once more.\n" + "A tale of the soul, and of nothing else,\n" * 3)
    assert not loops("A tale of the soul, and of nothing else,\n" * 2 + "The end.")
