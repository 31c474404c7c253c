"""What a user types or pipes in: texts of options, prompts, and, where a file is asked for, `-` or the text itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from edgespec.errors import InvalidRequest
from edgespec.system.texts import STANDARD_INPUT, input_is_piped, read_input, read_standard_input, with_newlines

_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}

_READ_AS_FILES = ("file", "prompts", "grammar", "json_schema")
"""Options that take `-` for standard input."""


Texts = TypeVar("Texts", str, tuple[str, ...], None)


def typed(_context: click.Context, parameter: click.Parameter, value: Texts) -> Texts:
    """A callback of options and arguments: the text, or the texts, that were typed. Raises InvalidRequest."""
    name = parameter.opts[-1] if isinstance(parameter, click.Option) else "the prompt"
    if isinstance(value, tuple):
        return tuple(typed_text(text, name) for text in value)
    return None if value is None else typed_text(value, name)


def typed_with_escapes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The same for an option that may be repeated, with the escapes in its texts replaced."""
    return tuple(map(unescaped, typed(context, parameter, values)))


def typed_text(value: str, name: str) -> str:
    """The text that was typed as `value`, in which Python has half surrogate pairs for what the locale cannot decode.

    Raises InvalidRequest, which says after how many characters of `name` the bytes are no UTF-8.
    """
    if not re.search("[\ud800-\udfff]", value):
        return value
    data = os.fsencode(value)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        characters = len(data[: error.start].decode())
        raise InvalidRequest(
            f"the input is not UTF-8 text: byte 0x{data[error.start]:02x} of {name}, after {characters} characters"
        ) from error


def unescaped(text: str) -> str:
    r"""`text` with \n, \r, \t and \\ replaced by what they stand for; any other backslash stays."""
    return re.sub(r"\\[nrt\\]", lambda escape: _ESCAPES[escape[0]], text)


def text_or_file(value: str, name: str, *, text: str, form: str) -> str:
    """The text of the option `name`: `value` itself where the pattern `text` is in it, else that of the file it names.

    Raises InvalidRequest, which says in what `form` the text could be typed.
    """
    if re.search(text, value):
        return typed_text(value, name)
    try:
        return read_input(Path(value))
    except InvalidRequest as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InvalidRequest(f"{error}; typed in place, {form}") from error
        raise


def options_from_input(options: Mapping[str, Any]) -> list[str]:
    """The options whose value is `-`, which is read from standard input."""
    return [f"--{name.replace('_', '-')}" for name in _READ_AS_FILES if options.get(name) in ("-", STANDARD_INPUT)]


def prompt_of(options: Mapping[str, Any]) -> str:
    """The prompt of `generate`: what is piped in, then what is typed or in the file.

    One line end at the end of what was piped in, or of the file, is left out, and a blank line goes between the two;
    with `raw` all stays as it is. Raises InvalidRequest for a prompt without text, UsageError where there is none.
    """
    raw: bool = options["raw"]
    typed = " ".join(options["words"]) if options["words"] else options["prompt"]
    prompted = typed is not None or options["file"] is not None
    parts = []
    if not options_from_input(options) and (input_is_piped() if prompted else not sys.stdin.isatty()):
        parts.append(_message(read_standard_input(), raw=raw))
    elif not prompted:
        raise click.UsageError("no prompt: give one, -f FILE or --prompts FILE.jsonl, or pipe one in")
    if typed is not None:
        parts.append(typed)
    elif options["file"] is not None:
        parts.append(_message(read_input(options["file"], as_it_is=raw), raw=raw))
    prompt = "".join(parts) if raw else "\n\n".join(part for part in parts if part.strip())
    if not prompt:
        raise InvalidRequest("the prompt is empty: give one, -f FILE or --prompts FILE.jsonl, or pipe one in")
    return prompt


def _message(text: str, *, raw: bool) -> str:
    return text if raw else with_newlines(text).removesuffix("\n")
