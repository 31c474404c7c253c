"""From tokens to the text of an answer, and from a conversation's text back to the tokens already known.

A token is some bytes: a character may be spread over several tokens, and a stop string over several more. The classes
here release text as early as it is certain, and never take any of it back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from edgespec.core import Vocabulary
from edgespec.errors import InvalidRequest


class Detokenizer:
    """Decodes tokens to text, one at a time; invalid UTF-8 becomes U+FFFD."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def at_border(self) -> bool:
        """Whether no partial character is held back."""
        return not self._decoder.getstate()[0]

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        return self._decoder.decode(self._vocabulary.piece(token))

    def flush(self) -> str:
        """The text that was held back: U+FFFD for a partial character, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Passes text on, up to the first stop string that it completes.

    "First" is where a reader of one character after the other would stop, so the result does not depend on how the
    text was cut into pushes: the stop string completed first counts, and of several completed by the same character
    the one that began first. Hidden text, that of control tokens, takes part in stop strings and is never shown. Text
    that is shown does not become a stop string by a part of a control token.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InvalidRequest for an empty stop string: it would end every answer before it began."""
        if "" in stops:
            raise InvalidRequest("empty stop string: every text contains it; leave it out")
        self._stops = tuple(stops)
        self._held = ""
        self._hidden: list[
            int
        ] = []  # for each character of _held: the number of its control token, 0 where it has none
        self._hidden_before = 0  # the same for the character before
        self._n_hidden = 0  # control tokens so far
        self._stopped = False
        self.passed = 0
        """Characters that were passed on, the hidden ones included."""

    def __bool__(self) -> bool:
        """Whether there is any stop string."""
        return bool(self._stops)

    def push(self, text: str, *, hidden: bool = False) -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string was completed, now or before.

        The stop string itself and all that follows it are dropped. A tail that may still become a stop string is held
        back until it does or does not.
        """
        if self._stopped:
            return "", True
        self._held += text
        self._n_hidden += hidden
        self._hidden += [self._n_hidden if hidden else 0] * len(text)
        ends = [(begin + len(stop), begin) for stop in self._stops if (begin := self._find(stop)) >= 0]
        if ends:
            shown, self._stopped = self._pass(min(ends)[1]), True
            self._held, self._hidden = "", []
            return shown, True
        return self._pass(len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)), False

    def flush(self) -> str:
        """The text that was held back, at the end of the answer."""
        return self._pass(len(self._held))

    def _find(self, stop: str) -> int:
        """The first place of a stop string; -1 where there is none."""
        begin = self._held.find(stop)
        while begin >= 0 and self._cuts(begin, begin + len(stop)):
            begin = self._held.find(stop, begin + 1)
        return begin

    def _cuts(self, begin: int, end: int) -> bool:
        """Whether these characters are shown ones, and a part of a control token."""
        return not all(self._hidden[begin:end]) and (self._is_inside(begin) or self._is_inside(end))

    def _is_inside(self, place: int) -> bool:
        """Whether a control token goes on from the character before this place to the one behind."""
        before = self._hidden[place - 1] if place else self._hidden_before
        return bool(before) and place < len(self._hidden) and self._hidden[place] == before

    def _pass(self, size: int) -> str:
        """Pass on the first `size` characters that are held back; returns those that are not hidden."""
        text, hidden = self._held[:size], self._hidden[:size]
        self._hidden_before = hidden[-1] if hidden else self._hidden_before
        self._held, self._hidden = self._held[size:], self._hidden[size:]
        self.passed += size
        return "".join(c for c, is_hidden in zip(text, hidden, strict=True) if not is_hidden) if any(hidden) else text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper prefix of `stop` that `text` ends in."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class AnswerText:
    """The text of one answer as its tokens arrive.

    End tokens have no text, and control tokens none that is shown; in stop strings the control tokens' texts count.
    """

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = ()) -> None:
        self._vocabulary = vocabulary
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopStrings(stops)
        self._released: list[str] = []
        self._decoded = 0  # characters, shown or not
        self._visible = 0  # those of them that are not hidden
        self._ends: list[tuple[int, int] | None] = []  # both after each token with text, None inside a character

    @property
    def text(self) -> str:
        """The text released so far."""
        return "".join(self._released)

    def push(self, token: int) -> tuple[str, bool]:
        """The text that is safe to show after `token`, and whether a stop string was completed, now or before."""
        if self._vocabulary.is_end(token):
            return self._release(self._vocabulary.control_text(token), hidden=True) if self._stops else ("", False)
        decoded = self._detokenizer.push(token)
        shown, stopped = self._release(decoded)
        if self._stops and not decoded and self._detokenizer.at_border:
            hidden, stopped = self._release(self._vocabulary.control_text(token), hidden=True)
            shown += hidden
        self._ends.append((self._decoded, self._visible) if self._detokenizer.at_border else None)
        return shown, stopped

    def finish(self) -> str:
        """The text that was held back; to be called once, after the last token."""
        shown, _ = self._release(self._detokenizer.flush())
        rest = self._stops.flush()
        self._released.append(rest)
        return shown + rest

    def whole_tokens(self, limit: int) -> tuple[int, str]:
        """The number of leading tokens, at most `limit`, that are released in full, and their text.

        That is all of them, unless the answer was cut inside a token by a stop string, or inside a character.
        """
        text = self.text
        for count in range(min(limit, len(self._ends)), 0, -1):
            end = self._ends[count - 1]
            if end is not None and end[0] <= self._stops.passed:
                return count, text[: end[1]]
        return 0, ""

    def _release(self, decoded: str, *, hidden: bool = False) -> tuple[str, bool]:
        self._decoded += len(decoded)
        self._visible += 0 if hidden else len(decoded)
        shown, stopped = self._stops.push(decoded, hidden=hidden)
        self._released.append(shown)
        return shown, stopped


def continuation(known: str, rendered: str) -> str | None:
    """The text of `rendered` after `known`, which is left to tokenize; None where the template changed `known`.

    `known` is the exact text of ids at hand: the prompt as it was rendered for the last answer, then the text of the
    answer's `AnswerText.whole_tokens()`. `rendered` is the conversation as the template renders it now. The ids of
    `rendered` are then the known ids followed by those of the result, tokenized with the template's control tokens
    recognised and nothing put in front.

    The token that ended the answer is not part of `known`, whether there was one or not: the template writes its own,
    which then stands at the beginning of the result and gets the same id. So an answer that ended by itself, was cut
    at a stop string or ran out of length are one case, and an end token other than the template's is replaced by it.

    None is no loss but of the exact ids: tokenize all of `rendered`, and the context reuses what the ids share. It
    happens when a template strips the whitespace around an answer, drops its reasoning, or when an earlier turn or the
    system message changed.
    """
    return rendered[len(known) :] if rendered.startswith(known) else None
