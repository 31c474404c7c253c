"""Prompt files: what they must have, who a prompt is, and which are taken where not all are."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.system.prompts import MULTI_TURN, identified, read_prompts, spread, subtask


def _file(folder: Path, *prompts: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    return path


def test_prompts_keep_their_other_keys(tmp_path: Path) -> None:
    prompt = {"question_id": 1, "turns": ["ä", ""], "reference": [None]}
    assert read_prompts(_file(tmp_path, prompt)) == [prompt]


def test_a_file_without_prompts_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"prompts\.jsonl: there are no prompts in it"):
        read_prompts(_file(tmp_path))


@pytest.mark.parametrize("turns", [None, [], "text", [1], ["a", None], {"0": "a"}])
def test_turns_must_be_texts(tmp_path: Path, turns: Any) -> None:
    path = _file(tmp_path, {"turns": ["a"]}, {"turns": turns})
    with pytest.raises(InvalidRequest, match='line 2: it must be an object with "turns", a list of texts'):
        read_prompts(path)


def test_turns_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="line 1"):
        read_prompts(_file(tmp_path, {"prompt": "a"}))


def test_who_has_no_id_gets_a_number_and_no_category_is_all() -> None:
    found = identified([{"turns": ["a"]}, {"turns": ["b"], "question_id": "x", "category": "qa"}, {"turns": ["c"]}])
    assert [(one["question_id"], one["category"]) for one in found] == [(1, "all"), ("x", "qa"), (3, "all")]


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ([{"question_id": 1}, {"question_id": 1}], "prompt 2: another one has the question_id 1 too"),
        ([{"question_id": 2}, {}], "prompt 2: another one has the question_id 2 too"),
        ([{"question_id": None}], "prompt 1: question_id must be a number or a text"),
        ([{"question_id": [1]}], "prompt 1: question_id must be a number or a text"),
        ([{"question_id": 1.5}], "prompt 1: question_id must be a number or a text"),
        ([{"category": 3}], "category a text"),
    ],
)
def test_ids_that_cannot_be(prompts: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        identified(prompts)


def test_the_prompts_given_are_left_as_they_were() -> None:
    prompts: list[dict[str, Any]] = [{"turns": ["a"]}]
    identified(prompts)
    assert prompts == [{"turns": ["a"]}]


def test_eight_categories_are_one_subtask() -> None:
    assert {subtask(category) for category in MULTI_TURN} == {"multi-turn"}
    assert subtask("translation") == "translation"
    assert subtask("") == ""


_PROMPTS = st.lists(st.sampled_from(["qa", "rag", "math", "coding", "translation"]), max_size=40).map(
    lambda categories: [{"question_id": place, "category": category} for place, category in enumerate(categories)]
)


@given(_PROMPTS, st.integers(1, 12))
def test_so_many_of_each_subtask_or_all_there_are(prompts: list[dict[str, Any]], wanted: int) -> None:
    chosen = spread(prompts, wanted)
    ids = [one["question_id"] for one in chosen]
    assert len(set(ids)) == len(ids), "none twice"
    for name in {subtask(one["category"]) for one in prompts}:
        group = [one["question_id"] for one in prompts if subtask(one["category"]) == name]
        mine = [one["question_id"] for one in chosen if subtask(one["category"]) == name]
        assert len(mine) == min(wanted, len(group))
        assert mine == sorted(mine)
        assert mine[0] == group[0]
        places = [*map(group.index, mine), len(group)]
        gaps = [after - before for before, after in pairwise(places)]
        assert max(gaps) - min(gaps) <= 1, "evenly, to the end"


@given(_PROMPTS, st.integers(1, 12), st.integers(0, 60))
def test_whoever_stops_early_has_seen_every_subtask_alike(
    prompts: list[dict[str, Any]], wanted: int, stopped_after: int
) -> None:
    seen = [subtask(one["category"]) for one in spread(prompts, wanted)[:stopped_after]]
    there = {subtask(one["category"]): 0 for one in prompts}
    for one in prompts:
        there[subtask(one["category"])] += 1
    most = max((seen.count(name) for name in there), default=0)
    for name, count in there.items():
        assert seen.count(name) >= min(count, most - 1)


def test_nothing_is_chosen_of_nothing_or_where_none_are_wanted() -> None:
    assert spread([], 3) == []
    assert spread([{"category": "qa"}][:0], 0) == []
