"""Checks GBNF text before llama.cpp gets it.

llama.cpp prints what does not parse to stderr, and dies of some grammars that do: deep nesting, `{5,2}`, rules that
grow without reading a character (src/llama-grammar.cpp). Each of these is refused here, with its line and column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from edgespec.errors import GrammarError
from edgespec.grammar import rule_graph, syntax
from edgespec.grammar.rule_graph import Option, Rule, unusable


def check_grammar(grammar: str, is_token: Callable[[str], bool] | None = None) -> bool:
    """Whether the grammar names tokens. Raises GrammarError where llama.cpp refuses it or does not survive it.

    `is_token` says whether a text like `<|end|>` is one token of the vocabulary; without it, all are.
    """
    tokens = _tokens_of(grammar)
    for text in tokens:
        if is_token is not None and not text.startswith("<[") and not is_token(text):
            raise unusable(f"{text} is not one token of this vocabulary")
    return bool(tokens)


@lru_cache(maxsize=64)
def _tokens_of(grammar: str) -> tuple[str, ...]:
    return _parsed(grammar)[1]


def parsed(grammar: str) -> dict[str, Rule]:
    """The rules of a sound grammar: alternatives of elements, repetitions shortened. Raises GrammarError."""
    return _parsed(grammar)[0]


def _parsed(grammar: str) -> tuple[dict[str, Rule], tuple[str, ...]]:
    """The rules, and the tokens that are named."""
    if not grammar.strip():
        raise GrammarError("the grammar is empty: it needs a rule named root")
    if "\0" in grammar:
        raise GrammarError(f"the grammar has a NUL at character {grammar.index(chr(0)) + 1}: write it as \\x00")
    try:
        grammar.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar has half a surrogate pair at character {error.start + 1}") from error
    written, tokens = syntax.parse(grammar)
    rules = _shortened(written)
    for check in (rule_graph.check_names, rule_graph.check_left_recursion, rule_graph.check_growth):
        check(rules)
    return rules, tuple(tokens)


def _shortened(written: syntax.Rules) -> dict[str, Rule]:
    """The rules as the checks need them: a literal is one character, and 2 of several repetitions are enough."""
    rules: dict[str, Rule] = {}

    def option(items: Iterable[syntax.Element]) -> Option:
        found: Option = []
        for item in items:
            if isinstance(item, syntax.Repeat):
                found += repeated(item)
            else:
                found.append(item.name if isinstance(item, syntax.Name) else None)
        return found

    def repeated(item: syntax.Repeat) -> Option:
        items, last = option(item.items), None
        for _ in range(1 if item.high is None else min(item.high - item.low, 2)):
            name = f"_repetition-{len(rules)}"  # no name that can be written
            following = name if item.high is None else last
            rules[name] = [[*items, *([] if following is None else [following])], []]
            last = name
        return items * min(item.low, 2) + ([] if last is None else [last])

    for name, options in written.items():
        rules[name] = []
        rules[name] += map(option, options)
    return rules
