"""Token Recycling: the largest logits against a full sort, the laws of its trees, and what it learns from which row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec import load
from edgespec.core import NOTHING, ROOT, Draft, Evaluation, Row, TokenSequence, Verdict
from edgespec.drafters import recycling
from edgespec.drafters.recycling import MAX_OBSERVED, SUCCESSORS, Recycle, largest
from edgespec.policy.tree import HOPELESS, reaches
from edgespec.testing import FixedPolicy, TableModel, without_rows

VOCABULARY = 40


def row_of(**logits: float) -> Row:
    """A row in which only a few tokens, `t5=3.0` say, are possible."""
    row = np.full(VOCABULARY, -np.inf, np.float32)
    for name, logit in logits.items():
        row[int(name[1:])] = logit
    return row


def observe(
    drafter: Recycle, tokens: Sequence[int], rows: Sequence[Row], draft: Draft = NOTHING, accepted: Sequence[int] = ()
) -> None:
    verdict = Verdict(tuple(accepted), (*(draft.tokens[node] for node in accepted), 0))
    drafter.observe(Evaluation(tokens, len(tokens), draft, np.stack(rows)), verdict)


def tree(tokens: Sequence[int], parents: Sequence[int]) -> Draft:
    return Draft(tuple(tokens), tuple(parents), (0.1,) * len(tokens), (0,) * len(tokens), "recycle")


def sorted_fully(row: Row, count: int) -> list[int]:
    finite = [token for token in range(len(row)) if np.isfinite(row[token])]
    return sorted(finite, key=lambda token: (-row[token], token))[:count]


LOGITS = st.sampled_from([-np.inf, np.inf, np.nan, -1.5, -1.0, 0.0, 1.0, 7.0])


@given(
    rare=st.lists(st.tuples(st.integers(0, 999), LOGITS), max_size=30),
    usual=st.sampled_from([-np.inf, np.nan, -3.0, 0.0]),
    size=st.integers(1, 1000),
    count=st.integers(1, 12),
)
def test_the_largest_logits_are_those_of_a_full_sort(
    rare: list[tuple[int, float]], usual: float, size: int, count: int
) -> None:
    row = np.full(size, usual, np.float32)
    for token, logit in rare:
        row[token % size] = logit
    ids, shares = largest(row, count)
    assert ids.tolist() == sorted_fully(row, count)
    assert len(shares) == len(ids) and np.all(shares >= 0.0) and shares.sum() < 1.00001


@given(seed=st.integers(0, 10_000), size=st.integers(1, 5000), spread=st.sampled_from([0.1, 3.0, 30.0]))
def test_their_probabilities_are_the_models_or_a_little_more(seed: int, size: int, spread: float) -> None:
    row = (spread * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)
    ids, shares = largest(row)
    assert ids.tolist() == sorted_fully(row, SUCCESSORS)
    exact = np.exp(row - row.max())[ids] / np.exp(row - row.max()).sum()
    assert np.all(shares >= exact * 0.9999) and np.all(np.diff(shares) <= 0.0)
    if spread == 30.0:
        assert np.allclose(shares, exact, atol=0.05)


def test_what_was_likely_after_a_token_is_drafted_after_it() -> None:
    drafter = Recycle()
    assert drafter.propose([3], 8) == NOTHING, "nothing is known yet"
    observe(drafter, [3], [row_of(t4=9.0, t5=8.0)])
    observe(drafter, [3, 4], [row_of(t6=9.0)])
    assert drafter.propose([4], 8).tokens == (6,)
    drafted = drafter.propose([1, 3], 8)
    paths = {token: drafted.parents[node] for node, token in enumerate(drafted.tokens)}
    assert paths[4] == paths[5] == ROOT and drafted.tokens[paths[6]] == 4
    assert drafter.propose([9], 8) == NOTHING, "nothing followed it"
    observe(drafter, [3], [row_of(t7=9.0)])
    assert drafter.propose([3], 8).tokens == (7,), "what was likely the last time counts"


def test_what_was_likely_at_one_place_and_not_said_may_come_at_the_next() -> None:
    drafter, sequence = Recycle(), TokenSequence([1, 3])
    draft = tree([4], [ROOT])
    observe(drafter, sequence, [row_of(t4=9.0), row_of(t5=9.0, t6=8.9, t7=8.8)], draft, accepted=[0])
    sequence.extend([4, 5])
    drafted = drafter.propose(sequence, 8)
    assert drafted.tokens == (6, 7) and drafted.parents == (ROOT, ROOT), "5 was said"
    observe(drafter, sequence, [row_of(t7=9.0)])
    drafted = drafter.propose(sequence, 8)
    assert drafted.tokens[0] == 7 and sorted(drafted.tokens) == [6, 7], "what follows the token itself comes first"
    sequence.extend([4, 5])
    assert drafter.propose(sequence, 8).tokens == (7,), "that was another place"


def test_rejected_rows_are_learned_from_and_what_was_said_counts_for_more() -> None:
    drafter = Recycle()
    draft = tree([4, 5, 4], [ROOT, ROOT, 1])  # 4 was said, 5 was not, nor another 4 behind it
    rows = [row_of(t4=9.0), row_of(t6=9.0), row_of(t7=9.0), row_of(t8=9.0)]
    observe(drafter, [3], rows, draft, accepted=[0])
    for token, successor in ((3, 4), (4, 6), (5, 7)):
        assert drafter.propose([token], 1).tokens == (successor,)


@pytest.mark.parametrize("accepted", [0, 3, 30])
def test_the_work_of_one_pass_is_bounded(accepted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def counted(row: Row) -> tuple[recycling.Ids, Row]:
        looked_at.append(int(row.argmax()))
        return largest(row)

    monkeypatch.setattr(recycling, "largest", counted)
    draft = tree(list(range(1, 31)), list(range(ROOT, 29)))
    rows = [row_of(**{f"t{number}": 9.0}) for number in range(31)]
    observe(Recycle(), [0], rows, draft, accepted=range(accepted))
    assert len(looked_at) == MAX_OBSERVED
    assert looked_at[-1] == accepted, "the last row of what was said is looked at"


class Trees:
    """Recycle, after a table's answers from everywhere."""

    def __init__(self, seed: int, order: int) -> None:
        self.model = TableModel(VOCABULARY, order=order, seed=seed)
        self.drafter = Recycle()
        for token in range(VOCABULARY):
            observe(self.drafter, [token], [self.model.row([token])])


@given(seed=st.integers(0, 30), token=st.integers(0, VOCABULARY - 1), limit=st.integers(0, 63), size=st.integers(0, 63))
def test_trees_keep_the_laws_of_drafts(seed: int, token: int, limit: int, size: int) -> None:
    drafter = Trees(seed, order=1).drafter
    draft = drafter.propose([5, token], limit)
    assert len(draft) <= limit
    assert all(ROOT <= parent < node for node, parent in enumerate(draft.parents))
    for parent in {ROOT, *range(len(draft))}:
        children = [node for node in range(len(draft)) if draft.parents[node] == parent]
        assert len({draft.tokens[node] for node in children}) == len(children)
        assert sum(draft.probabilities[node] for node in children) <= 1.0 + 1e-9
    reach = reaches(draft.parents, draft.probabilities)
    assert all(reached >= HOPELESS * 0.9999 for reached in reach)
    assert reach == sorted(reach, reverse=True), "so that every beginning is the best tree of its size"
    assert drafter.propose([5, token], min(size, limit)).tokens == draft.first(min(size, limit)).tokens


def test_a_table_of_one_token_is_known_by_heart() -> None:
    trees = Trees(seed=1, order=1)
    for token in range(VOCABULARY):
        draft = trees.drafter.propose([token], 63)
        first = {draft.tokens[node] for node in range(len(draft)) if draft.parents[node] == ROOT}
        assert int(trees.model.row([token]).argmax()) in first


def test_memory_depends_on_the_vocabulary_alone() -> None:
    drafter = Recycle()
    assert drafter.memory_bytes == 0
    for token in range(VOCABULARY):
        observe(drafter, [token], [row_of(t1=3.0)])
        assert drafter.memory_bytes == VOCABULARY * 48


def test_two_answers_that_take_turns_share_what_is_learned() -> None:
    drafter = Recycle()
    first, second = TokenSequence([1, 3]), TokenSequence([2, 5])
    observe(drafter, first, [row_of(t4=9.0)])
    observe(drafter, second, [row_of(t6=9.0)])
    assert drafter.propose(first, 4).tokens == (4,)
    assert drafter.propose(second, 4).tokens == (6,)
    second.extend([7, 3])
    assert drafter.propose(second, 4).tokens == (4,)


def test_a_pass_without_logits_teaches_nothing() -> None:
    drafter = Recycle()
    drafter.observe(without_rows([1, 2]), Verdict((), (3,)))
    assert drafter.propose([2], 4) == NOTHING


def test_the_length_of_a_pass_says_which_token_its_first_row_follows() -> None:
    drafter = Recycle()
    sequence = TokenSequence([1, 2, 3])
    evaluation = Evaluation(sequence, 2, NOTHING, row_of(t9=9.0)[None])
    drafter.observe(evaluation, Verdict((), (3,)))
    assert drafter.propose([2], 4).tokens == (9,) and drafter.propose([3], 4) == NOTHING


def test_what_was_found_near_counts_for_more_than_what_was_found_far_away_or_in_another_text() -> None:
    drafter, sequence = Recycle(), TokenSequence([1, 3])
    observe(drafter, sequence, [row_of(t4=9.0)])
    probabilities = []
    for length, tokens in ((2, sequence), (10, sequence), (90, sequence), (2, TokenSequence([1, 3]))):
        tokens.extend([3] * (length - len(tokens)))
        probabilities.append(drafter.propose(tokens, 1).probabilities[0])
    assert probabilities[0] > probabilities[1] > probabilities[2] == probabilities[3]


def test_broken_logits_are_no_successors() -> None:
    drafter = Recycle()
    observe(drafter, [1], [row_of(t4=np.nan, t5=np.inf, t6=9.0)])
    assert drafter.propose([1], 4).tokens == (6,)
    observe(drafter, [1], [np.full(VOCABULARY, np.nan, np.float32)])
    assert drafter.propose([1], 4) == NOTHING


@pytest.mark.model
def test_smollm2_says_the_same_in_fewer_passes(smollm2: Path, tmp_path: Path) -> None:
    prompt = "Count from one to twenty in words, separated by commas."
    with load(smollm2, drafter="none", n_ctx=512, cache_dir=tmp_path) as engine:
        plain = engine.generate(prompt, max_tokens=48)
        drafter = Recycle()
        engine.policy = FixedPolicy(drafter, 16, trees=True)
        drafted = engine.generate(prompt, max_tokens=48)
        assert drafted.emitted[:8] == plain.emitted[:8]  # later on, near-ties may round apart
        assert drafted.tally.accepted > 0 and drafted.tally.mean_block_length > 1.1
        assert drafter.memory_bytes == 48 * engine.model.vocabulary.size
