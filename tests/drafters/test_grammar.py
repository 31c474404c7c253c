"""The drafter that follows an answer's grammar: what it calls certain is, and what it learns of choices."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.schema_generator import SchemaMaker
from edgespec.backend import LlamaModel, LlamaVocabulary
from edgespec.core import NOTHING, ROOT, Draft, Drafter, Verdict
from edgespec.drafters.grammar import Choosing, GrammarDrafter, GrammarDrafters
from edgespec.grammar import schema_to_grammar
from edgespec.grammar.automaton import Automaton, Choices
from edgespec.testing import without_rows
from tests.gguf_files import tiny_model
from tests.grammar.matcher import Matcher

PIECES = [b"", b"", b"{", b'{"', b"name", b"na", b'"', b'":', b'":"', b' "', b" ", b":", b"}", b'"}', b"a", b"b", b"ab",
          b"\xc3", b"\xa9", b"true", b"false", b",", b"1", b"2", b"[", b"]", b"n", b"x"]  # fmt: skip
ENDS = (0, 1)


class Words:
    """A vocabulary of `PIECES` that takes the longest piece first. `front` is put before every text."""

    size = len(PIECES)

    def __init__(self, front: str = "") -> None:
        self.end = 0
        self._front = front

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        if special and text == "<|call|>":
            return [PIECES.index(b"x")]
        data, ids = (self._front + text).encode(), []
        while data:
            piece = max((piece for piece in PIECES if piece and data.startswith(piece)), key=len, default=data[:1])
            ids.append(PIECES.index(piece) if piece in PIECES else self.size)
            data = data[len(piece) :]
        return ids

    def piece(self, token: int) -> bytes:
        return PIECES[token] if token < self.size else b"\n"

    def control_text(self, token: int) -> str:
        return f"<end-{token}>" if token in ENDS else ""

    def is_end(self, token: int) -> bool:
        return token in ENDS


def ids(*pieces: str) -> tuple[int, ...]:
    return tuple(PIECES.index(piece.encode()) for piece in pieces)


def say(drafter: Drafter, *tokens: int) -> None:
    """A forward pass that emitted `tokens`."""
    drafter.observe(without_rows([1]), Verdict((), tokens))


def drafter_of(grammar: str, front: str = "") -> GrammarDrafter:
    return GrammarDrafters(Words(front)).drafter(grammar)


def check_laws(draft: Draft, limit: int) -> None:
    """What every tree obeys."""
    assert len(draft) <= limit
    assert all(parent < node for node, parent in enumerate(draft.parents))
    assert len(set(zip(draft.parents, draft.tokens, strict=True))) == len(draft)
    for parent in set(draft.parents):
        siblings = [draft.probabilities[node] for node, of in enumerate(draft.parents) if of == parent]
        assert all(0.0 < probability <= 1.0 + 1e-9 for probability in siblings)
        assert sum(siblings) <= 1.0 + 1e-9


OBJECT = 'root ::= "{\\"name\\":" [0-9]+ "}"'


@pytest.mark.parametrize("front", ["", "ab"])
def test_a_key_is_drafted_whole(front: str) -> None:
    drafter = drafter_of(OBJECT, front)
    assert drafter.propose([1], 8) == NOTHING, "the answer has not begun"
    say(drafter, *ids("{"))
    draft = drafter.propose([1], 8)
    assert draft.tokens == ids('"', "name", '":')
    assert draft.is_chain
    assert draft.probabilities == (1.0, 1.0, 0.7), "the last token may belong to a longer one"
    assert draft.buckets == ((10, False), (10, False), (7, True))
    assert drafter.propose([1], 2) == draft.first(2)
    say(drafter, *ids('"', "na"))
    assert drafter.propose([1], 8) == NOTHING, "no piece begins with m"


def test_where_any_text_may_come_nothing_is_drafted() -> None:
    drafter = drafter_of('root ::= "\\"" [^"]* "\\"}"')
    say(drafter, *ids('"', "ab"))
    assert drafter.propose([1], 8) == NOTHING
    say(drafter, *ids('"'))
    assert drafter.propose([1], 8).tokens == (*ids("}"), 0)


def test_a_few_ways_are_branches() -> None:
    drafter = drafter_of('root ::= "[" ("true" | "false") "]"')
    say(drafter, *ids("["))
    draft = drafter.propose([1], 8)
    first = {draft.tokens[node]: draft.probabilities[node] for node, of in enumerate(draft.parents) if of == ROOT}
    assert first == dict.fromkeys(ids("true", "false"), 0.5)
    check_laws(draft, 8)
    say(drafter, *ids("true"))
    assert drafter.propose([1], 8).tokens == (*ids("]"), 0)


def test_a_choice_that_recurs_is_learned_for_other_answers_too() -> None:
    shared = GrammarDrafters(Words())
    grammar = 'root ::= "{" (" " | "") "\\"name\\":" (" " | "") [1-9]+ "," (" " | "") "\\"ab\\"}"'
    for _ in range(6):
        drafter = shared.drafter(grammar)
        say(drafter, *ids('{"', "name", '":', " ", "1", ",", " "))
    drafter = shared.drafter(grammar)
    say(drafter, *ids("{"))
    draft = drafter.propose([1], 3)
    assert draft.tokens == ids('"', "name", '":')
    assert draft.probabilities[0] > 0.9
    say(drafter, *ids('"', "name", '":'))
    assert drafter.propose([1], 1).tokens == ids(" ")
    say(drafter, *ids("1", ","))
    assert drafter.propose([1], 3).tokens == ids(' "', "ab", '"}')


def test_the_last_end_token_is_the_one_that_is_drafted() -> None:
    shared = GrammarDrafters(Words())
    for known, end in ((0, 0), (0, 1), (1, 1)):
        drafter = shared.drafter('root ::= "ab"')
        say(drafter, *ids("ab"))
        draft = drafter.propose([1], 4)
        assert draft.tokens == (known,)
        assert draft.buckets == ((7, True),)
        say(drafter, end)
        assert drafter.propose([1], 4) == NOTHING


def test_half_a_character_waits_for_its_other_half() -> None:
    drafter = drafter_of('root ::= ("é" | "a") "name"')
    say(drafter, PIECES.index(b"\xc3"))
    assert drafter.propose([1], 4) == NOTHING
    say(drafter, PIECES.index(b"\xa9"))
    assert drafter.propose([1], 4).tokens == (*ids("name"), 0)


def test_a_token_that_the_grammar_names_is_drafted() -> None:
    drafter = drafter_of('root ::= "[" <|call|> "name" <[999]> "]"')
    say(drafter, *ids("["))
    assert drafter.propose([1], 8).tokens == ids("x", "name"), "there is no token 999"
    say(drafter, *ids("x"))
    assert drafter.propose([1], 8).tokens == ids("name")


@pytest.mark.parametrize("said", [ids("["), (PIECES.index(b"\xa9"),), ids("{", "{")])
def test_an_answer_that_leaves_the_grammar_is_left_alone(said: tuple[int, ...]) -> None:
    drafter = drafter_of(OBJECT)
    say(drafter, *said)
    assert drafter.propose([1], 8) == NOTHING
    say(drafter, *ids('"'))


def test_a_grammar_without_an_end_has_a_bounded_draft() -> None:
    drafter = drafter_of('root ::= "ab" root')
    say(drafter, *ids("ab"))
    check_laws(drafter.propose([1], 48), 48)
    drafter = drafter_of("root ::= [ab] root")
    say(drafter, *ids("ab"))
    check_laws(drafter.propose([1], 48), 48)


@given(taken=st.lists(st.integers(0, 2), max_size=80))
def test_chances_sum_to_one_at_most_and_follow_what_was_chosen(taken: list[int]) -> None:
    choosing, choices = Choosing(), Choices((97, 98, 99))
    for choice in taken:
        choosing.observe(0, choices, choices.codes[choice])
        chances = choosing.chances(0, choices)
        assert sum(chances) <= 1.0 + 1e-9
        assert all(chance > 0.0 for chance in chances)
    for _ in range(100):
        choosing.observe(0, choices, 98)
    assert choosing.chances(0, choices)[1] > 0.9


@pytest.fixture(scope="module")
def real(smollm2: Path) -> LlamaVocabulary:
    return LlamaModel(smollm2, gpu_layers=0).vocabulary


def text_of(vocabulary: LlamaVocabulary, tokens: Sequence[int]) -> bytes:
    return b"".join(map(vocabulary.piece, tokens))


@pytest.mark.model
@settings(max_examples=25)
@given(seed=st.integers(0, 10**9))
def test_what_is_certain_is_the_only_continuation(real: LlamaVocabulary, seed: int) -> None:
    """By llama.cpp's grammar: each token that it allows is a beginning of the certain text, or begins with that."""
    chance = random.Random(seed)
    made = SchemaMaker(seed).document()
    grammar = schema_to_grammar(made.schema)
    answer = real.tokenize(json.dumps(made.instance(), ensure_ascii=False), special=False)[:40]
    shared = GrammarDrafters(real)
    drafter = shared.drafter(grammar)
    with Matcher(real, grammar) as matcher:
        for count, token in enumerate(answer, 1):
            matcher.accept(token)
            say(drafter, token)
            draft = drafter.propose([1], 48)
            check_laws(draft, 48)
            certain = draft.tokens[: len(list(takewhile(lambda share: share == 1.0, draft.probabilities)))]
            if certain:
                text = text_of(real, certain)
                for allowed in matcher.allowed(range(real.size)):
                    piece = real.piece(allowed)
                    assert piece, "an end is certain too"
                    assert text.startswith(piece) or piece.startswith(text), (text, piece)
            if len(draft) and chance.random() < 0.2:
                check_paths(real, grammar, answer[:count], draft)


def check_paths(vocabulary: LlamaVocabulary, grammar: str, said: Sequence[int], draft: Draft) -> None:
    """llama.cpp allows each node after those before it."""
    paths: list[list[int]] = []
    for token, parent in zip(draft.tokens, draft.parents, strict=True):
        before = [] if parent == ROOT else paths[parent]
        paths.append([*before, token])
        with Matcher(vocabulary, grammar) as matcher:
            for earlier in (*said, *before):
                matcher.accept(earlier)
            assert matcher.allowed([token]) == [token]


def test_a_vocabulary_that_puts_a_blank_before_texts_is_split_right(tmp_path: Path) -> None:
    vocabulary = LlamaModel(tiny_model(tmp_path / "tiny.gguf"), gpu_layers=0).vocabulary
    drafter = GrammarDrafters(vocabulary).drafter('root ::= "[key]"')
    say(drafter, *vocabulary.tokenize("x[", special=False)[-1:])
    draft = drafter.propose([1], 8)
    assert text_of(vocabulary, draft.tokens) == b"key]"
    assert len(draft) == 5, "and the end"


def test_automata_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    init = Automaton.__post_init__

    def recorded(automaton: Automaton) -> None:
        made.append(automaton.grammar)
        init(automaton)

    monkeypatch.setattr(Automaton, "__post_init__", recorded)
    shared = GrammarDrafters(Words())
    for _ in range(3):
        say(shared.drafter(OBJECT), *ids("{"))
    assert made == [OBJECT]
