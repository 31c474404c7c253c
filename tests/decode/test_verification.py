"""The law of verification: a draft changes how many evaluations there are, never what is said."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import NOTHING, ROOT, Draft
from edgespec.decode.verification import verify
from edgespec.errors import GrammarError

END = 0


def chain(*tokens: int) -> Draft:
    return Draft.chain(tokens, [0.5] * len(tokens), ["x"] * len(tokens), "test")


def tree(*nodes: tuple[int, int]) -> Draft:
    """A draft from (parent, token) pairs."""
    parents, tokens = zip(*nodes, strict=True)
    return Draft(tokens, parents, (0.5,) * len(nodes), ("x",) * len(nodes), "test")


# (draft, what the target says at each row, budget) -> (accepted nodes, emitted tokens)
CASES = [
    ("nothing drafted", NOTHING, {0: 5}, 9, (), (5,)),
    ("first token wrong", chain(1, 2), {0: 5, 1: 7, 2: 8}, 9, (), (5,)),
    ("half right", chain(5, 2), {0: 5, 1: 7, 2: 8}, 9, (0,), (5, 7)),
    ("all right: one more for free", chain(5, 7), {0: 5, 1: 7, 2: 8}, 9, (0, 1), (5, 7, 8)),
    ("right, wrong, right again: stops at the wrong one", chain(5, 2, 8), {0: 5, 1: 7, 2: 8, 3: 9}, 9, (0,), (5, 7)),
    ("budget of one", chain(5, 7), {0: 5, 1: 7, 2: 8}, 1, (0,), (5,)),
    ("budget within the draft", chain(5, 7, 8), {0: 5, 1: 7, 2: 8, 3: 9}, 2, (0, 1), (5, 7)),
    ("the answer ends in the draft", chain(5, END, 8), {0: 5, 1: END, 2: 8, 3: 9}, 9, (0, 1), (5, END)),
    ("the answer ends beside the draft", chain(5, 7), {0: END, 1: 7, 2: 8}, 9, (), (END,)),
    ("second branch", tree((ROOT, 1), (ROOT, 5), (1, 7)), {0: 5, 2: 7, 3: 8}, 9, (1, 2), (5, 7, 8)),
    ("a leaf of one branch is none of the other", tree((ROOT, 1), (ROOT, 5), (0, 7)), {0: 5, 2: 7}, 9, (1,), (5, 7)),
]


@pytest.mark.parametrize(
    ("draft", "rows", "budget", "accepted", "emitted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_cases(draft: Draft, rows: list[int], budget: int, accepted: tuple[int, ...], emitted: tuple[int, ...]) -> None:
    verdict = verify(draft, rows.__getitem__, lambda token: token == END, budget)
    assert (verdict.accepted, verdict.emitted) == (accepted, emitted)


@pytest.mark.parametrize(("failing_row", "emitted"), [(1, (5,)), (2, (5, 7)), (3, (5, 7, 8))])
def test_an_error_in_the_draft_costs_no_token_before_it(failing_row: int, emitted: tuple[int, ...]) -> None:
    said = {0: 5, 1: 7, 2: 8, 3: 9}

    def choose(row: int) -> int:
        if row == failing_row:
            raise GrammarError("no token is allowed here")
        return said[row]

    verdict = verify(chain(5, 7, 8), choose, lambda token: token == END, 9)
    assert verdict.emitted == emitted and len(verdict.accepted) == len(emitted)


def test_an_error_at_the_first_token_is_raised() -> None:
    def choose(row: int) -> int:
        raise GrammarError("no token is allowed here")

    with pytest.raises(GrammarError):
        verify(chain(5, 7), choose, lambda token: token == END, 9)


@st.composite
def drafts(draw: st.DrawFn, vocabulary: int = 4) -> Draft:
    """Random trees, duplicate siblings included."""
    size = draw(st.integers(0, 12))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(size)]
    tokens = [draw(st.integers(0, vocabulary - 1)) for _ in range(size)]
    return Draft(tuple(tokens), tuple(parents), (0.5,) * size, ("x",) * size, "test")


def path_to(draft: Draft, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.insert(0, draft.tokens[node])
        node = draft.parents[node]
    return path


@given(drafts(), st.randoms(use_true_random=False), st.integers(1, 8))
def test_emits_what_plain_decoding_would(draft: Draft, random: random.Random, budget: int) -> None:
    said: dict[tuple[int, ...], int] = {}

    def target(prefix: tuple[int, ...]) -> int:
        """Any deterministic target: a token for every text before."""
        return said.setdefault(prefix, random.randrange(4))

    asked: list[int] = []

    def choose(row: int) -> int:
        asked.append(row)
        return target(tuple(path_to(draft, row - 1)))

    verdict = verify(draft, choose, lambda token: token == END, budget)

    plain: list[int] = []
    while len(plain) < len(verdict.emitted):
        plain.append(target(tuple(plain)))
    assert list(verdict.emitted) == plain
    assert 1 <= len(verdict.emitted) <= budget
    assert END not in verdict.emitted[:-1]
    assert len(asked) == len(verdict.emitted), "the sampler is asked once a token"
    assert [draft.tokens[node] for node in verdict.accepted] == plain[: len(verdict.accepted)]
    assert len(verdict.emitted) - len(verdict.accepted) in (0, 1)
    if len(verdict.emitted) == len(verdict.accepted):
        assert verdict.emitted[-1] == END or len(verdict.emitted) == budget
