"""Tables for people: what is shown, what is left out, and how it is rounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.bench import tables
from edgespec.bench.contestants import PLAIN
from edgespec.bench.metrics import MIN_JUDGED

_CELLS = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(_CELLS, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_a_table_has_a_line_a_row_and_a_rule_below_its_head(rows: list[list[str]]) -> None:
    lines = tables.table(rows[0], rows[1:]).split("\n")
    assert len(lines) == len(rows) + 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == rows[0]
    assert cells[1] == ["---"] * len(rows[0])
    assert cells[2:] == rows[1:]


@pytest.mark.parametrize(
    ("ratio", "digits", "text"),
    [
        (None, 2, ""),
        ({"median": 1.234, "interval": [1.234, 1.234]}, 2, "1.23"),
        ({"median": 1.236, "interval": [0.9, 1.5]}, 2, "1.24 [0.90, 1.50]"),
        ({"median": 1.0, "interval": [1.0, 1.0004]}, 3, "1.000 [1.000, 1.000]"),
    ],
)
def test_a_median_comes_with_its_interval(ratio: dict[str, Any] | None, digits: int, text: str) -> None:
    assert tables.with_interval(ratio, digits) == text


@pytest.mark.parametrize(
    ("temperature", "name", "comparable"),
    [(0.0, "peer", True), (0.0, "auto", True), (0.7, "peer", False), (0.7, "auto", True), (0.7, PLAIN, True)],
)
def test_only_ones_own_draws_are_compared(temperature: float, name: str, comparable: bool) -> None:
    result = {"settings": {"temperature": temperature, "peers": {"peer": ""}}}
    assert tables.comparable(result, name) is comparable


def test_the_curve_of_a_machine() -> None:
    measured = {"context": 256, "busy": False, "ms": {"1": 10.0, "2": 15.0, "4": 20.0}}
    title, table = tables.curve(measured)
    assert title == "T(n) after 256 tokens of context:"
    assert table.split("\n")[2:] == [
        "| ms | 10 | 15 | 20 |",
        "| T(n)/T(1) | 1.00 | 1.50 | 2.00 |",
        "| best speed-up | 1.00 | 1.33 | 2.00 |",
    ]
    assert "(measured while the machine was busy)" in next(tables.curve({**measured, "busy": True}))


def _answer(**more: Any) -> dict[str, Any]:
    return {"tokens": 11, "seconds": 1.0, "blocks": 10, **more}


def _result(**more: Any) -> dict[str, Any]:
    return {
        "settings": {"drafters": ["auto"], "peers": {}, "temperature": 0.0},
        "prompts": [
            {
                "question_id": 7,
                "category": "qa",
                "answers": {PLAIN: [_answer()], "auto": [_answer(**more)]},
                "first_token_seconds": {PLAIN: 0.5, "auto": 0.75},
                "partings": {},
            }
        ],
    }


def test_what_was_not_measured_has_no_column() -> None:
    text = tables.drafting(_result(), None)
    head = text.split("\n")[0]
    for absent in ("accepted", "MBSU", "memory", "of the best possible"):
        assert absent not in head
    for present in ("tokens/s", "tokens a block", "first token", "same text"):
        assert present in head
    assert "| `plain` | 10.00 | 1.00 | 0.50 s | 1 of 1 |" in text
    assert "| `auto` | 10.00 | 1.00 | 1.50 | 1 of 1 |" in text


def test_what_was_measured_has_one() -> None:
    result = _result(drafted=8, accepted=6, guesses={"x": 10})
    result["memory"] = {"auto": 12_345_678}
    result["shares"] = result["shares_by_parameters"] = {"auto": {"x": 0.5}}
    text = tables.drafting(result, 2.0)
    assert "75% of 8" in text
    assert "| 12 |" in text
    assert "| 0.67 | 0.67 |" in text, "a token a block, and a guess of half the weights for each"
    assert "| 50% |" in text


def test_a_share_of_few_is_not_shown() -> None:
    verified = [MIN_JUDGED, MIN_JUDGED - 1, *[MIN_JUDGED] * 10]
    accepted = [MIN_JUDGED // 2, 1, *[MIN_JUDGED] * 10]
    result = _result(judged_at={"x": verified}, accepted_at={"x": accepted})
    _, table = tables.acceptance_by_position(result)
    assert table.split("\n")[2] == "| `auto` | `x` | 50% |  | 100% | 100% | 100% | 100% | 100% | 100% |"
    assert list(tables.acceptance_by_position(_result())) == [], "where nothing was drafted there is no table"


def test_what_was_expected_is_shown_beside_what_came_true() -> None:
    expected, true = [0, MIN_JUDGED, 40, *[0] * 6, MIN_JUDGED - 1], [0, 1, 10, *[0] * 6, 2]
    result = _result(drafted=59, expected_at=expected, came_true_at=true)
    _, table = tables.calibration(result)
    assert table.split("\n")[0].startswith("|  | to 0.1 | to 0.2 |")
    assert table.split("\n")[2] == f"| `auto` |  | {1 / MIN_JUDGED:.2f} | 0.25 |  |  |  |  |  |  |  |"
    assert "rows a pass" in tables.drafting(result, None).split("\n")[0]
    assert list(tables.calibration(_result())) == []


def test_partings_are_listed_where_there_are_any() -> None:
    result = _result()
    assert list(tables.divergences(result)) == []
    result["prompts"][0]["partings"] = {"auto": {"position": 3, "plain": 1, "drafted": 2, "margin": 0.00123}}
    _, table = tables.divergences(result)
    assert table.split("\n")[2:] == ["| qa 7 | `auto` | 3 | 0.0012 |"]
