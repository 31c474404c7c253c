"""The ids of a conversation, in which only the chat template's own text makes control tokens.

llama.cpp recognises control tokens by their texts. In the text of a message, a file or a system prompt, `<|im_end|>`
would so end the turn, and what follows could be a forged turn of the system. Here it is ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgespec.backend.model import NO_VARIABLES, LlamaModel, Message
from edgespec.errors import InvalidRequest

_STAND_INS = range(0xF0000, 0xFFFFE)
"""Private-use characters, which stand for the first characters of control tokens' texts in what people wrote."""

_BLANKS = " \t\n\v\f\r"
"""What llama.cpp strips beside a token that asks for it."""


class Prompt:
    """A conversation as the model's chat template renders it (`text`), and its ids.

    Where people's text holds the text of a control token, the template renders the conversation once more with a
    private-use character in place of that text's first one. What llama.cpp then recognises is the template's own. The
    text between these control tokens is tokenized as a whole, with control tokens off, so that all other ids are what
    they would be.
    """

    def __init__(
        self,
        model: LlamaModel,
        messages: Sequence[Message],
        *,
        reply: bool = True,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> None:
        """Arguments as for `LlamaModel.render`."""
        self._model, self._messages, self._reply, self._variables = model, messages, reply, variables
        self._marks: dict[int, str] = {}  # of the tokens that were looked at
        self.text = model.render(messages, reply=reply, variables=variables)

    def ids(self, start: int = 0, end: int | None = None) -> list[int]:
        """The ids of `text[start:end]`; from the start on, with the BOS token where the model wants one.

        Raises InvalidRequest where a message holds the text of a control token and the template does not write it as
        it is.
        """
        stand_ins = _StandIns(self.text)
        found = frozenset(filter(None, map(self._mark, self._model.turn_marks)))
        while True:
            marks = found
            text = self._with(stand_ins, marks)
            ids = self._model.vocabulary.tokenize(text[start:end])
            found = marks | frozenset(filter(None, map(self._mark, set(ids))))
            if found == marks:
                break
        if text != self.text:
            ids = list(self._between_marks(text[start:end], ids, stand_ins))
        return ids if start else [*self._model.vocabulary.opening(text), *ids]

    def _with(self, stand_ins: _StandIns, marks: frozenset[str]) -> str:
        """The rendered text with stand-ins wherever people's text has marks; `self.text` where these stay text."""
        messages = [stand_ins.put_into(message, marks) for message in self._messages]
        variables = stand_ins.put_into(self._variables, marks)
        if not stand_ins:
            return self.text
        text = self._model.render(messages, reply=self._reply, variables=variables)
        if stand_ins.taken_out(text) == self.text:
            return text
        self._check_unchanged(text, marks)
        return self.text

    def _mark(self, token: int) -> str:
        """The text of a token that a template marks turns with; empty for other tokens."""
        mark = self._marks.get(token)
        if mark is None:
            vocabulary = self._model.vocabulary
            is_mark = vocabulary.is_control(token) or token in self._model.turn_marks
            mark = self._marks[token] = vocabulary.special_piece(token) if is_mark else ""
        return mark

    def _check_unchanged(self, text: str, marks: Iterable[str]) -> None:
        """Raises InvalidRequest unless the conversation has the same control tokens as with stand-ins, as `text`."""
        vocabulary = self._model.vocabulary
        ours, plain = ([*filter(None, map(self._mark, vocabulary.tokenize(one)))] for one in (self.text, text))
        if ours != plain:
            raise InvalidRequest(
                f"a message holds the text of a control token ({', '.join(sorted(marks))}), and the chat template of "
                f"{self._model.path.name} changes it: take it out"
            )

    def _between_marks(self, text: str, ids: Sequence[int], stand_ins: _StandIns) -> Iterator[int]:
        """The control tokens of `ids`, which `text` has, and the ids of people's text and the template's between."""
        vocabulary = self._model.vocabulary
        position, strips = 0, False
        for token in [*ids, None]:
            mark = "" if token is None else self._mark(token)
            if token is not None and not mark:
                continue
            place = len(text) if token is None else text.find(mark, position)
            if place < 0:
                raise InvalidRequest(f"a message holds a part of the control token {mark!r}: take it out")
            piece = text[position:place]
            piece = piece.lstrip(_BLANKS) if strips else piece
            if token is not None:
                strips_left, strips = vocabulary.strips(token)
                piece = piece.rstrip(_BLANKS) if strips_left else piece
            yield from self._plain(piece, stand_ins)
            position = place + len(mark)
            if token is not None:
                yield token

    def _plain(self, text: str, stand_ins: _StandIns) -> list[int]:
        """The ids of text without marks. Merges can make one nevertheless: then the text is cut behind a stand-in."""
        tokenize = self._model.vocabulary.tokenize
        ids = tokenize(stand_ins.taken_out(text), special=False)
        if not any(map(self._mark, ids)):
            return ids
        first, *rest = stand_ins.cut(text)
        ids = tokenize(first, special=False)
        lead = tokenize("\n", special=False)
        for piece in rest:
            after = tokenize(f"\n{piece}", special=False)  # by itself, some tokenizers put a space before it
            ids += after[len(lead) :] if after[: len(lead)] == lead else tokenize(piece, special=False)
        if any(map(self._mark, ids)):
            raise InvalidRequest(
                "a message holds the text of a control token, which cannot be read as text: take it out"
            )
        return ids


class _StandIns:
    """Private-use characters in place of the first characters of control tokens' texts; `text` has none of them."""

    def __init__(self, text: str) -> None:
        self._free = (chr(code) for code in _STAND_INS if chr(code) not in text)
        self._by_character: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Whether any was put into anything."""
        return bool(self._by_character)

    def put_into(self, message: Mapping[str, Any], marks: Iterable[str]) -> dict[str, Any]:
        """The message with stand-ins wherever a mark, or the beginning of one that a template may complete, is."""
        beginnings = [re.escape(mark[:2]) for mark in sorted(marks, key=len, reverse=True)]
        ends = [rf"{re.escape(mark[0])}(?=\s*\Z)" for mark in sorted(marks)]
        pattern = re.compile("|".join([*beginnings, *ends]))

        def replaced(value: Any) -> Any:
            if isinstance(value, str):
                return pattern.sub(lambda match: self._for(match[0][0]) + match[0][1:], value) if marks else value
            if isinstance(value, Mapping):
                names = (replaced(key) if isinstance(key, str) else key for key in value)  # of a tool call's arguments
                return dict(zip(names, map(replaced, value.values()), strict=True))
            return [replaced(item) for item in value] if isinstance(value, list | tuple) else value

        return {key: value if key == "role" else replaced(value) for key, value in message.items()}

    def taken_out(self, text: str) -> str:
        """The text with the characters that the stand-ins stand for."""
        return text.translate({ord(stand_in): character for character, stand_in in self._by_character.items()})

    def cut(self, text: str) -> list[str]:
        """The text cut behind each stand-in, which is taken out."""
        pieces = re.split(f"(?<=[{''.join(self._by_character.values())}])", text)
        return [self.taken_out(piece) for piece in pieces]

    def _for(self, character: str) -> str:
        if character not in self._by_character:
            self._by_character[character] = next(self._free)
        return self._by_character[character]
