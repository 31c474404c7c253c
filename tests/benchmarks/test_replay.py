"""The arithmetic of benchmarks/replay.py and policy_replay.py: what a record tells is what drafting along it shows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.policy_replay import Counted, curve_of, played, summed
from benchmarks.replay import hits_in_blocks, replayed
from benchmarks.simulate import Clock
from edgespec.core import NOTHING
from edgespec.latency.model import LatencyModel
from edgespec.testing import ScriptedDrafter, TableModel

PROMPT = [7, 7]
drafted_and_said = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


@given(drafted_and_said, st.integers(1, 6))
def test_hits_tell_the_blocks_that_drafting_makes(pairs: list[tuple[int, int]], length: int) -> None:
    draft_tokens, answer = zip(*pairs, strict=True)

    def draft(tokens: Sequence[int], limit: int) -> list[int]:
        place = len(tokens) - len(PROMPT)
        return [*draft_tokens, 0, 0, 0, 0, 0, 0][place : place + limit]

    recorded = {"subtask": "any", "prompt": PROMPT, "answer": list(answer)}
    shown = replayed(ScriptedDrafter(draft), recorded, length)
    hits = "".join("01"[draft_tokens[place] == answer[place]] for place in range(1, len(answer)))
    summary = hits_in_blocks(recorded, hits, length)
    for key in ("tokens", "blocks", "judged", "accepted"):
        assert summary[key] == shown[key], key


FLAT = curve_of({"curve": {"ms": {str(n): 100.0 + 2.0 * (n - 1) for n in (1, 2, 3, 4, 6, 8, 16, 32, 64)}}})
ANSWER = {"subtask": "any", "prompt": PROMPT, "answer": list(range(100)), "room": 100}


def test_plain_decoding_takes_its_own_time_and_right_guesses_less() -> None:
    plain = played(ANSWER, [], FLAT, Clock())
    assert plain["tokens"] == 99 and plain["seconds"] == pytest.approx(plain["plain"]) == pytest.approx(9.9)
    knowing = ScriptedDrafter(lambda tokens, limit: list(range(len(tokens) - 2, 100)))
    drafted = played(ANSWER, [knowing], FLAT, Clock())
    assert drafted["accepted"] == drafted["drafted"] > 50
    assert drafted["plain"] / drafted["seconds"] > 3.0
    wrong = played(ANSWER, [ScriptedDrafter(lambda tokens, limit: [200] * limit)], FLAT, Clock())
    assert wrong["accepted"] == 0 and 0.97 < wrong["plain"] / wrong["seconds"] <= 1.0
    summary = summed([plain, drafted, wrong])
    assert summary["answers"] == 3 and summary["least"] == wrong["plain"] / wrong["seconds"]
    assert summary["total"] == pytest.approx(29.7 / sum(row["seconds"] for row in (plain, drafted, wrong)))


def test_a_drafters_evaluations_take_what_the_curve_says() -> None:
    clock, cost = Clock(), LatencyModel(128)
    cost.measure({1: 0.01, 8: 0.04})
    context = Counted(TableModel(), cost, clock)
    context.prefill([1] * 8)
    assert clock.now == pytest.approx(0.04)
    context.evaluate([1] * 9, NOTHING)
    assert clock.now == pytest.approx(0.05)
