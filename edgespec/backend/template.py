"""A model's chat template: a Jinja program, inside its file, that writes a conversation as one text.

It runs in a sandbox, since its author is whoever made the file. It gets the names that `transformers` and
llama-cpp-python give it: templates are written for those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from edgespec.errors import InvalidRequest

_OPTIONAL = ("functions", "function_call", "tools", "tool_choice")
"""Names that are None unless they are given: templates ask whether they are."""

_OWN = frozenset(("messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"))
"""Names that only edgespec gives."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for training: here its body stands as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja asks for it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template. `bos` and `eos` are the texts of these tokens.

    Raises whatever Jinja raises for a `source` that it cannot compile.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json  # Jinja's own escapes for HTML
        self._template = environment.from_string(source)
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source))) - _OWN
        """The names that the template reads, and that `render` may give it: `enable_thinking`, say."""
        self._given = {"bos_token": bos, "eos_token": eos, "raise_exception": _refuse, "strftime_now": _now}

    def check(self, variables: Mapping[str, Any]) -> None:
        """Raises InvalidRequest for a variable that the template never reads, with the names that it reads."""
        for name in variables:
            if name not in self.variables:
                readable = ", ".join(sorted(self.variables)) or "none"
                raise InvalidRequest(f"the chat template does not read the variable {name!r}; it reads {readable}")

    def render(self, messages: Sequence[Mapping[str, Any]], *, reply: bool, variables: Mapping[str, Any]) -> str:
        """The conversation as one text; `reply` opens the assistant's turn. Raises what the template raises."""
        given = {**dict.fromkeys(_OPTIONAL), **variables, **self._given}
        copies = [dict(message) for message in messages]
        return self._template.render(messages=copies, add_generation_prompt=reply, **given)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format_: str) -> str:
    return datetime.now().strftime(format_)
