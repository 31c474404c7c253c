"""What can be typed: every command with its options. What it does is in the module of its name.

That is imported when a command runs, and not before, since llama.cpp and what goes with it take a second to load, or
several on a phone: too long for help, a wrong option, or the shell's completion.
"""

# ruff: noqa: PLC0415 - imports where they are needed, see above
# fmt: off

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgespec.cli.options import (
    complete_alias,
    gpu_layers_option,
    model_option,
    model_options,
    sampling_options,
    stats_option,
    threads_option,
)
from edgespec.system import cpu as machine

_FILE = click.Path(path_type=Path)


def _complete_session(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Conversations that are kept."""
    kept = sorted(path.stem for path in (machine.data_directory() / "sessions").glob("*.json"))
    return [CompletionItem(name) for name in kept if name.startswith(begun)]


@click.command()
@model_options
@click.option("-p", "--prompt", metavar="TEXT", help="The prompt.")
@click.option("-f", "--file", type=_FILE, metavar="FILE", help="Read the prompt from a file.")
@click.option(
    "--prompts", type=_FILE, metavar="FILE.jsonl",
    help="Answer many prompts (Spec-Bench's form), one JSON object a turn.",
)
@click.option("--raw", is_flag=True, help="Feed the prompt as it is, without the chat template.")
@sampling_options
@click.option("--logprobs", type=int, metavar="N", help="Log-probabilities with N alternatives, in --json.")
@stats_option
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of the text.")
def generate(**options: Any) -> None:
    """Answer a prompt: from -p, -f, --prompts, or standard input."""
    from edgespec.cli.generate import run

    run(options)


@click.command()
@model_options
@sampling_options
@stats_option
@click.option(
    "--session", metavar="NAME", shell_complete=_complete_session,
    help="Keep the conversation under this name, and go on with it next time.",
)
@click.option("--memory", is_flag=True, help="Let n-gram drafters remember what was said in earlier chats.")
@click.option("--private", is_flag=True, help="Keep nothing of what is said: no history of lines, no memory.")
@click.pass_context
def chat(ctx: click.Context, /, **options: Any) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists the commands."""
    from edgespec.cli.chat import run

    run(ctx, options)


@click.command()
@model_option
@click.option("--prompts", type=_FILE, metavar="FILE", help="Prompts for the target to answer.")
@click.option(
    "--answers", type=_FILE, metavar="FILE",
    help='JSON lines with "tokens" or "text", as generate --prompts prints them.',
)
@click.option("--text", type=_FILE, metavar="FILE", help="Plain text.")
@click.option("-o", "out", type=_FILE, required=True, metavar="COUNTS.json", help="Where to write the counts.")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=512, show_default=True, metavar="N",
    help="The longest answer.",
)
@click.option("--raw", is_flag=True, help="Feed the prompts as they are, without the chat template.")
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F", help="Temperature; 0 is greedy."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the draw.")
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=16, show_default=True, metavar="N", help="Answers made at once."
)
@click.option(
    "--ctx", type=click.IntRange(64), default=2048, show_default=True, metavar="N",
    help="Tokens of one prompt and its answer.",
)
@threads_option
@gpu_layers_option
def calibrate(**options: Any) -> None:
    """Count the tokens that MODEL, the target, uses, for edgespec trim.

    Ctrl-C stops; the same command goes on where it stopped.
    """
    from edgespec.cli.calibrate import run

    run(options)


@click.command()
@click.argument("full", metavar="FULL.gguf")
@click.option("-o", "out", type=_FILE, required=True, metavar="OUT.gguf", help="The new file.")
@click.option(
    "--counts", type=_FILE, multiple=True, metavar="COUNTS.json",
    help="What edgespec calibrate counted. Repeatable: the counts are added up.",
)
@click.option(
    "--kept", type=_FILE, metavar="KEPT.json",
    help="A list of tokens in the order of their worth instead: a file, or one that ships (qwen2.5).",
)
@click.option("--size", type=int, metavar="K", help="Keep K tokens. Multiples of 64 run fastest.")
@click.option("--coverage", type=float, metavar="F", help="Keep as many as make up this share of the counted ones.")
@click.option(
    "--quantize", type=click.Choice(["q4_0", "q8_0"]),
    help="Bring all weights to this type first. With q4_0 a drafter is fastest on most CPUs.",
)
def trim(**options: Any) -> None:
    """Keep only the vocabulary rows that a target really uses. The new file is proved against the full model."""
    from edgespec.cli.trim import run

    run(options)


@click.command()
@model_options
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead.")
def doctor(**options: Any) -> None:
    """Measure what evaluations of several tokens cost here, and say whether speculation can pay.

    What is measured is remembered, so that answers start from it, and the first answer with --exact need not wait until
    it is known what is exact here. Let nothing else run meanwhile.
    """
    from edgespec.cli.doctor import run

    run(options)


@click.command()
@model_option
@click.option(
    "-d", "--drafter", "drafters", default="auto", show_default=True, metavar="DRAFTER[,DRAFTER...]",
    help="What to compare with plain decoding: as for generate, several separated by commas.",
)
@click.option(
    "--prompts", type=_FILE, required=True, metavar="FILE",
    help="JSON lines in Spec-Bench's form. The first turn of each is answered.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N prompts only.")
@click.option("--per-subtask", type=click.IntRange(1), metavar="N", help="N prompts of each subtask, evenly spread.")
@click.option(
    "-n", "--max-tokens", "count", type=click.IntRange(2), default=96, show_default=True, metavar="N",
    help="The longest answer.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, metavar="N",
    help="Answers to each prompt; more where they are short.",
)
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F", help="Temperature; 0 is greedy."
)
@click.option("--seed", type=int, default=7, show_default=True, metavar="N", help="Seed of the draw.")
@click.option(
    "--peer", "peers", multiple=True, metavar="PEER",
    help="Another program: llama-cpp-python, prompt-lookup[=N], or of a llama-server: llama-server, ngram-simple, "
    "ngram-mod, ngram-cache, draft-simple[:N]=DRAFTER.gguf, or NAME=ARGUMENTS; or "
    "transformers[:DTYPE]=DRAFTER.gguf, on the CPU with float32, bfloat16 or float16 (needs torch, transformers "
    "and gguf). Repeatable; all are loaded at once.",
)
@click.option(
    "--peer-rounds", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="How many of the rounds the peers take part in.",
)
@click.option(
    "--server", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="The llama-server. sh tools/build_peers.sh builds one.",
)
@click.option(
    "--ctx", type=click.IntRange(64), default=2048, show_default=True, metavar="N",
    help="Context in tokens; longer prompts are left out.",
)
@threads_option
@gpu_layers_option
@click.option(
    "--json", "out", type=_FILE, metavar="OUT.json",
    help="Write all figures there after each prompt; the same command goes on where it was stopped.",
)
@click.option("--report", type=_FILE, metavar="OUT.md", help="Write a report there, and its plots beside it.")
def bench(**options: Any) -> None:
    """Measure drafters against plain decoding, side by side, and against other programs.

    Let nothing else run meanwhile.
    """
    from edgespec.cli.bench import run

    run(options)


@click.group()
def models() -> None:
    """Models by name: list them, get them, find and check their files.

    Those that other tools have downloaded (Hugging Face, llama.cpp, LM Studio, Ollama) are used where they lie.
    """


@models.command("list")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON list instead.")
def list_(as_object: bool) -> None:
    """The catalogue, and what of it is here."""
    from edgespec.cli.models import show

    show(as_object)


@models.command()
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...", shell_complete=complete_alias)
@click.option("--from", "local", type=_FILE, metavar="FILE", help="Copy it from this file instead.")
def pull(aliases: tuple[str, ...], local: Path | None) -> None:
    """Download models into the store, checked by their sha256. What was interrupted goes on where it stopped.

    ALIAS is a name of the catalogue, or ORGANISATION/NAME/FILE.gguf at Hugging Face, as wherever a model is named.
    """
    from edgespec.cli.models import pull as run

    run(aliases, local)


@models.command()
@click.argument("alias", shell_complete=complete_alias)
def path(alias: str) -> None:
    """Print where the model's file is."""
    from edgespec.cli.models import locate

    locate(alias)


@models.command()
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...", shell_complete=complete_alias)
def verify(aliases: tuple[str, ...]) -> None:
    """Take the sha256 of every model that is here, or of those named, and compare."""
    from edgespec.cli.models import verify as run

    run(aliases)


@models.command()
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...", shell_complete=complete_alias)
def rm(aliases: tuple[str, ...]) -> None:
    """Remove models from edgespec's own store. What other tools downloaded stays."""
    from edgespec.cli.models import remove

    remove(aliases)


COMMANDS = (generate, chat, calibrate, trim, doctor, bench, models)
"""In the order of the help."""
