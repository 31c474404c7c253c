"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import click

from edgespec.cli.chat.controller import Attached, Controller
from edgespec.cli.chat.typed_paths import typed_path, unquoted
from edgespec.cli.options import sampling_options
from edgespec.cli.report import print_stats
from edgespec.cli.terminal import echo, visible
from edgespec.engine.saved_chats import is_chat, read_chat, write_chat
from edgespec.errors import InvalidRequest
from edgespec.system.texts import counted, read_text

_MAX_BYTES_PER_TOKEN = 16
"""Bytes of a file for each token of the context; a larger file is refused without tokenizing it."""


QUOTE = '"""'
"""Begins and ends a message of several lines."""

_COMMAND = re.compile(r"/[a-z?]+(\s|$)")
_NEARLY = 0.75
"""How much of a word must be a command's for it to count as a typing error (difflib's ratio)."""


class LeaveChat(Exception):
    """The user leaves the chat."""


class NotACommand(InvalidRequest):
    """A line that looks like a command and is none; `line` may be meant for the model."""

    def __init__(self, line: str, reason: str) -> None:
        super().__init__(f"{reason} (to say it to the model, put {QUOTE} before and after it)")
        self.line = line


class ChatCommand(NamedTuple):
    """A command of a chat; `arguments` are as /help shows them."""

    arguments: str
    help: str
    run: Callable[[Controller, str], None]


def is_command(line: str) -> bool:
    """Whether a line is a command: its first word is one, is nearly one, or stands alone.

    Any other line is a message: `/tmp is full, what now?`, a path, a comment of C.
    """
    if "\n" in line or not _COMMAND.match(line):
        return False
    name, *argument = line.split(maxsplit=1)
    return not argument or bool(get_close_matches(name, [*CHAT_COMMANDS, *ALIASES], 1, cutoff=_NEARLY))


def run_command(controller: Controller, line: str) -> None:
    """Run the command in a line. Raises EdgespecError, OSError, LeaveChat."""
    name, *argument = line.split(maxsplit=1)
    name = ALIASES.get(name, name)
    command = CHAT_COMMANDS.get(name)
    if command is None:
        nearest = get_close_matches(name, CHAT_COMMANDS, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else "/help lists them"
        raise NotACommand(line, f"there is no command {name}: {hint}")
    if argument and not command.arguments and name != "/help":  # /exit code 1, what does it mean?
        raise NotACommand(line, f"{name} takes nothing after it")
    command.run(controller, "".join(argument))


def _help(controller: Controller, argument: str) -> None:
    width = max(len(f"{name} {command.arguments}") for name, command in CHAT_COMMANDS.items())
    for name, command in CHAT_COMMANDS.items():
        echo(f"{f'{name} {command.arguments}':{width}}  {command.help}")
    echo('\n""" begins and ends a message of several lines; Alt-Enter makes a new line. Ctrl-C stops an answer.')
    echo("Tab completes; the arrows bring back what was typed before; Ctrl-X Ctrl-E opens $EDITOR.")
    echo(f"/set knows: {', '.join(SETTINGS)}")


def _exit(controller: Controller, argument: str) -> None:
    raise LeaveChat


def _clear(controller: Controller, argument: str) -> None:
    controller.chat.clear()
    controller.attached.clear()
    controller.last = None
    controller.screen.note("the conversation is empty")


def _system(controller: Controller, argument: str) -> None:
    if argument:
        controller.chat.system = None if argument == "-" else argument
        controller.screen.note(f"from the next message on{', without a system prompt' if argument == '-' else ''}")
    else:
        controller.screen.note(controller.chat.system or "there is no system prompt; /system TEXT sets one")


def _last_message(controller: Controller) -> str:
    for message in reversed(controller.chat.messages):
        if message["role"] == "user":
            return message["content"]
    raise InvalidRequest("there is no message yet")


def _undo(controller: Controller, argument: str) -> None:
    if controller.attached:
        controller.screen.note(f"left out: {controller.attached.pop().name}")
        return
    text = _last_message(controller)
    controller.chat.undo()
    controller.screen.note(f"taken back: {text if len(text) <= 60 else text[:59] + '…'}")


def _regen(controller: Controller, argument: str) -> None:
    text = _last_message(controller)
    if controller.sampling.temperature > 0.0:
        controller.set_sampling("seed", controller.sampling.seed + 1)  # with the same one it would be the same answer
    controller.say_instead(text)


def _edit(controller: Controller, argument: str) -> None:
    if controller.editor is None:
        raise InvalidRequest("/edit needs a terminal to edit in; /undo takes the last message back")
    text = controller.editor(_last_message(controller))
    if text is None:
        controller.screen.note("not changed")
    else:
        controller.say_instead(text)


def _save(controller: Controller, argument: str) -> None:
    path = typed_path(_given(argument, "/save FILE.json"))
    if path.exists() and not is_chat(path):
        raise InvalidRequest(f"{path} exists and is not a saved conversation: choose another name")
    write_chat(path, controller.chat, controller.engine)
    controller.screen.note(f"saved: {path}")


def _load(controller: Controller, argument: str) -> None:
    path = typed_path(_given(argument, "/load FILE.json"))
    same = read_chat(path, controller.chat, controller.engine)
    controller.last = None
    turns = sum(message["role"] == "user" for message in controller.chat.messages)
    controller.screen.note(counted(turns, "turn") + ("" if same else ", from another model: their text is read again"))


def _file(controller: Controller, argument: str) -> None:
    path = typed_path(_given(argument, "/file PATH"))
    room = controller.engine.context.n_ctx
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest(f"{path} is not a text file")
    too_large = f"{path} does not fit into a context of {room} tokens: use a part of it, or start with a larger --ctx"
    if status.st_size > _MAX_BYTES_PER_TOKEN * room:
        raise InvalidRequest(too_large)
    text = read_text(path)
    count = len(controller.engine.model.vocabulary.tokenize(text, special=False))
    if count >= room:
        raise InvalidRequest(too_large)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any in the text
    controller.attached.append(Attached(path.name, f"{path.name}:\n{fence}\n{text.rstrip()}\n{fence}"))
    name = visible(path.name, one_line=True)
    controller.screen.note(f"{name}, {counted(count, 'token')}, goes before the next message; /undo leaves it out")


def _set(controller: Controller, argument: str) -> None:
    name, *values = argument.split(maxsplit=1) or [""]
    value = "".join(values)
    if name not in SETTINGS:
        nearest = get_close_matches(name, SETTINGS, 1)
        wrong = f"there is no setting {name!r}" + (f": did you mean {nearest[0]}?" if nearest else "")
        raise InvalidRequest(f"{wrong if name else 'which setting?'} /set knows {', '.join(SETTINGS)}")
    option = SETTINGS[name]
    if option is None:
        setattr(controller.screen, name, _parse_switch(name, value))
    elif option.name == "think":
        controller.think(_parse_switch(name, value))
    elif option.is_flag:
        controller.options[str(option.name)] = _parse_switch(name, value)
    else:
        _set_value(controller, option, name, value)
    controller.screen.note(f"{name} {value.strip()}")


def _set_value(controller: Controller, option: click.Option, name: str, value: str) -> None:
    try:
        converted = option.type_cast_value(click.Context(click.Command("set")), value.strip() or None)
    except click.BadParameter as error:
        raise InvalidRequest(f"{name}: {error.message}") from error
    if converted is None:
        raise InvalidRequest(f"/set {name} needs a value")
    if option.name == "max_tokens":
        if converted < 1:
            raise InvalidRequest(f"max-tokens is {converted}: it must be at least 1")
        controller.options["max_tokens"] = converted
    else:
        controller.set_sampling(str(option.name), converted)


def _stats(controller: Controller, argument: str) -> None:
    if controller.last is None:
        raise InvalidRequest("there is no answer yet")
    print_stats(controller.last, controller.engine, controller.last_seed)


def _model(controller: Controller, argument: str) -> None:
    if argument:
        controller.change_model(unquoted(argument))
    model = controller.engine.model
    controller.screen.note(visible(f"{model.name} ({model.path.name})", one_line=True))
    controller.screen.note(controller.sampling_in_words)


def _drafter(controller: Controller, argument: str) -> None:
    if argument:
        controller.change_drafter(unquoted(argument))
    controller.screen.note(controller.engine.drafter_name)


def _draft(controller: Controller, argument: str) -> None:
    if argument:
        controller.draft(_parse_switch("/draft", argument))
    reason = "" if controller.engine.drafters else ": there is no drafter; /drafter auto finds one"
    controller.screen.note("drafting where it pays" if controller.drafting else f"decoding plainly{reason}")


def _given(argument: str, usage: str) -> str:
    if not argument:
        raise InvalidRequest(f"usage: {usage}")
    return argument


def _parse_switch(what: str, value: str) -> bool:
    if value.strip() not in ("on", "off"):
        raise InvalidRequest(f"{what} {value.strip()!r}: write on or off")
    return value.strip() == "on"


CHAT_COMMANDS: dict[str, ChatCommand] = {
    "/help": ChatCommand("", "This list.", _help),
    "/exit": ChatCommand("", "Leave. Ctrl-D does, too.", _exit),
    "/clear": ChatCommand("", "Begin a new conversation.", _clear),
    "/system": ChatCommand("[TEXT]", "Show or set the system prompt; - removes it.", _system),
    "/regen": ChatCommand("", "Answer the last message again.", _regen),
    "/undo": ChatCommand("", "Leave out the last file that was not sent yet, or take back the last turn.", _undo),
    "/edit": ChatCommand("", "Edit the last message and send it again.", _edit),
    "/save": ChatCommand("FILE", "Save the conversation to a file.", _save),
    "/load": ChatCommand("FILE", "Continue a saved conversation.", _load),
    "/file": ChatCommand("PATH", "Add a file's text to the next message.", _file),
    "/set": ChatCommand("NAME VALUE", "Change a setting: /set temp 0.7, /set colour on.", _set),
    "/stats": ChatCommand("", "Print statistics of the last answer.", _stats),
    "/model": ChatCommand("[MODEL]", "Show or change the model.", _model),
    "/drafter": ChatCommand("[DRAFTER]", "Show or change the drafter.", _drafter),
    "/draft": ChatCommand("[on|off]", "Draft where it pays, or decode plainly.", _draft),
}
ALIASES = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}
TAKES_A_PATH = ("/save", "/load", "/file", "/model", "/drafter")

_SWITCHES = ("colour", "footer")


def _make_settings() -> dict[str, click.Option | None]:
    """The settings by name: the sampling options of the command line, and the switches of the screen (None)."""

    @click.command()
    @sampling_options
    def sampling_command(**_: Any) -> None:
        pass

    excluded = {"system", "template_var", "stop", "logit_bias", "grammar", "json_schema"}
    options = [
        option for option in sampling_command.params if isinstance(option, click.Option) and option.name not in excluded
    ]
    named: dict[str, click.Option | None] = {option.opts[-1].removeprefix("--"): option for option in options}
    return {**dict.fromkeys(_SWITCHES), **named}


SETTINGS = _make_settings()
"""The settings that /set changes."""
