"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from edgespec.cli.chat.keeping import read_chat, write_chat
from edgespec.cli.options import sampling_options
from edgespec.cli.report import print_stats
from edgespec.errors import InvalidRequest
from edgespec.jsonl import read_text

if TYPE_CHECKING:
    from edgespec.cli.chat.talk import Talk


class Leave(Exception):
    """The person wants to go."""


class Command(NamedTuple):
    """`arguments`: as the help shows them."""

    arguments: str
    help: str
    run: Callable[[Talk, str], None]


def run_command(talk: Talk, line: str) -> None:
    """Do what a line says. Raises EdgespecError, Leave."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        near = get_close_matches(name, COMMANDS, 1)
        raise InvalidRequest(f"no command {name}: " + (f"did you mean {near[0]}?" if near else "see /help"))
    command.run(talk, rest.strip())


def _help(talk: Talk, rest: str) -> None:
    width = max(len(f"{name} {command.arguments}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        click.echo(f"{f'{name} {command.arguments}':{width}}  {command.help}")
    click.echo('\n""" begins and ends a message of several lines; Alt-Enter makes a new line. Ctrl-C stops an answer.')
    click.echo(f"/set knows: {', '.join(SETTINGS)}")


def _exit(talk: Talk, rest: str) -> None:
    raise Leave


def _clear(talk: Talk, rest: str) -> None:
    talk.chat.clear()
    talk.last = None
    talk.screen.note("the conversation is empty")


def _system(talk: Talk, rest: str) -> None:
    if rest:
        talk.chat.system = rest
        talk.screen.note("from the next message on")
    else:
        talk.screen.note(talk.chat.system or "there is no system prompt; /system TEXT sets one")


def _taken_back(talk: Talk) -> str:
    text = talk.chat.undo()
    if text is None:
        raise InvalidRequest("nothing was said yet")
    return text


def _undo(talk: Talk, rest: str) -> None:
    text = _taken_back(talk)
    talk.screen.note(f"taken back: {text if len(text) <= 60 else text[:59] + '…'}")


def _regen(talk: Talk, rest: str) -> None:
    text = _taken_back(talk)
    if talk.sampling.temperature > 0.0:
        talk.set_sampling("seed", talk.sampling.seed + 1)  # with the same one it would be the same answer
    talk.say(text)


def _edit(talk: Talk, rest: str) -> None:
    if talk.lines is None or not talk.lines.interactive:
        raise InvalidRequest("/edit needs a terminal to edit in; /undo takes the last message back")
    text = talk.lines.next(_taken_back(talk))
    if text is not None:
        talk.say(text)


def _save(talk: Talk, rest: str) -> None:
    path = _path(rest, "/save FILE.json")
    write_chat(path, talk.chat, talk.engine)
    talk.screen.note(f"saved: {path}")


def _load(talk: Talk, rest: str) -> None:
    path = _path(rest, "/load FILE.json")
    same = read_chat(path, talk.chat, talk.engine)
    talk.last = None
    turns = sum(message["role"] == "user" for message in talk.chat.messages)
    talk.screen.note(f"{turns} turns" + ("" if same else ", of another model: their text is read again"))


def _file(talk: Talk, rest: str) -> None:
    path = _path(rest, "/file PATH")
    text = read_text(path)
    talk.attached.append(f"{path.name}:\n```\n{text.rstrip()}\n```")
    count = len(talk.engine.model.vocabulary.tokenize(text))
    talk.screen.note(f"{path.name}, {count} tokens, goes before the next message")


def _set(talk: Talk, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if name not in SETTINGS:
        near = get_close_matches(name, SETTINGS, 1)
        wrong = f"there is no setting {name!r}" + (f": did you mean {near[0]}?" if near else "")
        raise InvalidRequest(f"{wrong if name else 'which one?'} /set knows {', '.join(SETTINGS)}")
    if name in _SWITCHES:
        setattr(talk.screen, name, _on(name, value))
    else:
        option = SETTINGS[name]
        assert option is not None
        try:
            found = option.type_cast_value(click.Context(click.Command("set")), value.strip() or None)
        except click.BadParameter as error:
            raise InvalidRequest(f"{name} {value!r}: {error.message}") from error
        if found is None:
            raise InvalidRequest(f"/set {name} needs a value")
        if option.name == "max_tokens":
            if found < 1:
                raise InvalidRequest(f"{found} tokens to answer with: it must be at least 1")
            talk.options["max_tokens"] = found
        else:
            talk.set_sampling(str(option.name), found)
    talk.screen.note(f"{name} {value.strip()}")


def _stats(talk: Talk, rest: str) -> None:
    if talk.last is None:
        raise InvalidRequest("there is no answer yet")
    print_stats(talk.last, talk.engine, talk.sampling.seed)


def _model(talk: Talk, rest: str) -> None:
    if rest:
        talk.reopen(model=rest)
    talk.screen.note(f"{talk.engine.model.name} ({talk.engine.model.path.name})")


def _drafter(talk: Talk, rest: str) -> None:
    if rest:
        talk.reopen(drafter=rest)
    talk.screen.note(talk.engine.drafter_name)


def _draft(talk: Talk, rest: str) -> None:
    if rest:
        talk.draft(_on("/draft", rest))
    talk.screen.note("drafting where it pays" if talk.drafting else "decoding plainly")


def _path(rest: str, usage: str) -> Path:
    if not rest:
        raise InvalidRequest(f"write {usage}")
    return Path(rest).expanduser()


def _on(what: str, value: str) -> bool:
    if value.strip() not in ("on", "off"):
        raise InvalidRequest(f"{what} {value.strip()!r}: write on or off")
    return value.strip() == "on"


COMMANDS: dict[str, Command] = {
    "/help": Command("", "This list.", _help),
    "/exit": Command("", "Leave (Ctrl-D too).", _exit),
    "/clear": Command("", "Forget the conversation.", _clear),
    "/system": Command("[TEXT]", "Show or set the system prompt.", _system),
    "/regen": Command("", "Answer the last message again.", _regen),
    "/undo": Command("", "Take the last message and its answer back.", _undo),
    "/edit": Command("", "Change the last message and say it again.", _edit),
    "/save": Command("FILE", "Write the conversation to a file.", _save),
    "/load": Command("FILE", "Go on with one that was saved.", _load),
    "/file": Command("PATH", "Put a file's text before the next message.", _file),
    "/set": Command("NAME VALUE", "Change a setting: /set temp 0.7, /set colour on.", _set),
    "/stats": Command("", "How the last answer was made.", _stats),
    "/model": Command("[MODEL]", "Show the model, or go on with another one.", _model),
    "/drafter": Command("[DRAFTER]", "Show the drafter, or go on with another one.", _drafter),
    "/draft": Command("[on|off]", "Draft where it pays, or decode plainly.", _draft),
}
_ALIASES = {"/quit": "/exit", "/bye": "/exit", "/?": "/help"}
TAKES_A_PATH = ("/save", "/load", "/file", "/model")

_SWITCHES = ("colour", "footer")


def _settings() -> dict[str, click.Option | None]:
    """The sampling options of the command line, by name, and the switches of the screen."""

    @click.command()
    @sampling_options
    def carrier(**_: Any) -> None:
        pass

    left_out = {"system", "stop", "logit_bias", "grammar", "json_schema", "context_shift"}
    options = [one for one in carrier.params if isinstance(one, click.Option) and one.name not in left_out]
    named: dict[str, click.Option | None] = {one.opts[-1].removeprefix("--"): one for one in options}
    return {**dict.fromkeys(_SWITCHES), **named}


SETTINGS = _settings()
"""What /set knows."""
