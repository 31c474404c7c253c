"""Answers of a user's chats: what is kept, how much of it, and what of it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgespec.errors import InvalidRequest, OutputError
from edgespec.heads import used
from edgespec.heads.used import UsedAnswers, forget


@pytest.fixture
def answers(tmp_path: Path) -> UsedAnswers:
    return UsedAnswers(tmp_path / "used", "f00d", 100)


def test_an_answer_comes_back_with_its_prompt(answers: UsedAnswers) -> None:
    answers.add([1, 2, 3], [4, 5])
    answers.add([1, 2, 3], [6, 7, 8])
    answers.add([9], [10])  # a single token has none after it
    first, second = answers.pairs()
    assert (first.tokens, first.answer, second.answer) == ([1, 2, 3], [4, 5], [6, 7, 8])
    assert first.prompt == second.prompt >= 0, "answers to one prompt are held out together"


def test_they_are_the_users_alone(answers: UsedAnswers) -> None:
    answers.add([1], [2, 3])
    assert answers.path.stat().st_mode & 0o77 == 0 and answers.path.parent.stat().st_mode & 0o77 == 0


def test_the_oldest_go_when_there_are_too_many(answers: UsedAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used, "MOST_BYTES", 2000)
    for number in range(400):
        answers.add([number % 100], [number % 100] * 3)
        assert answers.path.stat().st_size <= 2000
    pairs = answers.pairs()
    assert 30 < len(pairs) < 60
    assert [pair.tokens[0] for pair in pairs] == [number % 100 for number in range(400 - len(pairs), 400)]
    assert answers.path.stat().st_mode & 0o77 == 0


def test_what_no_vocabulary_has_is_left_out(answers: UsedAnswers) -> None:
    answers.add([1], [2, 3])
    with answers.path.open("a") as file:
        for prompt, answer in (([1], [2, 100]), ([-1], [2, 3]), ([], [2, 3]), ([1], [True, 2]), ("1", [2, 3])):
            file.write(json.dumps({"prompt": prompt, "answer": answer}) + "\n")
        file.write('[]\n{"prompt": [1]}\n{"prompt": [1], "ans')
    assert [pair.answer for pair in answers.pairs()] == [[2, 3]]


def test_without_answers_it_says_how_to_keep_some(answers: UsedAnswers) -> None:
    with pytest.raises(InvalidRequest, match="edgespec chat --learn"):
        answers.pairs()


def test_a_full_disk_leaves_whole_lines(answers: UsedAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.add([1], [2, 3])
    before = answers.path.read_bytes()
    real = used.open if hasattr(used, "open") else open

    def full(*arguments: object, **named: object) -> object:
        file = real(*arguments, **named)  # type: ignore[call-overload]

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                return int(file.write(data[:5]))

            tell, truncate = file.tell, file.truncate

        return Full()

    monkeypatch.setattr(used, "open", full, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        answers.add([4], [5, 6])
    assert answers.path.read_bytes() == before


def test_states_of_other_answers_go(answers: UsedAnswers) -> None:
    answers.add([1], [2, 3])
    before = answers.states_of(answers.pairs())
    before.mkdir()
    assert answers.states_of(answers.pairs()) == before and before.exists()
    answers.add([1], [2, 4])
    after = answers.states_of(answers.pairs())
    after.mkdir()
    assert after != before and not before.exists()
    answers.remove_states()
    assert not after.exists() and answers.pairs()


def test_all_of_it_is_forgotten(answers: UsedAnswers) -> None:
    answers.add([1], [2, 3])
    answers.states_of(answers.pairs()).mkdir()
    assert forget(answers.path.parent) == len(b'{"prompt":[1],"answer":[2,3]}\n')
    assert not answers.path.parent.exists() and forget(answers.path.parent) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(answers: UsedAnswers) -> None:
    answers.path.parent.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        answers.add([1], [2, 3])
