"""The automaton of a grammar: it allows what llama.cpp's grammar sampler allows, character by character."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.schema_generator import SchemaMaker
from edgespec.backend import LlamaVocabulary
from edgespec.errors import GrammarError
from edgespec.grammar import automaton, check_grammar, schema_to_grammar
from edgespec.grammar.automaton import END, Automaton, State
from tests.grammar.matcher import BYTE, Matcher
from tests.grammar.matcher import END as END_ID
from tests.grammar.test_check import grammars

ASCII = range(1, 128)


def made(grammar: str) -> Automaton:
    return Automaton(grammar, lambda text: int(text[2:-2]))


def following(state: State | None, code: int) -> State | None:
    """The state after an ASCII character, which is a token of the tiny vocabulary."""
    if state is None:
        return None
    return state.after_token(BYTE + code, chr(code)) if state.names_tokens else state.after(code)


def walk(vocabulary: LlamaVocabulary, grammar: str, seed: int, steps: int) -> None:
    """Compare what is allowed at each place of a random text of ASCII."""
    chance = random.Random(seed)
    state = made(grammar).start
    with Matcher(vocabulary, grammar) as matcher:
        for _ in range(steps):
            assert state is not None
            allowed = [code for code in ASCII if following(state, code)]
            ids = [BYTE + code for code in ASCII]
            assert [BYTE + code for code in allowed] == matcher.allowed(ids)
            assert (END in state.choices.codes) == (END_ID in matcher.allowed([END_ID]))
            forced = state.choices.only
            if forced == END:
                assert matcher.allowed() == [END_ID]
            elif forced is not None:
                assert matcher.allowed() == [BYTE + chr(forced).encode()[0]]
            counted_out = not (state.choices.others or state.choices.is_open or state.names_tokens)
            if counted_out:
                assert allowed == [code for code in state.choices.codes if code in ASCII]
            if not allowed:
                return
            closing = [code for code in allowed if chr(code) in '"]}']
            code = chance.choice(closing if closing and chance.random() < 0.4 else allowed)
            matcher.accept(BYTE + code)
            state = following(state, code)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_schemas_allow_what_llama_cpp_allows(vocabulary: LlamaVocabulary, seed: int) -> None:
    walk(vocabulary, schema_to_grammar(SchemaMaker(seed).document().schema), seed, steps=60)


@settings(max_examples=300, deadline=None)
@given(grammar=grammars(), seed=st.integers(0, 99))
def test_any_grammar_allows_what_llama_cpp_allows(vocabulary: LlamaVocabulary, grammar: str, seed: int) -> None:
    try:
        check_grammar(grammar)
    except GrammarError:
        return
    walk(vocabulary, grammar, seed, steps=12)


@pytest.mark.parametrize(
    "grammar",
    [
        r'root ::= [\]\-\[] "\x41\n\"" [a-] "b"{2,}[^b-d]{0,20}.?',
        'root ::= ("a"{2,3} "b"?){2} "c"*{3}',
        'root ::= "(" root ")" | ""',
        'root ::= <[100]> "ab" !<[101]> "c"',
        'root ::= "a" (<[100]> | "a" | "b") "c"',
    ],
)
def test_every_kind_of_element(vocabulary: LlamaVocabulary, grammar: str) -> None:
    for seed in range(10):
        walk(vocabulary, grammar, seed, steps=30)


def test_what_is_forced_is_read_out() -> None:
    state = made('root ::= "né" ("1" | "2") "!"').start
    assert state is not None
    text, after = state.forced
    assert text == "né"
    assert after.choices.codes == (ord("1"), ord("2"))
    assert after.choices.count == 2
    assert after.forced == ("", after)


def test_a_text_without_an_end_is_cut() -> None:
    state = made('root ::= "ab" root').start
    assert state is not None
    assert state.forced[0] == "ab" * (automaton.MOST_FORCED // 2)


@pytest.mark.parametrize(("characters", "others", "is_open"), [("[0-9]", True, False), ("[^x]", False, True)])
def test_classes_are_not_counted_out(characters: str, others: bool, is_open: bool) -> None:
    state = made(f'root ::= {characters} | "-"').start
    assert state is not None
    assert (state.choices.codes, state.choices.others, state.choices.is_open) == ((ord("-"),), others, is_open)
    assert state.choices.only is None


def test_an_ambiguous_grammar_is_given_up() -> None:
    state = made(f'root ::= {" | ".join(f"r{n}" for n in range(automaton.MOST_STACKS + 2))}\n'
                 + "\n".join(f'r{n} ::= "a" "b{n}"' for n in range(automaton.MOST_STACKS + 2))).start  # fmt: skip
    assert state is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton, "MOST_STATES", 10)
    nested = made('root ::= "(" root ")" | "x"')
    state = nested.start
    for _ in range(100):
        assert state is not None
        state = state.after(ord("("))
    for code in b"x" + b")" * 100:
        assert state is not None
        state = state.after(code)
    assert state is not None
    assert state.choices.only == END
    assert len(nested._states) <= 10
