"""How rules begin with one another: what llama.cpp refuses, and what it does not survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter

from edgespec.errors import GrammarError

MOST_STEPS = 5_000_000
"""Calls of llama.cpp's search for left recursion, which forgets what it has seen."""
MOST_DEPTH = 2_000
"""Rules that begin with one another: the same search recurses."""

Option = list[str | None]
"""Names of rules, one after the other; None is a character or a token."""
Rule = list[Option]
"""The options of a rule. A name that begins with _ stands for a group or a repetition."""


def unusable(reason: str) -> GrammarError:
    """The error for a grammar."""
    return GrammarError(f"the grammar cannot be used: {reason}")


def check_names(rules: dict[str, Rule]) -> None:
    """Raises GrammarError for a name without a rule, and where root is missing."""
    for name in (name for rule in rules.values() for option in rule for name in option):
        if name is not None and name not in rules:
            raise unusable(f"there is no rule named {name}")
    if "root" not in rules:
        raise unusable("there is no rule named root, where it begins")


def check_left_recursion(rules: dict[str, Rule]) -> None:
    """Raises GrammarError for what llama.cpp's search finds, and for what the search itself does not survive."""
    empty = {name for name, rule in rules.items() if [] in rule}
    begins = {name: list(_beginnings(rule, empty)) for name, rule in rules.items()}
    steps: dict[str, int] = {}
    depths: dict[str, int] = {}
    for name in _ordered(begins, rules):
        steps[name] = 1 + sum(steps[part] for part in begins[name])
        depths[name] = 1 + max((depths[part] for part in begins[name]), default=0)
        if depths[name] > MOST_DEPTH:
            raise unusable(f"more than {MOST_DEPTH} rules begin with one another, from {_known(name, rules)} on")
        if steps[name] > MOST_STEPS:
            raise unusable(f"there are too many ways to begin the rule {_known(name, rules)}")


def _ordered(begins: dict[str, list[str]], rules: dict[str, Rule]) -> list[str]:
    """The rules, each after those that it begins with."""
    try:
        return list(TopologicalSorter(begins).static_order())
    except CycleError as error:
        raise _left_recursion(error.args[1][0], rules) from error


def _left_recursion(name: str, rules: dict[str, Rule]) -> GrammarError:
    return unusable(f"the rule {_known(name, rules)} begins with itself (left recursion)")


def _beginnings(rule: Rule, may_be_empty: set[str]) -> Iterator[str]:
    """The names that the options of `rule` begin with, behind those that may be empty too."""
    for option in rule:
        for name in option:
            if name is None:
                break
            yield name
            if name not in may_be_empty:
                break


def check_growth(rules: dict[str, Rule]) -> None:
    """Raises GrammarError for what the search overlooks: llama.cpp would expand it for ever, or abort.

    These are rules that begin with themselves behind others that are empty in a roundabout way, with something still to
    come after, and rules that never come to a character. A rule that begins and ends with itself adds nothing.
    """
    nullable = _least(rules, lambda option, known: all(name in known for name in option))
    started = _least(rules, lambda option, known: _starts(option, known, nullable))
    for name in rules:
        if name not in started and name not in nullable:
            raise unusable(f"the rule {_known(name, rules)} never comes to a character")
    begins = {name: list(_beginnings(rule, nullable)) for name, rule in rules.items()}
    try:
        TopologicalSorter(begins).prepare()
    except CycleError:
        for name, rule in rules.items():
            for option in rule:
                unfinished = _beginnings([option[:-1]], nullable)
                if any(_reaches(begins, part, name) for part in unfinished):
                    raise _left_recursion(name, rules) from None


def _starts(option: Option, started: set[str], nullable: set[str]) -> bool:
    for name in option:
        if name is None or name in started:
            return True
        if name not in nullable:
            break
    return False


def _reaches(graph: dict[str, list[str]], start: str, goal: str) -> bool:
    pending, seen = [start], {start}
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        fresh = [other for other in graph[name] if other not in seen]
        seen.update(fresh)
        pending += fresh
    return False


def endless_rules(rules: dict[str, Rule]) -> set[str]:
    """The rules that no finite text fulfils."""
    return set(rules) - _least(rules, lambda option, known: all(name is None or name in known for name in option))


def _least(rules: dict[str, Rule], accepts: Callable[[Option, set[str]], bool]) -> set[str]:
    """The least set of rules with an option that `accepts` takes, given the set."""
    users: dict[str, set[str]] = {}
    for name, rule in rules.items():
        for part in {part for option in rule for part in option if part is not None}:
            users.setdefault(part, set()).add(name)
    found: set[str] = set()
    pending = list(rules)
    while pending:
        name = pending.pop()
        if name not in found and any(accepts(option, found) for option in rules[name]):
            found.add(name)
            pending += users.get(name, ())
    return found


def _known(name: str, rules: dict[str, Rule]) -> str:
    """A rule as a person knows it: by its own name, or that of a rule that uses it."""
    if not name.startswith("_"):
        return name
    users = {part: user for user, rule in rules.items() for option in rule for part in option if part is not None}
    while name.startswith("_") and name in users and users[name] != name:
        name = users.pop(name)
    return name if not name.startswith("_") else "root"
