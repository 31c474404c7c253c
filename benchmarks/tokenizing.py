"""Tokenizes hostile texts with tiny models of every pre-tokenizer that llama.cpp knows.

    python -m benchmarks.tokenizing [--json benchmarks/results/tokenizing.json] [--jobs N] [--every N]

Each text is tokenized twice, each time in a process of its own: as edgespec does it, and by one call of
`llama_tokenize` on the usual stack of 8 MiB. No signal may end the first, and the ids must be the second's wherever
that survives. `stack` has the bytes of stack that a character takes, by
pre-tokenizer and run.
"""

from __future__ import annotations

import faulthandler
import hashlib
import multiprocessing
import os
import random
import signal
import tempfile
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import llama_cpp

from benchmarks.common import save
from edgespec.backend import LlamaModel
from edgespec.backend.load_once import load_once
from edgespec.errors import EdgespecError, InvalidRequest
from edgespec.system.child import disable_core_dumps
from tests.gguf_files import byte_level, tiny_model

WHAT = "hostile texts through tokenizing"
STACK = 8 << 20
"""Bytes of stack of an ordinary thread."""
SMALL_STACK = 1 << 20
"""Bytes of stack with which the need of a character is measured."""
SECONDS = 20
"""Seconds until a process is ended."""
RUN = 30_000
"""Characters of a long run: more than fit on an ordinary stack."""
LINE = 1 << 20
"""Characters of the longest line."""

PRE_TOKENIZERS = (
    "a.x-4.0",
    "afmoe",
    "bailingmoe",
    "bailingmoe2",
    "bloom",
    "chameleon",
    "chatglm-bpe",
    "codeshell",
    "cohere2moe",
    "command-r",
    "dbrx",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "default",
    "exaone",
    "exaone-moe",
    "exaone4",
    "f2llmv2",
    "falcon",
    "falcon-h1",
    "falcon3",
    "gemma4",
    "gigachat",
    "glm4",
    "glm5",
    "gpt-2",
    "gpt-4o",
    "gpt3-finnish",
    "granite-docling",
    "granite-embed-multi-311m",
    "granite-embed-multi-97m",
    "grok-2",
    "hunyuan",
    "hunyuan-dense",
    "hy_v4",
    "jais",
    "jais-2",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "jina-v5-nano",
    "joyai-llm",
    "kanana2",
    "kimi-k2",
    "kormo",
    "laguna",
    "lfm2",
    "llada-moe",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "llama4",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "minerva-7b",
    "minicpm5",
    "minimax-m2",
    "modern-bert",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "poro-chat",
    "qwen2",
    "qwen35",
    "refact",
    "roberta-bpe",
    "sarvam-moe",
    "seed-coder",
    "smaug-bpe",
    "smollm",
    "solar-open",
    "spark2_5",
    "stablelm2",
    "starcoder",
    "superbpe",
    "talkie",
    "tekken",
    "tiny_aya",
    "trillion",
    "ufakzeka",
    "viking",
    "whitespace",
    "youtu",
)
"""Values of `tokenizer.ggml.pre` that llama.cpp knows."""

OTHER_MODELS = ("llama", "t5", "rwkv", "plamo2", "hybriddna", "whitespace", "gemma4", "bert", "test")
"""Values of `tokenizer.ggml.model` beside gpt2."""

CONTROLS = ("<s>", "<|im_start|>", "<|im_end|>")
MERGES = (("A", "A"), ("AA", "AA"), ("Ġ", "Ġ"), (".", "."), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ċ", "Ċ"))


class Text(NamedTuple):
    """A hostile text and its name."""

    name: str
    text: str


def hostile_texts() -> list[Text]:
    """Fifty texts: long runs, controls, right to left, joiners, invalid ones, lines of a megabyte."""
    draw = random.Random(21)
    runs = "Azé中あ한жא1١.!-'/_\x00\x01\x7f\u200b\u202e\ufeff\ufffd\ue000\u0301\U0001f600"
    blanks = [" ", "\t", "\n", "\r\n", "\xa0", "\u3000", " \n"]
    units = ["aA", "Aa", "a ", "a1", "a.", "\n/", "e\u0301", "\U0001f469\u200d\U0001f467", "'s", "</s>", "<|im_end|>"]
    texts = [Text(f"run of {unit!r}", unit * (RUN // len(unit))) for unit in (*runs, *blanks, *units)]
    texts += [
        Text("blanks before a letter", " " * RUN + "x"),
        Text("any characters", "".join(chr(draw.randrange(0xE000, 0x110000)) for _ in range(RUN))),
        Text("half a surrogate", "a\ud800b"),
        Text("empty", ""),
        Text("a megabyte of words in a line", ("lorem ipsum dolor " * LINE)[:LINE]),
        Text("a megabyte in lines", ("lorem ipsum dolor\n" * LINE)[:LINE]),
    ]
    assert len(texts) == 50
    return texts


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Two hundred vocabularies, as metadata of tiny models: each pre-tokenizer twice, and other kinds."""
    for pre in PRE_TOKENIZERS:
        yield f"{pre}, merges", byte_level(pre, merges=MERGES, controls=CONTROLS)
        yield f"{pre}, user-defined tokens", byte_level(pre, controls=CONTROLS, defined=("  ", "<think>"))
    for model in OTHER_MODELS:
        for prefix in (False, True):
            keys: dict[str, Any] = {"tokenizer.ggml.model": model, "tokenizer.ggml.add_space_prefix": prefix}
            if model in ("hybriddna", "whitespace", "gemma4"):
                keys = {**byte_level("gpt-2", merges=MERGES, controls=CONTROLS), **keys}
            yield f"{model}, prefix {prefix}", keys


class End(NamedTuple):
    """How a process ended: its signal (0 for none), and what it found."""

    signal: int
    found: str


def apart(find: Callable[[], str]) -> End:
    """What `find` returns in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            disable_core_dumps()
            faulthandler.disable()
            os.environ["GGML_NO_BACKTRACE"] = "1"  # else a debugger is started on a process that aborts
            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(writing, find().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    _, status = os.waitpid(child, 0)
    return End(max(0, -os.waitstatus_to_exitcode(status)), found)


def as_edgespec(model: LlamaModel, text: str) -> str:
    """A digest of the ids, or the error in one line."""
    try:
        return _digest(model.vocabulary.tokenize(text))
    except InvalidRequest as error:
        return f"refused: {error}"


def as_llama_cpp(model: LlamaModel, text: str, stack: int = STACK) -> str:
    """A digest of the ids of one call on a stack of `stack` bytes; of text that is not UTF-8, that it is none."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    ids: list[int] = []

    def call() -> None:
        buffer = (llama_cpp.llama_token * (4 * len(data) + 8))()  # a blank can take three tokens
        count = llama_cpp.llama_tokenize(
            model.vocabulary.pointer,
            data,
            len(data),
            buffer,
            len(buffer),
            False,
            True,
        )
        ids.extend(buffer[:count])

    threading.stack_size(stack)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return _digest(ids)


def _digest(ids: Sequence[int]) -> str:
    return f"{len(ids)} {hashlib.sha256(array('i', ids).tobytes()).hexdigest()[:16]}"


def compare(model: LlamaModel, text: str) -> str:
    """What became of a text: `same ids`, `llama.cpp ends`, `refused`, or what must not be."""
    ours = apart(lambda: as_edgespec(model, text))
    theirs = apart(lambda: as_llama_cpp(model, text))
    if ours.signal == signal.SIGALRM:
        return f"takes more than {SECONDS} s; llama.cpp alone ends by signal {theirs.signal or 'none'}"
    if ours.signal:
        return f"ENDED by signal {ours.signal}"
    if ours.found.startswith("refused"):
        return "refused: not UTF-8" if theirs.found == "not UTF-8" else ours.found
    if theirs.signal:
        return f"ids; llama.cpp alone ends by signal {theirs.signal}"
    return "same ids" if ours.found == theirs.found else "OTHER IDS"


def survey_model(metadata: dict[str, Any], texts: Sequence[Text]) -> dict[str, str] | str:
    """What became of each text with one model, or why the load check refuses the model."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model(Path(folder) / "model.gguf", metadata=metadata)
        reason = _load_failure(path)
        if reason:
            return reason
        model = LlamaModel(path)
        found = {text.name: compare(model, text.text) for text in texts}
        model.close()
        return found


def survey(names: Sequence[str], texts: Sequence[Text], jobs: int, report: Callable[[str], object]) -> dict[str, Any]:
    """The outcomes of all models and texts, and every one that is not `same ids`."""
    outcomes: Counter[str] = Counter()
    remarkable: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    known = dict(models())
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(survey_model, known[name], texts) for name in names]
        for name, job in zip(names, running, strict=True):
            found = job.result()
            if isinstance(found, str):
                refused[name] = found
            else:
                outcomes.update(found.values())
                remarkable |= {name: rest} if (rest := {t: o for t, o in found.items() if o != "same ids"}) else {}
            report(f"{name}: {found if isinstance(found, str) else dict(Counter(found.values()))}")
    return {"outcomes": dict(outcomes), "refused_models": refused, "not_same_ids": remarkable}


def _load_failure(path: Path) -> str:
    """Why the load check refuses a model; empty where it does not."""

    def load() -> str:
        try:
            load_once(str(path))
        except EdgespecError as error:
            return str(error)
        return ""

    end = apart(load)
    return end.found.replace(str(path), path.name) or (f"signal {end.signal}" if end.signal else "")


def stack_needs(units: Mapping[str, str], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes of stack for a character, by pre-tokenizer and repeated unit, where llama.cpp recurses at all."""
    needs: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for pre in names:
            model = LlamaModel(tiny_model(Path(folder) / "model.gguf", metadata=byte_level(pre, controls=CONTROLS)))
            for name, unit in units.items():
                need = _stack_need(model, unit)
                if need:
                    needs.setdefault(pre, {})[name] = need
            model.close()
    return needs


def _stack_need(model: LlamaModel, unit: str) -> int:
    def survives(count: int) -> bool:
        return not apart(lambda: as_llama_cpp(model, unit * (count // len(unit)), SMALL_STACK)).signal

    low, high = 0, SMALL_STACK // 100
    if survives(high):
        return 0
    while high - low > 50:
        middle = (low + high) // 2
        low, high = (middle, high) if survives(middle) else (low, middle)
    return SMALL_STACK // max(low, 1)


@click.command(help=__doc__)
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--jobs", default=2, show_default=True, help="Processes at a time.")
@click.option("--every", default=1, show_default=True, help="Take every n-th model.")
def main(out: Path | None, jobs: int, every: int) -> None:
    units = {"A": "A", "a b": "a ", ".": ".", " ": " ", "中": "中"}
    measured = ("gpt-4o", "tekken", "deepseek-v3", "deepseek-llm", "seed-coder", "bailingmoe", "exaone-moe")
    stack = stack_needs(units, measured)
    print(stack, flush=True)
    names = [name for name, _ in models()][::every]
    texts = hostile_texts()
    result = survey(names, texts, jobs, lambda line: print(line, flush=True))
    print(result["outcomes"])
    settings = {"models": len(names), "texts": len(texts), "run": RUN, "line": LINE, "seconds": SECONDS}
    save(out, WHAT, [], {"settings": settings, "stack": stack, **result})


if __name__ == "__main__":
    main()
