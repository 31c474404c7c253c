"""Prompt files in Spec-Bench's form: JSON lines of {"question_id", "category", "turns": [...]}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest
from edgespec.system.jsonl import read_objects

MULTI_TURN = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def subtask(category: str) -> str:
    """Spec-Bench's name for a category: its eight 10-question ones together are `multi-turn`."""
    return "multi-turn" if category in MULTI_TURN else category


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a file; keys other than `turns` are up to whoever wrote it. Raises InvalidRequest."""
    prompts = read_objects(path)
    for number, prompt in prompts:
        turns = prompt.get("turns")
        if not (isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns)):
            raise InvalidRequest(f'{path}, line {number}: it must be an object with "turns", a list of texts')
    return [prompt for _, prompt in prompts]


def identified(prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompts with a `question_id` and a `category` each: their number, and `all`, where the file has none.

    Raises InvalidRequest where an id is no number and no text, or two prompts have the same.
    """
    found: dict[Any, dict[str, Any]] = {}
    for number, prompt in enumerate(prompts, start=1):
        one = {"question_id": number, "category": "all", **prompt}
        name = one["question_id"]
        if not isinstance(name, int | str) or not isinstance(one["category"], str):
            raise InvalidRequest(f"prompt {number}: question_id must be a number or a text, category a text")
        if name in found:
            raise InvalidRequest(f"prompt {number}: another one has the question_id {name!r} too")
        found[name] = one
    return list(found.values())


def spread(prompts: list[dict[str, Any]], per_subtask: int) -> list[dict[str, Any]]:
    """So many of each subtask, evenly over those there are; one of each subtask after the other.

    So a run that was stopped early has seen all of them.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        groups.setdefault(subtask(prompt["category"]), []).append(prompt)
    chosen = []
    for group in groups.values():
        wanted = min(per_subtask, len(group))
        chosen.append([group[place * len(group) // wanted] for place in range(wanted)])
    return [group[place] for place in range(per_subtask) for group in chosen if place < len(group)]
