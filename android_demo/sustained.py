"""Sustained speed: edgespec with drafting and plain, in turns, for ten minutes, with what the phone says of its heat.

    .venv/bin/python android_demo/sustained.py [-m MODEL] [--minutes 10] [--json sustained.json]

One prompt after another is answered twice at once, block by block in turns, so that heat falls on both alike. The
result is written after every line, since Android may end any program at any time. Temperature and battery come from
Termux:API where that is installed, clocks from /sys where they may be read; without them the figures are left out.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgespec import EdgespecError, Engine, SamplingParams
from edgespec.bench.contestants import PLAIN, Contestants, contestant_name
from edgespec.bench.measurements import Answer
from edgespec.bench.results import origin, write
from edgespec.engine.engine import conversation
from edgespec.errors import UnsupportedModel
from edgespec.system.cpu import fast_cpus
from edgespec.system.files import check_writable

WHAT = "sustained speed"

PROMPTS = (
    # Text that repeats what was said before: here drafting has something to copy.
    """Rename the variable n to count in this code and print all of it again:

def spread(values):
    n = len(values)
    if n == 0:
        return 0.0
    mean = sum(values) / n
    return sum((value - mean) ** 2 for value in values) / n
""",
    "Explain in simple words why the sky is blue during the day and red in the evening.",
    """Turn each line into JSON with the keys "name", "colour" and "price", one object per line:
pear green 1.20
plum blue 0.80
apple red 0.95
lemon yellow 0.60
cherry red 4.50
""",
    "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
    "Repeat this sentence ten times, each time on a line of its own: The kettle is on the stove and the tea is hot.",
    "What should be considered when choosing a bicycle for long tours? Give your reasons.",
)

_CPUS = Path("/sys/devices/system/cpu")
_PATIENCE = 5.0
"""Seconds for an answer of Termux:API, which waits for ever where only half of it is installed."""


@dataclass(frozen=True, slots=True)
class Made:
    """One prompt's answers: when they were finished, and by contestant the tokens after the first and their seconds."""

    at: float
    prompt: int
    tokens: Mapping[str, int]
    seconds: Mapping[str, float]


def speed(made: Sequence[Made], name: str) -> float | None:
    """Tokens per second of a contestant."""
    seconds = sum(one.seconds[name] for one in made)
    return sum(one.tokens[name] for one in made) / seconds if seconds > 0 else None


class Battery:
    """What `termux-battery-status` says; nothing from the first time on that it does not answer."""

    def __init__(self) -> None:
        self._command = shutil.which("termux-battery-status")

    def status(self) -> dict[str, Any]:
        if self._command is None:
            return {}
        try:
            done = subprocess.run([self._command], capture_output=True, timeout=_PATIENCE, check=True)
            told = json.loads(done.stdout)
            return {
                "temperature_c": float(told["temperature"]),
                "battery_percent": told.get("percentage"),
                "battery_status": told.get("status"),
            }
        except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError):
            self._command = None
            return {}


def clock_mhz(cpus: Sequence[int]) -> float | None:
    """The mean clock of these CPUs now, as far as it may be read."""
    clocks = []
    for cpu in cpus:
        try:
            clocks.append(int((_CPUS / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq").read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return sum(clocks) / len(clocks) if clocks else None


def phone() -> dict[str, str]:
    """Which phone this is, by Android's own properties; nothing elsewhere."""
    command = shutil.which("getprop")
    found = {}
    for name in ("ro.product.manufacturer", "ro.product.model", "ro.soc.model", "ro.build.version.release"):
        if command is not None:
            try:
                found[name] = subprocess.run(
                    [command, name], capture_output=True, text=True, timeout=_PATIENCE, check=True
                ).stdout.strip()
            except (OSError, subprocess.SubprocessError):
                continue
    return found


def tokens_of(engine: Engine, prompt: str) -> list[int]:
    """The prompt as the model's chat template renders it, or as it is where there is none."""
    try:
        return engine.tokenize(engine.model.render(conversation(prompt, None)))
    except UnsupportedModel:
        return engine.tokenize(prompt)


def answers(
    field: Contestants, seconds: float, count: int, n_ctx: int
) -> Iterator[tuple[float, int, dict[str, Answer]]]:
    """Answers to one prompt after another, until that is over: the time since it began, the prompt, the answers."""
    begun = time.monotonic()
    prompts = [tokens for tokens in (tokens_of(field.first, prompt) for prompt in PROMPTS) if len(tokens) < n_ctx // 2]
    if not prompts:
        raise click.UsageError(f"--ctx {n_ctx}: too little for any of the prompts")
    sampling = SamplingParams(temperature=0.7, seed=1)  # the same texts in each round; small models loop without a draw
    for number, tokens in itertools.cycle(enumerate(prompts)):
        found = field.answer(tokens, min(count, n_ctx - len(tokens)), sampling)
        at = time.monotonic() - begun
        yield at, number, found
        if at >= seconds:
            return


def sample(engine: Engine, made: Sequence[Made], names: Sequence[str], battery: Battery) -> dict[str, Any]:
    """A line of the table: what was made since the last one, and how the machine is."""
    cost = engine.latency
    return {
        "minute": round(made[-1].at / 60, 2),
        "tokens_per_second": {name: speed(made, name) for name in names},
        "t1_ms": 1e3 * cost.t1 if cost.known else None,
        "t4_of_t1": cost.ratio(4),
        "clock_mhz": clock_mhz(fast_cpus()),
        **battery.status(),
    }


def slowdown(made: Sequence[Made], names: Sequence[str]) -> dict[str, Any]:
    """The speed at the end compared with that at the beginning: each prompt's last answers with its first ones.

    Prompts that were answered once do not count; of different ones, some leave more to draft than others.
    """
    last = {one.prompt: one for one in made}
    first = {one.prompt: one for one in reversed(made)}
    again = [prompt for prompt in first if first[prompt] is not last[prompt]]
    found: dict[str, Any] = {"prompts_compared": len(again)}
    for name in names:
        begin, end = (speed([part[prompt] for prompt in again], name) for part in (first, last))
        found[name] = {"first": begin, "last": end, "last_of_first": end / begin if begin and end else None}
    return found


def figure(value: float | None, unit: str = "", places: int = 1) -> str:
    """A number for the table."""
    return "-" if value is None else f"{value:.{places}f}{unit}"


def line(told: Mapping[str, Any], drafted: str) -> str:
    """The same as a line of text."""
    speeds = told["tokens_per_second"]
    return (
        f"{told['minute']:6.1f} {figure(speeds[drafted]):>9} {figure(speeds[PLAIN]):>9} {figure(told['t1_ms']):>8} "
        f"{figure(told['t4_of_t1'], places=2):>9} {figure(told['clock_mhz'], places=0):>8} "
        f"{figure(told.get('temperature_c')):>7} {figure(told.get('battery_percent'), ' %', 0):>8}"
    )


@click.command()
@click.option("-m", "--model", envvar="EDGESPEC_MODEL", help="A .gguf file or an alias. Default: the small one.")
@click.option("-d", "--drafter", envvar="EDGESPEC_DRAFTER", default="auto", show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0.0, min_open=True), default=10.0, show_default=True)
@click.option("--every", type=click.FloatRange(min=0.0), default=30.0, show_default=True, help="Seconds between lines.")
@click.option(
    "-n", "--max-tokens", type=click.IntRange(min=2), default=128, show_default=True, help="An answer's most."
)
@click.option("--ctx", type=click.IntRange(min=64), default=2048, show_default=True, help="Context in tokens.")
@click.option("--threads", envvar="EDGESPEC_THREADS", type=int, help="CPU threads. Default: the fast cores.")
@click.option("--json", "out", type=click.Path(path_type=Path), default=Path("sustained.json"), show_default=True)
def main(
    model: str | None, drafter: str, minutes: float, every: float, max_tokens: int, ctx: int, threads: int | None,
    out: Path,
) -> None:  # fmt: skip
    """Measure for ten minutes how fast this machine stays."""
    if drafter == "none":
        raise click.UsageError("-d none: plain decoding is measured beside a drafter; name one")
    try:
        check_writable(out)
        run(model, drafter, minutes, every, max_tokens, ctx, threads, out)
    except EdgespecError as error:
        raise click.ClickException(str(error)) from error


def run(
    model: str | None, drafter: str, minutes: float, every: float, count: int, n_ctx: int, threads: int | None,
    out: Path,
) -> None:  # fmt: skip
    """Measure, print and write."""
    battery, made, shown = Battery(), [], 0
    with Contestants(model, [drafter], n_ctx=n_ctx, threads=threads, gpu_layers=-1) as field:
        drafted = contestant_name(drafter)
        names = [drafted, PLAIN]
        result = {
            **origin(WHAT, [field.first.model.path], ["python", *sys.argv]),
            "phone": phone(),
            "threads": field.first.context.threads,
            "settings": {"minutes": minutes, "every": every, "tokens": count, "context": n_ctx, "drafter": drafted},
            "samples": [],
        }
        print(f"{field.first.model.path.name}, {result['threads']} threads; tokens per second with {drafted} and plain")
        print(
            f"minute {'drafting':>9} {'plain':>9} {'T(1) ms':>8} {'T(4)/T(1)':>9} {'MHz':>8} {'°C':>7} {'battery':>8}"
        )
        due = every
        try:
            for at, prompt, found in answers(field, 60 * minutes, count, n_ctx):
                made.append(Made(at, prompt, *({n: one(found[n]) for n in names} for one in (_tokens, _seconds))))
                if at >= min(due, 60 * minutes):
                    result["samples"].append(sample(field.first, made[shown:], names, battery))
                    shown, due = len(made), at + every
                    result["slowdown"] = slowdown(made, names)
                    write(out, result)
                    print(line(result["samples"][-1], drafted), flush=True)
        except KeyboardInterrupt:
            print("stopped")
    for name in names if made else ():
        compared = slowdown(made, names)[name]
        print(
            f"{name}: {figure(compared['first'])} tokens per second at the beginning, {figure(compared['last'])} at "
            f"the end: {figure(compared['last_of_first'], places=2)} of it"
        )
    print(f"written: {out}" if result["samples"] else "nothing was written: there was no time for a line")


def _tokens(answer: Answer) -> int:
    return len(answer.tokens) - 1


def _seconds(answer: Answer) -> float:
    return answer.seconds


if __name__ == "__main__":
    main()
