"""Writes docs/cli.md from the program itself; a test holds the two together.

python tools/cli_docs.py
"""

from __future__ import annotations

from pathlib import Path

import click

from edgespec.cli import main
from edgespec.cli.chat.commands import ALIASES, CHAT_COMMANDS, SETTINGS

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

HEAD = """# Command line

This page is written by `python tools/cli_docs.py` from what the program says of itself.

Exit status: 0 done, 1 an error that a line on stderr explains, 2 wrong usage, 130 ended by Ctrl-C.

Options that several commands share can be set in the environment: `EDGESPEC_MODEL`, `EDGESPEC_DRAFTER`, `EDGESPEC_TEMP`
and so on, by the name of the option; but not `--stop`, `--logit-bias` and `--template-var`, which may be repeated, nor
`--json`, `--raw` and `--prompts`, nor what only one command has, like `--session`. A file `config.toml` in the user's
configuration folder (`~/.config/edgespec/config.toml` on Linux; `edgespec --config FILE COMMAND` or `EDGESPEC_CONFIG`
names another) sets them too, and in a command's table what belongs to that command. How `bench` and `calibrate` answer
(`--temp`, `--seed`, `--max-tokens`, `--ctx`, and the drafters of `bench`) is theirs alone: only their tables set it.

```toml
model = "~/models/small.gguf"
temp = 0.7

[chat]
max-tokens = 2048
```

Values have the types of their options, and an option that may be repeated takes one value or a list: `stop = "END"`.
The command line comes first, then the environment, then the file. Your shell completes commands and options after

```sh
eval "$(_EDGESPEC_COMPLETE=bash_source edgespec)"           # bash; for zsh it is zsh_source
_EDGESPEC_COMPLETE=fish_source edgespec | source            # fish
```

Files of prompts are JSON lines in the form of [Spec-Bench](https://github.com/hemingkx/Spec-Bench), of which only
`turns` is needed, a user's messages one after the other:

```json
{"question_id": 1, "category": "writing", "turns": ["Write a haiku.", "Now one about rain."]}
```
"""

PROMPTS = r"""The prompt is typed (`edgespec generate Why does it rain`, `-p TEXT`), in a file (`-f FILE`), or piped
in. What is piped in goes before the prompt that is typed or in a file, with a blank line between:

```sh
cat letter.txt | edgespec generate -p "Answer this letter politely."
while read -r line; do edgespec generate -p "$line" </dev/null; done <questions.txt
```

Standard input is then read to its end if it is a pipe or a file: in a loop over lines, `</dev/null` leaves them to the
loop. `--prompts` does not read it. One line end is left out at the end of what is piped in, and of a file. `--raw`
changes nothing in the texts, and joins them as they are.

`-f`, `--prompts`, `--grammar` and `--json-schema` take `-` for standard input, one of them at a time. A grammar or a
schema can also be typed: `--json-schema '{"type": "boolean"}'`, `--grammar 'root ::= "yes" | "no"'`. All texts are
UTF-8, with or without a byte order mark; typed ones too, whatever the locale. In `--stop`, `\n`, `\r`, `\t` and `\\`
stand for a newline, a carriage return, a tab and a backslash; any other backslash stays.

In messages, files and system prompts the text of a control token, `<|im_end|>` say, is text like any other: only the
chat template begins and ends turns. With `--raw` there is no template, and what you write as control tokens are ones.
A stop string may be one: `--stop "<|im_start|>"`. User-defined tokens of a vocabulary are recognised in any text, but
for those that the template marks turns with.

`--parallel N` answers up to N conversations of `--prompts` at once, in shared forward passes: fewer where fewer are
faster, or where memory is short for their KV cache. That is beside the engine's own, and holds the N longest prompts
with their `--max-tokens`. What conversations have in common at the beginning is read once, and `--prefix-cache` is left
alone. Objects are printed in the order of the file. A text is the one without `--parallel`, but for rounding, which
decides where two tokens are nearly as likely, and with sampling where the draw falls between two: see
[exactness](exactness.md#several-answers-at-once). With `--exact` the answers come one after the other. An error ends
its own conversation only, and a line that is no prompt is told and left out. The first Ctrl-C prints what was answered
by then.

With `--logprobs`, `completion_probabilities` has an entry for each token, as llama-server has it: `id`, `token` (its
text), `bytes`, `logprob`, and the likeliest tokens in the same form in `top_logprobs`. `logprobs` has the ids alone.
"""

TYPING = """`\"\"\"` begins and ends a message of several lines,
Alt-Enter makes a new line, Tab completes commands, settings and paths, and what is pasted is one message. Ctrl-C
stops an answer, Ctrl-D leaves. A line like `/tmp is full, what now?` is a message; quotes around one say any line to
the model. A path may be typed as in a shell, with quotes or backslashes, or be a `file://` address, as terminals paste
what is dropped on them.

How a chat samples: as you set it; else as the file says (GGUF's `general.sampling.*`); else as the catalogue has
it, mostly by the publisher's recommendation; else with temperature 0.7 and min-p 0.05. A repetition guard (DRY on the
answer alone) applies beside, unless a repetition penalty is set. `--temp 0` decodes greedily. The first lines of a chat
say what is in force. [More](chat-defaults.md)"""

KEPT = """What you type is kept for the next chat in the user's data folder (`~/.local/share/edgespec` on Linux), in
`history`; a conversation under a name in `sessions/NAME.json`, and its KV cache in `sessions/NAME.kv`; what `--memory`
learned in `memory/`. Only you can read it, and what you delete there is forgotten. `--private` keeps nothing.
What was read of long prompts is stored too: see `edgespec cache`.
"""


CACHE = """Reading a long prompt can take longer than the answer. So `generate` and `chat` store what a model
made of a prompt (its KV cache) in the user's cache folder (`~/.cache/edgespec/prefixes` on Linux), after the answer. A
later prompt that begins alike, a file with another question, say, starts from there: `cached_tokens` in `--json` counts
what was not read again. Only what takes longer to read than to load is stored. It is used by the same model with the
same build and settings; with `--exact`, the text is the same to the bit.

These files hold what was said, and only you can read them. `--private` neither writes nor uses them; `prefix-cache = 0`
in the configuration file turns them off for good, and another number is the most that they take, in GB. What was used
longest ago goes first. `edgespec cache clear` removes all of them.
"""


def page() -> str:
    """The whole page."""
    context = click.Context(main, info_name="edgespec", **main.context_settings)
    return "\n".join([HEAD, *_sections(main, context)])


def _sections(command: click.Command, context: click.Context) -> list[str]:
    """A command's help, then that of its own commands."""
    context.max_content_width = context.terminal_width = 100
    sections = [f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"]
    if command.name == "generate":
        sections.append(PROMPTS)
    if command.name == "chat":
        sections.append(_chat_commands())
    if command.name == "cache":
        sections.append(CACHE)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            sections += _sections(below, click.Context(below, info_name=name, parent=context))
    return sections


def _chat_commands() -> str:
    """What can be typed in a chat."""
    lines = [
        f"| `{f'{name} {command.arguments}'.strip()}` | {command.help} |" for name, command in CHAT_COMMANDS.items()
    ]
    settings = ", ".join(f"`{name}`" for name in SETTINGS)
    return "\n".join(
        [
            "In a chat:\n", "| | |", "|---|---|", *(line.replace("on|off", "on\\|off") for line in lines), "",
            f"{', '.join(f'`{short}` is `{name}`' for short, name in ALIASES.items())}. {TYPING}\n",
            f"`/set` knows {settings}.\n", KEPT,
        ]
    )  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
