"""What the drafters that read the conversation cost: time and memory at several lengths of context.

    python -m benchmarks.drafting [--json benchmarks/results/drafting.json]

The text is made here, from sources of the Python standard library (code) and their docstrings (prose), and split into
words. After a context is read in one call, the answer grows by 1 to 3 tokens a call. Asking again without a new token
gives the cost of drafting alone. Times are medians, in microseconds.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import logging
import re
import statistics
import subprocess
import tarfile
import threading
import time
import typing
from pathlib import Path

import click

from benchmarks.common import save
from edgespec.core import MAX_ROWS, Draft
from edgespec.drafters.aded import Aded
from edgespec.drafters.anpd import Anpd
from edgespec.drafters.suffix import Suffix

MODULES = (argparse, inspect, logging, subprocess, tarfile, threading, typing)
CONTEXTS = (1024, 4096, 8192)
CALLS = 200
READINGS = 5
LIMIT = MAX_ROWS - 1


def prose(source: str) -> str:
    """The docstrings of a module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return "\n\n".join(ast.get_docstring(node) or "" for node in nodes)


def texts() -> dict[str, list[int]]:
    """Token ids of the two kinds of text."""
    sources = [inspect.getsource(module) for module in MODULES]
    ids: dict[str, int] = {}

    def tokens(text: str) -> list[int]:
        return [ids.setdefault(word, len(ids)) for word in re.findall(r" ?\w+|\n *|[^\w\n]", text)]

    return {"code": tokens("\n".join(sources)), "prose": tokens("\n".join(map(prose, sources)))}


def timed(drafter: Aded | Anpd | Suffix, tokens: list[int]) -> tuple[Draft, float]:
    """A proposal, and the microseconds that it took."""
    begun = time.perf_counter()
    draft = drafter.propose(tokens, LIMIT)
    return draft, (time.perf_counter() - begun) * 1e6


def measure(make: type[Aded] | type[Anpd] | type[Suffix], text: list[int], context: int) -> dict[str, float]:
    """Costs of one drafter at one length of context."""
    reading = [timed(make(), text[:context])[1] / context for _ in range(READINGS)]
    drafter = make()
    tokens = text[:context]
    drafter.propose(tokens, LIMIT)
    calls, drafting, drafted = [], [], 0
    for call in range(CALLS):
        tokens += text[len(tokens) : len(tokens) + 1 + call % 3]
        calls.append(timed(drafter, tokens)[1])
        draft, again = timed(drafter, tokens)
        drafted += len(draft)
        if draft.tokens:
            drafting.append(again / len(draft))
    return {
        "us_per_drafted_token": statistics.median(drafting),
        "us_per_call": statistics.median(calls),
        "us_per_call_at_most": max(calls),
        "us_per_token_read": statistics.median(reading),
        "drafted": drafted,
        "memory_bytes": drafter.memory_bytes,
    }


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def main(out: Path | None) -> None:
    """Print one line per drafter, kind of text and length of context."""
    rows = []
    print(f"{'drafter':8}{'text':7}{'context':>8}{'us/drafted':>12}{'us/call':>9}{'us/read':>9}{'bytes':>10}")
    for make in (Aded, Anpd, Suffix):
        for name, text in texts().items():
            for context in CONTEXTS:
                row = measure(make, text, context)
                rows.append({"drafter": make().name, "text": name, "context": context, **row})
                print(
                    f"{make().name:8}{name:7}{context:8}{row['us_per_drafted_token']:12.2f}{row['us_per_call']:9.1f}"
                    f"{row['us_per_token_read']:9.2f}{row['memory_bytes']:10.0f}"
                )
    save(out, "cost of drafting from the conversation", [], {"limit": LIMIT, "calls": CALLS, "rows": rows})


if __name__ == "__main__":
    main()
