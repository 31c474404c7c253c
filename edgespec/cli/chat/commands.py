"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import stat
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import click

from edgespec.cli.chat.controller import Attached, Controller
from edgespec.cli.options import sampling_options
from edgespec.cli.report import print_stats
from edgespec.engine.saved_chats import is_chat, read_chat, write_chat
from edgespec.errors import InvalidRequest
from edgespec.system.jsonl import read_text

_MOST_BYTES = 16
"""Of a file for each token of the context: what has more is not read to see that it has too many tokens."""


class Leave(Exception):
    """The person wants to go."""


class Command(NamedTuple):
    """`arguments`: as the help shows them."""

    arguments: str
    help: str
    run: Callable[[Controller, str], None]


def run_command(talk: Controller, line: str) -> None:
    """Do what a line says. Raises EdgespecError, OSError, Leave."""
    name, *rest = line.split(maxsplit=1)
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        near = get_close_matches(name, COMMANDS, 1)
        raise InvalidRequest(f"no command {name}: " + (f"did you mean {near[0]}?" if near else "see /help"))
    command.run(talk, "".join(rest))


def _help(talk: Controller, rest: str) -> None:
    width = max(len(f"{name} {command.arguments}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        click.echo(f"{f'{name} {command.arguments}':{width}}  {command.help}")
    click.echo('\n""" begins and ends a message of several lines; Alt-Enter makes a new line. Ctrl-C stops an answer.')
    click.echo("Tab completes; the arrows bring back what was typed before; Ctrl-X Ctrl-E opens $EDITOR.")
    click.echo(f"/set knows: {', '.join(SETTINGS)}")


def _exit(talk: Controller, rest: str) -> None:
    raise Leave


def _clear(talk: Controller, rest: str) -> None:
    talk.chat.clear()
    talk.attached.clear()
    talk.last = None
    talk.screen.note("the conversation is empty")


def _system(talk: Controller, rest: str) -> None:
    if rest:
        talk.chat.system = None if rest == "-" else rest
        talk.screen.note(f"from the next message on{', without a system prompt' if rest == '-' else ''}")
    else:
        talk.screen.note(talk.chat.system or "there is no system prompt; /system TEXT sets one")


def _last_message(talk: Controller) -> str:
    for message in reversed(talk.chat.messages):
        if message["role"] == "user":
            return message["content"]
    raise InvalidRequest("there is no message yet")


def _undo(talk: Controller, rest: str) -> None:
    if talk.attached:
        talk.screen.note(f"left out: {talk.attached.pop().name}")
        return
    text = _last_message(talk)
    talk.chat.undo()
    talk.screen.note(f"taken back: {text if len(text) <= 60 else text[:59] + '…'}")


def _regen(talk: Controller, rest: str) -> None:
    text = _last_message(talk)
    if talk.sampling.temperature > 0.0:
        talk.set_sampling("seed", talk.sampling.seed + 1)  # with the same one it would be the same answer
    talk.say_instead(text)


def _edit(talk: Controller, rest: str) -> None:
    if talk.editor is None:
        raise InvalidRequest("/edit needs a terminal to edit in; /undo takes the last message back")
    text = talk.editor(_last_message(talk))
    if text is None:
        talk.screen.note("not changed")
    else:
        talk.say_instead(text)


def _save(talk: Controller, rest: str) -> None:
    path = _path(rest, "/save FILE.json")
    if path.exists() and not is_chat(path):
        raise InvalidRequest(f"{path} exists and is not a saved conversation: choose another name")
    write_chat(path, talk.chat, talk.engine)
    talk.screen.note(f"saved: {path}")


def _load(talk: Controller, rest: str) -> None:
    path = _path(rest, "/load FILE.json")
    same = read_chat(path, talk.chat, talk.engine)
    talk.last = None
    turns = sum(message["role"] == "user" for message in talk.chat.messages)
    talk.screen.note(f"{turns} turns" + ("" if same else ", from another model: their text is read again"))


def _file(talk: Controller, rest: str) -> None:
    path = _path(rest, "/file PATH")
    room = talk.engine.context.n_ctx
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise InvalidRequest(f"{path} is not a text file")
    too_large = f"{path} does not fit into a context of {room} tokens: use a part of it, or start with a larger --ctx"
    if about.st_size > _MOST_BYTES * room:
        raise InvalidRequest(too_large)
    text = read_text(path)
    count = len(talk.engine.model.vocabulary.tokenize(text))
    if count >= room:
        raise InvalidRequest(too_large)
    talk.attached.append(Attached(path.name, f"{path.name}:\n```\n{text.rstrip()}\n```"))
    talk.screen.note(f"{path.name}, {count} tokens, goes before the next message; /undo leaves it out")


def _set(talk: Controller, rest: str) -> None:
    name, *values = rest.split(maxsplit=1) or [""]
    value = "".join(values)
    if name not in SETTINGS:
        near = get_close_matches(name, SETTINGS, 1)
        wrong = f"there is no setting {name!r}" + (f": did you mean {near[0]}?" if near else "")
        raise InvalidRequest(f"{wrong if name else 'which setting?'} /set knows {', '.join(SETTINGS)}")
    option = SETTINGS[name]
    if option is None:
        setattr(talk.screen, name, _on(name, value))
    elif option.is_flag:
        talk.options[str(option.name)] = _on(name, value)
    else:
        _set_value(talk, option, name, value)
    talk.screen.note(f"{name} {value.strip()}")


def _set_value(talk: Controller, option: click.Option, name: str, value: str) -> None:
    try:
        found = option.type_cast_value(click.Context(click.Command("set")), value.strip() or None)
    except click.BadParameter as error:
        raise InvalidRequest(f"{name} {value!r}: {error.message}") from error
    if found is None:
        raise InvalidRequest(f"/set {name} needs a value")
    if option.name == "max_tokens":
        if found < 1:
            raise InvalidRequest(f"max-tokens is {found}: it must be at least 1")
        talk.options["max_tokens"] = found
    else:
        talk.set_sampling(str(option.name), found)


def _stats(talk: Controller, rest: str) -> None:
    if talk.last is None:
        raise InvalidRequest("there is no answer yet")
    print_stats(talk.last, talk.engine, talk.last_seed)


def _model(talk: Controller, rest: str) -> None:
    if rest:
        talk.change_model(rest)
    talk.screen.note(f"{talk.engine.model.name} ({talk.engine.model.path.name})")


def _drafter(talk: Controller, rest: str) -> None:
    if rest:
        talk.change_drafter(rest)
    talk.screen.note(talk.engine.drafter_name)


def _draft(talk: Controller, rest: str) -> None:
    if rest:
        talk.draft(_on("/draft", rest))
    why = "" if talk.engine.drafters else ": there is no drafter; /drafter auto finds one"
    talk.screen.note("drafting where it pays" if talk.drafting else f"decoding plainly{why}")


def _path(rest: str, usage: str) -> Path:
    if not rest:
        raise InvalidRequest(f"usage: {usage}")
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:  # ~somebody
        raise InvalidRequest(f"{rest}: {error}") from error


def _on(what: str, value: str) -> bool:
    if value.strip() not in ("on", "off"):
        raise InvalidRequest(f"{what} {value.strip()!r}: write on or off")
    return value.strip() == "on"


COMMANDS: dict[str, Command] = {
    "/help": Command("", "This list.", _help),
    "/exit": Command("", "Leave. Ctrl-D does, too.", _exit),
    "/clear": Command("", "Begin a new conversation.", _clear),
    "/system": Command("[TEXT]", "Show or set the system prompt; - removes it.", _system),
    "/regen": Command("", "Answer the last message again.", _regen),
    "/undo": Command("", "Leave out the last file that was not sent yet, or take back the last turn.", _undo),
    "/edit": Command("", "Edit the last message and send it again.", _edit),
    "/save": Command("FILE", "Save the conversation to a file.", _save),
    "/load": Command("FILE", "Continue a saved conversation.", _load),
    "/file": Command("PATH", "Add a file's text to the next message.", _file),
    "/set": Command("NAME VALUE", "Change a setting: /set temp 0.7, /set colour on.", _set),
    "/stats": Command("", "Print statistics of the last answer.", _stats),
    "/model": Command("[MODEL]", "Show or change the model.", _model),
    "/drafter": Command("[DRAFTER]", "Show or change the drafter.", _drafter),
    "/draft": Command("[on|off]", "Draft where it pays, or decode plainly.", _draft),
}
ALIASES = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}
TAKES_A_PATH = ("/save", "/load", "/file", "/model", "/drafter")

_SWITCHES = ("colour", "footer")


def _settings() -> dict[str, click.Option | None]:
    """The sampling options of the command line, by name, and the switches of the screen."""

    @click.command()
    @sampling_options
    def carrier(**_: Any) -> None:
        pass

    left_out = {"system", "stop", "logit_bias", "grammar", "json_schema"}
    options = [one for one in carrier.params if isinstance(one, click.Option) and one.name not in left_out]
    named: dict[str, click.Option | None] = {one.opts[-1].removeprefix("--"): one for one in options}
    return {**dict.fromkeys(_SWITCHES), **named}


SETTINGS = _settings()
"""What /set knows."""
