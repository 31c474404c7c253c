"""Laws of the figures: what they must not depend on, and what they come to in plain cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.bench import metrics
from edgespec.bench.contestants import PLAIN
from edgespec.system.prompts import subtask

_SECONDS = st.floats(0.01, 100.0)


def _answer(tokens: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": seconds, "blocks": tokens - 1, **more}


@st.composite
def _rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Prompts that plain decoding and `auto` answered, the latter perhaps in fewer rounds."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        tokens = draw(st.integers(2, 50))
        rounds = draw(st.integers(1, 4))
        mine = draw(st.integers(1, rounds))
        found.append(
            {
                "question_id": number,
                "category": draw(st.sampled_from(["math", "coding", "qa"])),
                "answers": {
                    PLAIN: [_answer(tokens, draw(_SECONDS)) for _ in range(rounds)],
                    "auto": [_answer(tokens, draw(_SECONDS)) for _ in range(mine)],
                },
                "first_token_seconds": {PLAIN: draw(_SECONDS), "auto": draw(_SECONDS)},
                "partings": {},
            }
        )
    return found


@given(_rows())
def test_nobody_is_faster_than_themselves(rows: list[dict[str, Any]]) -> None:
    assert metrics.mean_ratio(rows, "auto", "auto") == 1.0
    assert metrics.total_ratio(rows, PLAIN, PLAIN) == 1.0
    assert metrics.whole_ratio(rows, "auto", "auto") == pytest.approx(1.0)
    assert metrics.slowest_prompt(rows, PLAIN) == (1.0, 0)


def test_who_takes_half_the_time_is_twice_as_fast() -> None:
    row = {
        "answers": {PLAIN: [_answer(11, 4.0)], "auto": [_answer(11, 2.0)]},
        "first_token_seconds": {PLAIN: 1.0, "auto": 0.5},
    }
    for figure in (metrics.mean_ratio, metrics.total_ratio, metrics.whole_ratio):
        assert figure([row], "auto", PLAIN) == pytest.approx(2.0)
    assert metrics.slowest_prompt([row], "auto") == (2.0, 0)


@given(_rows())
def test_a_ratio_from_the_other_side_is_its_inverse(rows: list[dict[str, Any]]) -> None:
    for figure in (metrics.total_ratio, metrics.whole_ratio):
        there, back = figure(rows, "auto", PLAIN), figure(rows, PLAIN, "auto")
        assert there * back == pytest.approx(1.0)


@given(_rows(), st.floats(0.1, 10.0))
def test_a_machine_that_is_so_much_faster_changes_no_ratio(rows: list[dict[str, Any]], factor: float) -> None:
    faster = [
        {
            **row,
            "answers": {
                name: [{**one, "seconds": one["seconds"] / factor} for one in answers]
                for name, answers in row["answers"].items()
            },
            "first_token_seconds": {name: value / factor for name, value in row["first_token_seconds"].items()},
        }
        for row in rows
    ]
    for figure in (metrics.total_ratio, metrics.whole_ratio, metrics.mean_ratio):
        assert figure(faster, "auto", PLAIN) == pytest.approx(figure(rows, "auto", PLAIN))
    assert metrics.total_speed(faster, PLAIN) == pytest.approx(factor * metrics.total_speed(rows, PLAIN))


@given(_rows())
def test_the_whole_lies_between_its_parts(rows: list[dict[str, Any]]) -> None:
    for figure in (metrics.total_ratio, metrics.mean_ratio):
        each = [figure([row], "auto", PLAIN) for row in rows]
        assert min(each) - 1e-9 <= figure(rows, "auto", PLAIN) <= max(each) + 1e-9
    found = metrics.slowest_prompt(rows, "auto")
    assert found is not None
    assert found[0] == pytest.approx(min(metrics.mean_ratio([row], "auto", PLAIN) for row in rows))


@given(_rows())
def test_every_prompt_is_in_its_subtask_and_in_all(rows: list[dict[str, Any]]) -> None:
    groups = metrics.groups(rows)
    assert list(groups)[-1] == metrics.OVERALL
    ids = [row["question_id"] for row in groups[metrics.OVERALL]]
    assert sorted(ids) == [row["question_id"] for row in rows]
    for title, group in groups.items():
        if title != metrics.OVERALL:
            assert {subtask(row["category"]) for row in group} == {title}


@pytest.mark.parametrize(
    ("answer", "speed"),
    [
        ({"tokens": 11, "seconds": 2.0}, 5.0),
        ({"tokens": 1, "seconds": 0.0}, 0.0),
        ({"tokens": 1}, 0.0),  # what is 0 is not in a result file
        ({"tokens": 1, "seconds": 3.0}, 0.0),
    ],
)
def test_a_speed_is_of_the_tokens_after_the_first(answer: dict[str, Any], speed: float) -> None:
    assert metrics.speed_of(answer) == speed


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"tokens": 1}, 0),
        ({"tokens": 11, "blocks": 10}, 10),
        ({"tokens": 11, "blocks": 4, "accepted": 6}, 10),
        ({"tokens": 11, "blocks": 3, "accepted": 3}, 6),
        ({"tokens": 5, "blocks": 9, "accepted": 9}, 4),
    ],
)
def test_tokens_after_the_first_block(answer: dict[str, Any], tokens: int) -> None:
    assert metrics.later_tokens(answer) == tokens


def test_figures_of_nothing() -> None:
    nobody: list[dict[str, Any]] = [
        {"answers": {PLAIN: [], "auto": []}, "first_token_seconds": {PLAIN: 1.0}, "partings": {}}
    ]
    for rows in ([], nobody):
        assert metrics.median_ratio(rows, "auto", PLAIN) is None
        assert metrics.slowest_prompt(rows, "auto") is None
        assert metrics.first_token(rows, "auto") is None
        assert metrics.acceptance(rows, "auto") is None
        assert metrics.acceptance_by_position(rows, "auto") == {}
        assert metrics.same_text(rows, "auto") == "0 of 0"
        assert not metrics.drafts(rows, "auto")
        assert [metrics.mean_ratio(rows, "auto", PLAIN), metrics.total_ratio(rows, "auto", PLAIN)] == [0.0, 0.0]
        assert [metrics.whole_ratio(rows, "auto", PLAIN), metrics.total_speed(rows, "auto")] == [0.0, 0.0]
        assert [metrics.block_length(rows, "auto"), metrics.total_count(rows, "auto", "blocks")] == [0.0, 0.0]
        assert metrics.memory_bound(rows, "auto", {"x": 0.5}) == 0.0


def test_contestants_come_in_their_order() -> None:
    result = {"settings": {"drafters": ["auto", "x"], "peers": {"p": "", "q": ""}}}
    assert metrics.contestants(result) == [PLAIN, "auto", "x", "p", "q"]


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=5), max_size=4))
def test_places_add_up_over_answers_of_any_length(answers: list[list[tuple[int, int]]]) -> None:
    drafted_answers = [
        {"judged_at": {"x": [count for count, _ in one]}, "accepted_at": {"x": [min(right, n) for n, right in one]}}
        for one in answers
    ]
    found = metrics.acceptance_by_position([{"answers": {"auto": drafted_answers}}], "auto").get("x", [])
    assert len(found) == max(map(len, answers), default=0)
    for place, (right, verified) in enumerate(found):
        there = [one[place] for one in answers if len(one) > place]
        assert verified == sum(count for count, _ in there)
        assert right == sum(min(right, count) for count, right in there)


def test_memory_bound_speed_up_counts_each_drafter_by_its_share() -> None:
    answer = _answer(21, 1.0, guesses={"small": 20, "large": 10})
    answer["blocks"] = 10
    answer["accepted"] = 10
    row = {"answers": {"auto": [answer]}}
    # 2 tokens a block; a block reads 2 guesses of a tenth and one of a half
    assert metrics.memory_bound([row], "auto", {"small": 0.1, "large": 0.5}) == pytest.approx(2.0 / 1.7)
    assert metrics.memory_bound([row], "auto", {}) == pytest.approx(2.0)


def test_what_was_expected_of_draft_tokens_is_held_against_what_came_true() -> None:
    answers = [
        {"expected_at": [0, 4, *[0] * 8], "came_true_at": [0, 1, *[0] * 8], "drafted": 4, "blocks": 2, "tokens": 4},
        {"expected_at": [1, 4, *[0] * 8], "came_true_at": [1, 0, *[0] * 8], "drafted": 6, "blocks": 2, "tokens": 4},
        {"tokens": 4, "blocks": 3},  # nothing was drafted
    ]
    rows = [{"answers": {"auto": answers}}]
    assert metrics.calibration(rows, "auto") == [(1, 1), (1, 8), *[(0, 0)] * 8]
    assert metrics.rows_a_pass(rows, "auto") == pytest.approx(1 + 10 / 7)
    assert metrics.calibration([{"answers": {"auto": answers[2:]}}], "auto") == []
    assert metrics.rows_a_pass([{"answers": {"auto": answers[2:]}}], "auto") is None
