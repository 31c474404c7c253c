"""Prompts that the target writes itself: it continues the chat template's header of a user's message.

A model that was trained on conversations then writes what users ask (Magpie, arXiv 2406.08464, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgespec.backend import LlamaModel, ParallelContext
from edgespec.core import Row
from edgespec.decode.sampling import draw_any
from edgespec.errors import InvalidRequest, UnsupportedModel
from edgespec.vocabtrim.answers import AnswerJournal

TEMPERATURE = 0.9
"""Lower ones repeat themselves, higher ones ask nonsense."""

_LONGEST = 128
"""Tokens of a prompt; one that has not ended by then is left out."""

_LEAST_CHARACTERS = 12

_ATTEMPTS_PER_PROMPT = 8
_LEAST_ATTEMPTS = 256
"""Attempts, in all and for each prompt, after which it is given up."""

_MARK = "edgespecprompt"
"""Stands for the user's message in the template."""


def header_tokens(model: LlamaModel) -> list[int]:
    """The ids of what the chat template writes before a user's message.

    Raises UnsupportedModel where it writes nothing that a model could take for the beginning of one.
    """
    remedy = "so the model cannot write prompts: give some with --prompts"
    if model.chat_template is None:
        raise UnsupportedModel(f"{model.path.name} has no chat template, {remedy}")
    header, mark, _ = model.render([{"role": "user", "content": _MARK}]).partition(_MARK)
    if not mark or not header.strip():
        raise UnsupportedModel(
            f"{model.path.name}: its chat template writes no header before a user's message, {remedy}"
        )
    return model.vocabulary.tokenize_prompt(header)


def write_prompts(
    model: LlamaModel,
    count: int,
    journal: AnswerJournal,
    *,
    seed: int,
    slots: int,
    threads: int,
    progress: Callable[[int, int, int], None] = lambda done, total, tokens: None,
) -> list[str]:
    """`count` distinct prompts; every attempt goes to the journal, and what it holds already is not tried again.

    Attempt i draws with the seed `seed` + i, so the prompts are the same however often the run was stopped. `progress`
    gets the number of prompts, `count`, and the tokens of all attempts. Raises UnsupportedModel, InvalidRequest.
    """
    header = header_tokens(model)
    n_ctx = len(header) + _LONGEST + 1
    most = max(_LEAST_ATTEMPTS, _ATTEMPTS_PER_PROMPT * count)
    collected = _Distinct(model, journal.answers)
    n_tokens = sum(map(len, journal.answers.values()))

    def attempts() -> Iterator[tuple[int, list[int]]]:
        for index in range(most):
            if len(collected.prompts) >= count:
                return
            if index not in journal.answers:
                yield index, header

    def choose(index: int, row: Row, position: int) -> int:
        return draw_any(row, TEMPERATURE, (seed + index) % 2**64, position)

    progress(len(collected.prompts), count, n_tokens)
    if len(collected.prompts) < count:
        context = ParallelContext(model, slots=slots, n_ctx=n_ctx, threads=threads)
        try:
            for index, tokens in context.answers(attempts(), _LONGEST, choose):
                journal.add(index, tokens)
                n_tokens += len(tokens)
                collected.update()
                progress(min(count, len(collected.prompts)), count, n_tokens)
                if len(collected.prompts) >= count:
                    break
        finally:
            context.close()
    if len(collected.prompts) < count:
        raise InvalidRequest(
            f"{model.path.name} wrote {len(collected.prompts)} distinct prompts in {most} attempts, not {count}: "
            "ask for fewer (--own-prompts), or give prompts with --prompts"
        )
    return collected.prompts[:count]


class _Distinct:
    """The distinct prompts among the attempts, in the order of these up to the first one that is not finished."""

    def __init__(self, model: LlamaModel, attempts: Mapping[int, list[int]]) -> None:
        self.prompts: list[str] = []
        self._model, self._attempts = model, attempts
        self._next = 0
        self._seen: set[str] = set()
        self.update()

    def update(self) -> None:
        """Look at further attempts."""
        while (tokens := self._attempts.get(self._next)) is not None:
            self._next += 1
            text = _text(self._model, tokens)
            if text is not None and text not in self._seen:
                self._seen.add(text)
                self.prompts.append(text)


def _text(model: LlamaModel, tokens: list[int]) -> str | None:
    """The text of an attempt; None where it did not end, is too short, or is no text."""
    vocabulary = model.vocabulary
    *body, last = tokens
    if not vocabulary.is_end(last) or any(map(vocabulary.is_control, body)):
        return None
    try:
        text = b"".join(map(vocabulary.piece, body)).decode().strip()
    except UnicodeDecodeError:
        return None
    return text if len(text) >= _LEAST_CHARACTERS else None


def as_prompts(texts: list[str]) -> Iterator[dict[str, Any]]:
    """The prompts in the form of prompt files."""
    for number, text in enumerate(texts):
        yield {"question_id": f"own-{number}", "category": "own", "turns": [text]}
