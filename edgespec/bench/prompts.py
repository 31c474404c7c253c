"""Prompt files in Spec-Bench's form: JSON lines of {"question_id", "category", "turns": [...]}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest

MULTI_TURN = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def subtask(category: str) -> str:
    """Spec-Bench's name for a category: its eight 10-question ones together are `multi-turn`."""
    return "multi-turn" if category in MULTI_TURN else category


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a file; keys other than `turns` are up to whoever wrote it. Raises InvalidRequest."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error}") from error
    prompts: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{path}, line {number}: not JSON ({error})") from error
        turns = prompt.get("turns") if isinstance(prompt, dict) else None
        if not (isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns)):
            raise InvalidRequest(f'{path}, line {number}: it must be an object with "turns", a list of texts')
        prompts.append(prompt)
    return prompts


def identified(prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompts with a `question_id` and a `category` each: their number, and `all`, where the file has none."""
    return [{"question_id": number, "category": "all", **prompt} for number, prompt in enumerate(prompts, start=1)]


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
