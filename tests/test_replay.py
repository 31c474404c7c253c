"""The arithmetic of benchmarks/replay.py: what a record tells of a drafter is what drafting along it shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from replay import hits_in_blocks, replayed

from edgespec.testing import ScriptedDrafter

PROMPT = [7, 7]
guessed_and_said = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


@given(guessed_and_said, st.integers(1, 6))
def test_hits_tell_the_blocks_that_drafting_makes(pairs, length):
    guesses, answer = zip(*pairs, strict=True)

    def guess(tokens, limit):
        place = len(tokens) - len(PROMPT)
        return [*guesses, 0, 0, 0, 0, 0, 0][place : place + limit]

    recorded = {"subtask": "any", "prompt": PROMPT, "answer": list(answer)}
    shown = replayed(ScriptedDrafter(guess), recorded, length)
    hits = "".join("01"[guesses[place] == answer[place]] for place in range(1, len(answer)))
    told = hits_in_blocks(recorded, hits, length)
    for key in ("tokens", "blocks", "judged", "accepted"):
        assert told[key] == shown[key], key
