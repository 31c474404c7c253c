"""Are the rows of a draft tree those of each of its paths alone? And does the KV cache stay true over many steps?

python -m benchmarks.tree_rows -m MODEL.gguf --trees 200 --steps 500 --json benchmarks/results/trees-smollm2.json
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import save
from edgespec.backend import LlamaContext, LlamaModel, evaluate_together, shared_contexts
from edgespec.backend.sequences import paths
from edgespec.core import NOTHING, ROOT, Draft, TokenSequence
from edgespec.system.cpu import default_threads

WHAT = "token trees against chains"
N_CTX = 1024
SEED = 22
WIDEST, DEEPEST, PATHS = 48, 12, 3


def random_tree(rng: random.Random, n_vocab: int) -> Draft:
    """A tree of up to WIDEST nodes and up to DEEPEST levels, in any order that puts parents before children."""
    size = rng.randint(2, WIDEST)
    deepest = rng.randint(1, DEEPEST)
    parents: list[int] = []
    depths: list[int] = []
    children: set[tuple[int, int]] = set()
    tokens: list[int] = []
    while len(parents) < size:
        parent = rng.randrange(ROOT, len(parents))
        depth = 1 if parent == ROOT else depths[parent] + 1
        token = rng.randrange(n_vocab)
        if depth <= deepest and (parent, token) not in children:
            children.add((parent, token))
            parents.append(parent)
            depths.append(depth)
            tokens.append(token)
    return Draft(tuple(tokens), tuple(parents), (1 / size,) * size, (0,) * size, "random")


def chain(tokens: Sequence[int]) -> Draft:
    return Draft.chain(tokens, [1.0] * len(tokens), [0] * len(tokens), "path")


def compared(
    tree: Draft, prefix: Sequence[int], context: LlamaContext, alone: LlamaContext, rng: random.Random
) -> dict[str, Any]:
    """One tree: its rows on PATHS of its paths against those of the paths as chains.

    `exact` rows have the same bits. The others are compared with the same chain filled up to the tree's width:
    `parted` rows are those where both chains have the same bits and the tree has others. `difference` and `noise` are
    the largest ones of a logit, between tree and chain and between the chains.
    """
    rows = context.evaluate(prefix, tree).rows.copy()
    all_paths = paths(tree)
    exact = total = parted = 0
    difference = noise = 0.0
    for path in rng.sample(all_paths, min(PATHS, len(all_paths))):
        tokens = [tree.tokens[node] for node in path]
        narrow = alone.evaluate(prefix, chain(tokens)).rows.copy()
        of_tree = rows[[0, *(node + 1 for node in path)]]
        same = [bool(np.array_equal(*pair)) for pair in zip(of_tree, narrow, strict=True)]
        total, exact = total + len(same), exact + sum(same)
        if all(same):
            continue
        wide = alone.evaluate(prefix, chain([*tokens, *[tokens[0]] * (len(tree) - len(tokens))])).rows[: len(narrow)]
        parted += sum(not is_same and np.array_equal(*pair) for is_same, *pair in zip(same, narrow, wide, strict=True))
        difference = max(difference, float(np.abs(of_tree - narrow).max()))
        noise = max(noise, float(np.abs(wide - narrow).max()))
    return {
        "nodes": len(tree), "leaves": len(all_paths), "rows": total, "exact": exact, "parted": parted,
        "difference": difference, "noise": noise,
    }  # fmt: skip


def walked(
    model: LlamaModel, count: int, longest: int, steps: int, threads: int, text: Sequence[int], rng: random.Random
) -> dict[str, Any]:
    """So many sequences of up to `longest` tokens, random trees in one pass, a random path accepted.

    Each row is compared with that of a cache which was given the same tokens and never a draft.

    Where several sequences share the cells, these are added up in another order. `noise` is what another order changes
    without any draft: that of attention without flash attention.
    """
    contexts = shared_contexts(model, count, n_ctx=N_CTX, threads=threads, trees=True)
    plain = [LlamaContext(model, n_ctx=N_CTX, threads=threads) for _ in contexts]
    other = LlamaContext(model, n_ctx=N_CTX, threads=threads, flash_attention="off")
    sequences = [TokenSequence(text[40 * place : 40 * place + 20 - place]) for place in range(count)]
    for sequence, alone in zip(sequences, plain, strict=True):
        alone.prefill(sequence[:-1])  # split as there
    exact = checks = likeliest = 0
    difference = noise = 0.0
    for step in range(steps):
        drafts = [random_tree(rng, model.vocabulary.size).first(15) for _ in contexts]
        together = evaluate_together(list(zip(contexts, sequences, drafts, strict=True)))
        rows = [evaluation.rows[0].copy() for evaluation in together]
        for row, sequence, draft, alone in zip(rows, sequences, drafts, plain, strict=True):
            while alone.cached(sequence) < len(sequence):
                expected = alone.evaluate(sequence[: alone.cached(sequence) + 1], NOTHING).rows[0]
            checks += 1
            exact += np.array_equal(row, expected)
            likeliest += int(row.argmax()) == int(expected.argmax())
            difference = max(difference, float(np.abs(row - expected).max()))
            if step % 20 == 0:
                noise = max(noise, float(np.abs(other.evaluate(sequence, NOTHING).rows[0] - expected).max()))
            path = rng.choice([[], *paths(draft)])
            sequence.extend(draft.tokens[node] for node in path[: rng.randrange(len(path) + 1)])
            if len(sequence) > longest - 13:
                sequence.cut(longest // 4)
            sequence.append(rng.choice(text))
    for context in (contexts[0], *plain, other):
        context.close()
    return {
        "sequences": count, "longest": longest, "steps": steps, "checks": checks, "exact": exact,
        "same_likeliest": likeliest, "difference": difference, "noise": noise,
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("-m", "--model", "model_path", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--trees", "count", default=200, show_default=True)
@click.option("--steps", default=500, show_default=True)
@click.option("--threads", type=int)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model_path: Path, count: int, steps: int, threads: int | None, out: Path | None) -> None:
    threads = threads or default_threads()
    model = LlamaModel(model_path)
    rng = random.Random(SEED)
    context = LlamaContext(model, n_ctx=N_CTX, threads=threads, trees=True)
    alone = LlamaContext(model, n_ctx=N_CTX, threads=threads)
    text = model.vocabulary.tokenize(Path(__file__).read_text())
    rows: list[dict[str, Any]] = []
    for done in range(count):
        tree = random_tree(rng, model.vocabulary.size)
        prefix = text[: rng.randint(8, 600)]
        rows.append({"prefix": len(prefix), **compared(tree, prefix, context, alone, rng)})
        if sys.stderr.isatty():
            print(f"\r{done + 1}/{count} trees", end="", file=sys.stderr)
    context.close()
    alone.close()
    summary = {key: sum(row[key] for row in rows) for key in ("rows", "exact", "parted")}
    summary |= {key: max(row[key] for row in rows) for key in ("nodes", "leaves", "difference", "noise")}
    walks = [
        walked(model, sequences, longest, steps, threads, text, rng)
        for sequences, longest in ((1, 256), (1, N_CTX - 64), (2, N_CTX - 64))
    ]
    print(f"{count} trees: {summary}", *walks, sep="\n")
    if out is not None:
        save(out, WHAT, [model_path], {"seed": SEED, "summary": summary, "walks": walks, "trees": rows})


if __name__ == "__main__":
    main()
