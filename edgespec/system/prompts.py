"""Prompt files in Spec-Bench's form: JSON lines of {"question_id", "category", "turns": [...]}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest
from edgespec.system.jsonl import read_lines

MULTI_TURN = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


ALL = "all"
"""The category of prompts that have none."""


def subtask(category: str) -> str:
    """Spec-Bench's name for a category: its eight 10-question ones together are `multi-turn`."""
    return "multi-turn" if category in MULTI_TURN else category


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a file, at least one; keys other than `turns` are not checked. Raises InvalidRequest."""
    prompts, errors = read_valid_prompts(path)
    if errors:
        raise errors[0]
    return list(prompts.values())


def read_valid_prompts(path: Path) -> tuple[dict[int, dict[str, Any]], list[InvalidRequest]]:
    """The prompts of a file by their line number, and the errors of lines that hold none.

    Raises InvalidRequest where the file has no prompt at all.
    """
    prompts: dict[int, dict[str, Any]] = {}
    errors: list[InvalidRequest] = []
    for number, prompt in read_lines(path):
        if isinstance(prompt, InvalidRequest):
            errors.append(prompt)
        elif _has_turns(prompt):
            prompts[number] = prompt
        else:
            errors.append(InvalidRequest(f'{path}, line {number}: it must be an object with "turns", a list of texts'))
    if not prompts:
        raise errors[0] if errors else InvalidRequest(f"{path}: there are no prompts in it")
    return prompts, errors


def _has_turns(prompt: dict[str, Any]) -> bool:
    turns = prompt.get("turns")
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, str) for turn in turns)


def identified(prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompts with `question_id` and `category`; where the file has none, their number and `ALL`.

    Raises InvalidRequest where an id is no number and no text, or two prompts have the same.
    """
    by_id: dict[Any, dict[str, Any]] = {}
    for number, prompt in enumerate(prompts, start=1):
        identified_prompt = {"question_id": number, "category": ALL, **prompt}
        name = identified_prompt["question_id"]
        if not isinstance(name, int | str) or not isinstance(identified_prompt["category"], str):
            raise InvalidRequest(f"prompt {number}: question_id must be a number or a text, category a text")
        if name in by_id:
            raise InvalidRequest(f"prompt {number}: another one has the question_id {name!r} too")
        by_id[name] = identified_prompt
    return list(by_id.values())


def spread(prompts: list[dict[str, Any]], per_subtask: int) -> list[dict[str, Any]]:
    """`per_subtask` prompts of each subtask, evenly spread, the subtasks in turn.

    So a run that is stopped early has prompts of all subtasks.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        groups.setdefault(subtask(prompt["category"]), []).append(prompt)
    per_group = []
    for group in groups.values():
        wanted = min(per_subtask, len(group))
        per_group.append([group[round_index * len(group) // wanted] for round_index in range(wanted)])
    return [group[round_index] for round_index in range(per_subtask) for group in per_group if round_index < len(group)]
