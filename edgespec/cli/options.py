"""The options that several commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from glob import escape, glob
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from edgespec.cli.inputs import typed, typed_with_escapes
from edgespec.hub.catalogue import entries

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SHARED: set[str] = set()
"""Names of the shared options; the environment and the configuration file may set them."""


class Shared(click.Option):
    """An option with the same meaning in each command. The --temp of bench is none: no configuration may change it."""


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """A shared option, which EDGESPEC_NAME sets too, unless it is repeatable."""
    name = names[-1].removeprefix("--").partition("/")[0]  # of --on/--off it is the first
    SHARED.add(name)
    variable = None if attributes.get("multiple") else f"EDGESPEC_{name.upper().replace('-', '_')}"
    return click.option(*names, cls=Shared, envvar=variable, **attributes)


def complete_alias(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completions: aliases of models."""
    return [CompletionItem(alias) for alias in entries() if alias.startswith(incomplete)]


def _complete_model(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completions: files, and aliases of models."""
    return _file_and_name_completions(incomplete, entries())


def _complete_drafter(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Completions: files, aliases and n-gram drafters, of the last part after a +."""
    from edgespec.drafters import KNOWN  # noqa: PLC0415 - with numpy

    head, plus, last = incomplete.rpartition("+")
    return _file_and_name_completions(last, [*([] if plus else ["auto", "none"]), *KNOWN, *entries()], head + plus)


def _file_and_name_completions(incomplete: str, names: Iterable[str], head: str = "") -> list[CompletionItem[str]]:
    """Completions after `head`: files that the shell finds, and names. bash finds no files where a name matches."""
    matches = [name for name in names if name.startswith(incomplete)]
    if matches or head:
        matches += glob(f"{escape(incomplete)}*.gguf")  # noqa: PTH207 - Path has no glob from the root
    # The request for files comes first: bash forgets the completions before it.
    return [CompletionItem(head + incomplete, type="file"), *(CompletionItem(head + name) for name in matches)]


def _complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Completions: files, which the shell finds."""
    return [CompletionItem(incomplete, type="file")]


model_option = _option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=_complete_model,
    help="Model: a .gguf file or an alias. Default: smollm2-135m.",
)
threads_option = _option(
    "--threads", type=int, metavar="N", help="CPU threads. Default: the number of fast physical cores."
)
gpu_layers_option = _option(
    "--gpu-layers", type=int, default=-1, metavar="N", help="Layers to run on the GPU. Default: as many as possible."
)

force_option = click.option("--force", is_flag=True, help="Replace what is there already under the name of the output.")

stats_option = _option(
    "--stats",
    is_flag=False,
    flag_value="short",
    type=click.Choice(["short", "full"]),
    help="Print statistics to stderr. --stats=full: a JSON line for every block too, with the reasons for its draft.",
)

prefix_cache_option = _option(
    "--prefix-cache",
    type=click.FloatRange(0),
    metavar="GB",
    help="Disk space for what was read of long prompts, which need not be read again; 0: off. Default: a tenth of the "
    "free space, at most 4.",
)

_MODEL_OPTIONS = (
    model_option,
    _option("-d", "--drafter", default="auto", show_default=True, metavar="DRAFTER", shell_complete=_complete_drafter,
                 help="Drafter: auto, none, anpd, suffix, recycle, aded, a drafter model or heads (.gguf or alias), or "
                 "several joined by +."),
    _option("--ctx", type=int, metavar="N", help="Context length in tokens. Default: the model's, at most 8192."),
    threads_option,
    gpu_layers_option,
    _option("--exact", is_flag=True,
                 help="Draft only what can be checked bit for bit: the text of --exact -d none, even at near-ties."),
)  # fmt: skip

_SAMPLING_OPTIONS = (
    _option("-n", "--max-tokens", type=int, default=512, show_default=True, metavar="N",
                 help="Longest answer, in tokens."),
    _option("--seed", type=int, metavar="N", help="Random seed. Default: a new one, which --stats and --json report."),
    _option("--system", callback=typed, metavar="TEXT", help="System prompt."),
    _option("--think/--no-think", default=None,
                 help="Let the model think first, or not, where its chat template offers that (enable_thinking)."),
    _option("--template-var", multiple=True, callback=typed, metavar="NAME=JSON",
                 help="Set a variable of the chat template: date_string='\"1 May 2026\"'. Repeatable."),
    _option("--stop", multiple=True, callback=typed_with_escapes, metavar="TEXT",
                 help=r"Stop before this text, in which \n, \t and \\ stand for a newline, a tab and a backslash. "
                 "Repeatable."),
    _option("--temp", type=float, metavar="F",
                 help="Temperature; 0 always takes the likeliest token. Default: 0; in a chat, the model's own."),
    _option("--top-k", type=int, metavar="N", help="Sample from the N likeliest tokens; 0: off."),
    _option("--top-p", type=float, metavar="F",
                 help="Sample from the likeliest tokens of this total probability; 1: off."),
    _option("--min-p", type=float, metavar="F",
                 help="Drop tokens less likely than F times the likeliest; 0: off."),
    _option("--typical", type=float, metavar="F",
                 help="Sample from typical tokens of this total probability; 1: off."),
    _option("--repeat-penalty", type=float, metavar="F",
                 help="Penalize tokens that occurred by this factor; 1: off."),
    _option("--repeat-last-n", type=int, metavar="N",
                 help="How many of the last tokens penalties look at; -1: all. Default: 64."),
    _option("--presence-penalty", type=float, metavar="F",
                 help="Subtract this from the logit of each token that occurred; 0: off."),
    _option("--frequency-penalty", type=float, metavar="F",
                 help="Subtract this once for each time a token occurred; 0: off."),
    _option("--dry-multiplier", type=float, metavar="F",
                 help="Strength of the DRY penalty on repeated sequences; 0: off."),
    _option("--dry-base", type=float, metavar="F",
                 help="How fast the DRY penalty grows with the length of the repeat. Default: 1.75."),
    _option("--dry-allowed-length", type=int, metavar="N",
                 help="Longest repeat that DRY does not penalize, in tokens. Default: 2."),
    _option("--acceptance", type=click.Choice(["lossless", "typical"]), metavar="RULE",
                 help="Which draft tokens are accepted. typical: also those that are likely enough. That is lossy: "
                 "the text is no longer the model's own. Default: lossless."),
    _option("--logit-bias", multiple=True, metavar="ID=F", help="Add F to a token's logit. Repeatable."),
    _option("--grammar", metavar="FILE", shell_complete=_complete_file,
                 help="Constrain the answer by a GBNF grammar: a file, - for standard input, or the grammar itself."),
    _option("--json-schema", metavar="FILE", shell_complete=_complete_file,
                 help="Constrain the answer by a JSON schema: a file, - for standard input, or the schema itself."),
    _option("--context-shift", is_flag=True,
                 help="When the context is full, drop its oldest tokens, but not the system prompt, and continue."),
)  # fmt: skip


def _decorate(options: tuple[Callable[[Any], Any], ...], command: Decorated) -> Decorated:
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def model_options(command: Decorated) -> Decorated:
    """Add the options that `open_engine` takes."""
    return _decorate(_MODEL_OPTIONS, command)


def sampling_options(command: Decorated) -> Decorated:
    """Add the options of an answer, which `sampling_of` takes among others."""
    return _decorate(_SAMPLING_OPTIONS, command)
