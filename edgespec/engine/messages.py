"""What may be asked: a prompt or a conversation as people give it, to messages for the chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgespec.backend import NO_VARIABLES, Message
from edgespec.core import arguments
from edgespec.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")


def conversation(prompt: str | Sequence[Message], system: str | None) -> list[Message]:
    """The messages for the chat template: `prompt`, after the system prompt where there is one.

    Contents are texts, or lists of parts as OpenAI's API has them, of which each must be a text. Other keys of a
    message are passed on to the template. Raises InvalidRequest.
    """
    if isinstance(prompt, str):
        messages: list[Message] = [{"role": "user", "content": arguments.text("prompt", prompt)}]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray | memoryview):
        messages = [_message(f"prompt[{index}]", message) for index, message in enumerate(prompt)]
    else:
        raise InvalidRequest(f"prompt is {arguments.shown(prompt)}: it must be a text or a list of messages")
    return messages if system is None else [{"role": "system", "content": arguments.text("system", system)}, *messages]


def template_variables_of(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The template variables of an argument. Raises InvalidRequest where it is no mapping of names."""
    return NO_VARIABLES if given is None else arguments.mapping("template_variables", given)


def _message(name: str, message: Any) -> Message:
    """A message with a known role and its content as one text."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise InvalidRequest(f'{name} is {arguments.shown(message)}: a message is {{"role": ..., "content": ...}}')
    role = arguments.choice(f"the role of {name}", message["role"], ROLES)
    return {**message, "role": role, "content": _content(f"the content of {name}", message["content"])}


def _content(name: str, content: Any) -> str:
    if not isinstance(content, list | tuple):
        return arguments.text(name, content)
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or "text" not in part:
            raise InvalidRequest(f'{name} has {arguments.shown(part)}: a part is {{"type": "text", "text": ...}}')
    return "".join(arguments.text(name, part["text"]) for part in content)
