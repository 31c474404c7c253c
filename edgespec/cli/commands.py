"""The commands with their options. What a command does is in the module of its name.

That module is imported only when the command runs, since llama.cpp takes a second to load, or several on a phone: too
long for help, a wrong option, or the shell's completion.
"""

# ruff: noqa: PLC0415 - imports where they are needed, see above
# fmt: off

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgespec.cli.heads import heads
from edgespec.cli.inputs import typed
from edgespec.cli.options import (
    complete_alias,
    force_option,
    gpu_layers_option,
    model_option,
    model_options,
    prefix_cache_option,
    sampling_options,
    stats_option,
    threads_option,
)
from edgespec.system import cpu

_FILE = click.Path(path_type=Path)


def _complete_session(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Completions: names of saved conversations."""
    names = sorted(path.stem for path in (cpu.data_directory() / "sessions").glob("*.json"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command()
@click.argument("words", nargs=-1, callback=typed, metavar="[PROMPT]")
@model_options
@click.option("-p", "--prompt", callback=typed, metavar="TEXT", help="The prompt.")
@click.option("-f", "--file", type=_FILE, metavar="FILE", help="Read the prompt from a file; -: standard input.")
@click.option(
    "--prompts", type=_FILE, metavar="FILE.jsonl",
    help="Answer all prompts of a file in Spec-Bench's form; print one JSON object per turn.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
    help="With --prompts: the most prompts to answer at once, in shared forward passes.",
)
@click.option("--raw", is_flag=True, help="Use the prompt as it is, without the chat template.")
@prefix_cache_option
@sampling_options
@click.option(
    "--logprobs", type=int, metavar="N",
    help="With --json or --prompts: log-probabilities of each token and of the N likeliest.",
)
@stats_option
@click.option("--private", is_flag=True, help="Save nothing of the prompt: no prefix cache.")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of the text.")
def generate(**options: Any) -> None:
    """Answer PROMPT, or a prompt from -p, -f, --prompts or standard input.

    What is piped in goes before the prompt that is typed, as a document goes before a question.
    """
    from edgespec.cli.generate import run

    run(options)


@click.command()
@model_options
@prefix_cache_option
@sampling_options
@stats_option
@click.option(
    "--session", metavar="NAME", shell_complete=_complete_session,
    help="Save the conversation under this name, and continue it next time.",
)
@click.option("--memory", is_flag=True, help="Let n-gram drafters learn from earlier chats.")
@click.option(
    "--learn", is_flag=True,
    help="Keep the answers on this machine, for edgespec heads train --from-use. edgespec heads forget removes them.",
)
@click.option("--private", is_flag=True, help="Save nothing: no history, no memory, no prefix cache.")
@click.pass_context
def chat(ctx: click.Context, /, **options: Any) -> None:
    """Chat with a model. Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists the commands."""
    from edgespec.cli.chat import run

    run(ctx, options)


@click.command()
@model_option
@click.option("--prompts", type=_FILE, metavar="FILE", help="Prompts for the target to answer.")
@click.option(
    "--answers", type=_FILE, metavar="FILE",
    help='Recorded answers: JSON lines with "tokens" or "text", as generate --prompts prints them.',
)
@click.option("--text", type=_FILE, metavar="FILE", help="Plain text to count.")
@click.option("-o", "out", type=_FILE, required=True, metavar="COUNTS.json", help="Output file.")
@force_option
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=512, show_default=True, metavar="N",
    help="Longest answer, in tokens.",
)
@click.option("--raw", is_flag=True, help="Use the prompts as they are, without the chat template.")
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F",
    help="Temperature; 0 always takes the likeliest token.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed.")
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=16, show_default=True, metavar="N",
    help="Number of answers decoded together.",
)
@click.option(
    "--ctx", type=click.IntRange(64), default=2048, show_default=True, metavar="N",
    help="Longest prompt with its answer, in tokens.",
)
@threads_option
@gpu_layers_option
def calibrate(**options: Any) -> None:
    """Count which tokens MODEL, the target, uses. edgespec trim reads the counts.

    Ctrl-C stops; the same command continues.
    """
    from edgespec.cli.calibrate import run

    run(options)


@click.command()
@click.argument("full", metavar="FULL.gguf")
@click.option("-o", "out", type=_FILE, required=True, metavar="OUT.gguf", help="Output file.")
@force_option
@click.option(
    "--counts", type=_FILE, multiple=True, metavar="COUNTS.json",
    help="Counts from edgespec calibrate. Repeatable: counts are added.",
)
@click.option(
    "--kept", type=_FILE, metavar="KEPT.json",
    help="A list of tokens in the order of their use, instead of counts: a file, or a built-in list (qwen2.5).",
)
@click.option("--size", type=int, metavar="K", help="Number of tokens to keep. Multiples of 64 run fastest.")
@click.option("--coverage", type=float, metavar="F", help="Keep as many tokens as make up this share of the counts.")
@click.option(
    "--quantize", type=click.Choice(["q4_0", "q8_0"]),
    help="Quantize all weights to this type first. q4_0 is the fastest for a drafter on most CPUs.",
)
def trim(**options: Any) -> None:
    """Cut a drafter's vocabulary down to the tokens that a target uses.

    The new file is checked against the full model.
    """
    from edgespec.cli.trim import run

    run(options)


@click.command()
@model_options
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of text.")
def doctor(**options: Any) -> None:
    """Measure forward passes of several tokens on this machine, and say whether drafting can pay.

    The results are saved: answers start from them, and the first answer with --exact need not wait for its self-test.
    Run nothing else meanwhile.
    """
    from edgespec.cli.doctor import run

    run(options)


@click.command()
@model_option
@click.option(
    "-d", "--drafter", "drafters", default="auto", show_default=True, metavar="DRAFTER[,DRAFTER...]",
    help="Drafters to compare with plain decoding, separated by commas; NAME:chains drafts no trees.",
)
@click.option(
    "--prompts", type=_FILE, required=True, metavar="FILE",
    help="Prompts in Spec-Bench's form (JSON lines). The first turn of each is answered.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use the first N prompts only.")
@click.option(
    "--per-subtask", type=click.IntRange(1), metavar="N",
    help="Use N prompts of each subtask, evenly spread.",
)
@click.option(
    "-n", "--max-tokens", "count", type=click.IntRange(2), default=96, show_default=True, metavar="N",
    help="Longest answer, in tokens.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, metavar="N",
    help="How often each prompt is answered; more often where answers are short.",
)
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F",
    help="Temperature; 0 always takes the likeliest token.",
)
@click.option(
    "--sampling", type=click.Choice(["temp", "chat"]), default="temp", show_default=True,
    help="Sample by --temp alone, or as a chat does: with what is recommended for the model, and its repetition guard.",
)
@click.option("--seed", type=int, default=7, show_default=True, metavar="N", help="Random seed.")
@click.option(
    "--peer", "peers", multiple=True, metavar="PEER",
    help="Another program to compare with: llama-cpp-python, prompt-lookup[=N]; with --server: llama-server, "
    "ngram-simple, ngram-mod, ngram-cache, draft-simple[:N]=DRAFTER.gguf, or NAME=ARGUMENTS; or "
    "transformers[:DTYPE]=DRAFTER.gguf, on the CPU with float32, bfloat16 or float16 (needs torch, transformers "
    "and gguf). Repeatable; all are loaded at once.",
)
@click.option(
    "--peer-rounds", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Number of rounds that peers take part in.",
)
@click.option(
    "--server", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Path of llama-server. sh tools/build_peers.sh builds one.",
)
@click.option(
    "--ctx", type=click.IntRange(64), default=2048, show_default=True, metavar="N",
    help="Context length in tokens; longer prompts are skipped.",
)
@threads_option
@gpu_layers_option
@click.option(
    "--json", "out", type=_FILE, metavar="OUT.json",
    help="Write all results to this file after each prompt; the same command continues a stopped run.",
)
@click.option("--report", type=_FILE, metavar="OUT.md", help="Write a report to this file, and its plots beside it.")
@click.option("--force", is_flag=True, help="Replace a report and plots that are there already.")
def bench(**options: Any) -> None:
    """Compare drafters with plain decoding and with other programs, side by side.

    Run nothing else meanwhile.
    """
    from edgespec.cli.bench import run

    run(options)


@click.group()
def models() -> None:
    """List, download, find and check models by name.

    Files that other tools downloaded (Hugging Face, llama.cpp, LM Studio, Ollama) are used where they are.
    """


@models.command("list")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON list instead of text.")
def list_(as_object: bool) -> None:
    """List the catalogue, and which models are here."""
    from edgespec.cli.models import show

    show(as_object)


@models.command()
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...", shell_complete=complete_alias)
@click.option("--from", "local", type=_FILE, metavar="FILE", help="Copy the model from this file instead.")
def pull(aliases: tuple[str, ...], local: Path | None) -> None:
    """Download models into the store and check their sha256. An interrupted download continues.

    ALIAS is a name from the catalogue, or an address at Hugging Face: ORG/NAME/FILE.gguf, ORG/NAME:QUANT, or a page's.
    """
    from edgespec.cli.models import pull as run

    run(aliases, local)


@models.command()
@click.argument("alias", shell_complete=complete_alias)
def path(alias: str) -> None:
    """Print the path of a model's file."""
    from edgespec.cli.models import locate

    locate(alias)


@models.command()
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...", shell_complete=complete_alias)
def verify(aliases: tuple[str, ...]) -> None:
    """Check the sha256 of all models that are here, or of those named."""
    from edgespec.cli.models import verify as run

    run(aliases)


@models.command()
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...", shell_complete=complete_alias)
def rm(aliases: tuple[str, ...]) -> None:
    """Remove models from edgespec's own store. Files that other tools downloaded stay."""
    from edgespec.cli.models import remove

    remove(aliases)


@click.group()
def cache() -> None:
    """List or clear what is stored to save time: what was read of prompts, and what was measured of models."""


@cache.command("list")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of text.")
def list_cache(as_object: bool) -> None:
    """List the stored prefixes of prompts, the one used last first, and count the profiles."""
    from edgespec.cli.cache import show

    show(as_object)


@cache.command("clear")
@click.argument("kinds", nargs=-1, type=click.Choice(["prefixes", "profiles"]), metavar="[prefixes|profiles]...")
def clear_cache(kinds: tuple[str, ...]) -> None:
    """Remove the prefixes of prompts (by default), or the profiles, which are then measured again."""
    from edgespec.cli.cache import clear

    clear(kinds or ("prefixes",))


COMMANDS = (generate, chat, calibrate, trim, heads, doctor, bench, models, cache)
"""All commands, in the order of the help."""
