"""What a chat's default sampling does: ten first prompts before and after, and edits with and without the guards.

python -m benchmarks.chat_defaults -m MODEL.gguf --json benchmarks/results/chat-defaults-NAME.json
python -m benchmarks.chat_defaults --page     writes docs/chat-defaults.md from the result files

A stopped run resumes. An edit is scored by the lines of the right result that the answer has: 1 is all of them, and no
other. The edits are asked at the model's recommended temperature, with one seed: without any penalty, with the
repetition guard, and with the chat's defaults where these are neither.
"""

from __future__ import annotations

import ast
import difflib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.common import begun, digest, read_prompts, save
from edgespec import Engine, SamplingParams, load
from edgespec.bench.report import summary_lines
from edgespec.cli.chat.repetition import ends_repeating
from edgespec.engine.sampling_defaults import GUARD
from edgespec.hub.resolve import resolve
from edgespec.system.cpu import cache_directory

WHAT = "answers at a chat's default sampling"
FOLDER = Path(__file__).parent
EDITS = FOLDER / "prompts" / "edits.jsonl"
PAGE = FOLDER.parent / "docs" / "chat-defaults.md"
SEED = 1

FIRST = (
    "Write a short poem about the sea.",
    "Hello! Who are you?",
    "What is gravity?",
    "Give me five tips for better sleep.",
    "Tell me a story about a fox.",
    "Write a Python function that reverses a string.",
    "Explain photosynthesis to a child.",
    "List the planets of the solar system.",
    "Suggest ten names for a cat.",
    "What can I cook tonight with eggs and rice?",
)
"""What a person may say first."""


def body(answer: str) -> str:
    """The first fenced block of an answer, or all of it where there is none."""
    fenced = re.search(r"^```\w*\n(.*?)^```", answer, re.DOTALL | re.MULTILINE)
    return (fenced[1] if fenced else answer).strip()


def right_results(question: str, prompt: str) -> list[str]:
    """The right results of an edit; any of them will do."""
    original = body(prompt)
    match question:
        case "code 1":
            renamed = re.sub(r"\bItem\b", "Entry", re.sub(r"\bitem\b", "entry", original))
            return [renamed, renamed.replace("items", "entries")]
        case "code 2":
            return [
                original.replace("pair: pair[1])", "pair: pair[1], reverse=True)"),
                original.replace("pair: pair[1])", "pair: -pair[1])"),
            ]
        case "code 3":
            return [original]  # the hints are taken out of the answer before it is compared
        case "text 1":
            letter = prompt.partition("\n\n")[2].strip()
            for wrong, right in (
                ("wich", "which"),
                ("tomatos", "tomatoes"),
                ("payed", "paid"),
                ("comittee", "committee"),
            ):
                letter = letter.replace(wrong, right)
            return [letter]
        case "text 2":
            every = re.sub(r'("interval_seconds": )\d+', r"\g<1>120", original)
            return [every.replace('"port": 8080', '"port": 9090')]
    deciding = ("He will", "The team", "Dev will", "Elif will", "Carla will")
    sentences = re.split(r"(?<=\.)\s+", prompt.partition("Elif.\n\n")[2].strip())
    return ["\n".join(sentence for sentence in sentences if sentence.startswith(deciding))]


def score(question: str, prompt: str, answer: str) -> float:
    """The share of right lines, from 0 to 1: difflib's ratio of the lines of the answer and of a right result."""
    said = body(answer)
    if question == "code 3":
        said = without_hints(said)
    if question == "text 3":
        said = "\n".join(re.split(r"(?<=\.)\s+", said))
    lines = said.split("\n")
    return max(
        difflib.SequenceMatcher(None, right.split("\n"), lines, autojunk=False).ratio()
        for right in right_results(question, prompt)
    )


def without_hints(code: str) -> str:
    """A program without its type hints; unchanged where it does not parse."""
    try:
        ast.parse(code)
    except SyntaxError:
        return code
    code = re.sub(r"^(from typing|import typing).*\n+", "", code, flags=re.MULTILINE)
    code = re.sub(r"\) -> [^\n]+:$", "):", code, flags=re.MULTILINE)

    def bare(signature: re.Match[str]) -> str:
        parameters = re.sub(r": (?:[^,\[\]=]|\[(?:[^\[\]]|\[[^\]]*\])*\])+", "", signature[2])
        return signature[1] + re.sub(r"\s*=\s*", "=", parameters) + signature[3]

    return re.sub(r"^(def \w+\()(.*)(\):)$", bare, code, flags=re.MULTILINE).strip()


def variants(engine: Engine) -> dict[str, SamplingParams]:
    """How the edits are asked, by name: at one temperature and seed."""
    chat = engine.chat_sampling(seed=SEED)
    names = ("temperature", "top_k", "top_p", "min_p")
    plain = {name: getattr(chat, name) for name in names}
    made = {
        "no penalty": SamplingParams(**plain, seed=SEED),
        "guard": SamplingParams(**plain, **GUARD, seed=SEED),
        "chat": chat,
    }
    return {name: params for name, params in made.items() if name != "chat" or params != made["guard"]}


def answered(engine: Engine, prompt: str, sampling: SamplingParams, count: int) -> dict[str, Any]:
    session = engine.generate(prompt, sampling=sampling, max_tokens=count)
    return {"text": session.text, "finish_reason": session.finish_reason, "tokens": len(session.emitted)}


def measure(model: Path, out: Path | None, count: int, edit_count: int, *, first_only: bool) -> dict[str, Any]:
    """Ask everything that `out` does not have yet; `first_only`: without the edits."""
    settings = {"seed": SEED, "tokens": count, "edit_tokens": edit_count, "edits": digest(EDITS)}
    earlier = begun(out, WHAT, [model], settings, holds="first")
    first: dict[str, Any] = earlier.get("first", {})
    edits: dict[str, Any] = earlier.get("edits", {})
    with load(model, drafter="suffix", n_ctx=2048) as engine:
        result = {
            "settings": settings, "sampling": engine.sampling_defaults.describe({}), "first": first, "edits": edits,
        }  # fmt: skip
        for prompt in FIRST:
            for name, sampling in (("before", SamplingParams()), ("after", engine.chat_sampling(seed=SEED))):
                if name not in first.setdefault(prompt, {}):
                    first[prompt][name] = answered(engine, prompt, sampling, count)
                    save(out, WHAT, [model], result, quiet=True)
        for row in [] if first_only else read_prompts(EDITS):
            question, prompt = row["question_id"], row["turns"][0]
            for name, sampling in variants(engine).items():
                if name not in edits.setdefault(question, {}):
                    answer = answered(engine, prompt, sampling, edit_count)
                    edits[question][name] = {**answer, "score": round(score(question, prompt, answer["text"]), 4)}
                    save(out, WHAT, [model], result, quiet=True)
                    click.echo(f"{question}, {name}: {edits[question][name]['score']:.2f}", err=True)
    return result


def edit_rows(result: Mapping[str, Any]) -> list[str]:
    """Scores of the edits as rows of a table."""
    names = list(next(iter(result["edits"].values())))
    rows = [f"| edit | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for question, by_name in result["edits"].items():
        rows.append(f"| {question} | {' | '.join(format(by_name[name]['score'], '.2f') for name in names)} |")
    means = [sum(row[name]["score"] for row in result["edits"].values()) / len(result["edits"]) for name in names]
    return [*rows, f"| mean | {' | '.join(format(mean, '.2f') for mean in means)} |"]


def excerpt(answer: Mapping[str, Any], most: int = 90) -> str:
    """The beginning and the end of an answer in a table's cell, with its length."""
    text = " ".join(answer["text"].split())
    shown = text if len(text) <= 2 * most else f"{text[:most].strip()} […] {text[-most:].strip()}"
    ending = "" if answer["finish_reason"] == "stop" else ", cut"
    return f"{html.escape(shown, quote=False).replace('|', '&#124;')} ({answer['tokens']} tokens{ending})"


def loops(text: str) -> bool:
    """Whether an answer ends with the same piece of text three times or more."""
    return ends_repeating(text, times=3, longest=400)


def sections(path: Path) -> list[str]:
    """What one result file says."""
    result = json.loads(path.read_text(encoding="utf-8"))
    for part in ("first", "edits"):  # of a stopped run, only what is whole
        most = max(map(len, result[part].values()), default=0)
        result[part] = {name: answers for name, answers in result[part].items() if len(answers) == most}
    link = f"../{path.relative_to(FOLDER.parent)}"
    first = list(result["first"].values())
    cut = [sum(by_name[name]["finish_reason"] != "stop" for by_name in first) for name in ("before", "after")]
    looping = [sum(loops(by_name[name]["text"]) for by_name in first) for name in ("before", "after")]
    lines = [
        f"## {result['models'][0]['file']}", "",
        f"In force: {result['sampling']}. Of {len(first)} answers, {looping[0]} ended in a loop before, and "
        f"{looping[1]} after; {cut[0]} and {cut[1]} were cut at {result['settings']['tokens']} tokens. "
        f"[Result]({link})", "",
    ]  # fmt: skip
    if result["edits"]:
        lines += [*edit_rows(result), ""]
    lines += ["| | before | after |", "|---|---|---|"]
    for prompt, by_name in result["first"].items():
        lines.append(f"| {prompt} | {excerpt(by_name['before'])} | {excerpt(by_name['after'])} |")
    lines.append("")
    return lines


def speeds(path: Path) -> list[str]:
    """What `edgespec bench --sampling chat` measured."""
    result = json.loads(path.read_text(encoding="utf-8"))
    link = f"../{path.relative_to(FOLDER.parent)}"
    return [
        "## Speed", "",
        f"`{result['command']}` ([result]({link}), {len(result['prompts'])} prompts):", "",
        "```text", *summary_lines(result), "```", "",
    ]  # fmt: skip


HEAD = """# How a chat samples

`edgespec chat` takes, for each parameter, the first of: what you set (option, environment, configuration file, `/set`);
what the file recommends (`general.sampling.*`); what the [catalogue](../edgespec/hub/catalogue.toml) has, which is the
publisher's recommendation but for two families that did better otherwise. Any other model gets temperature 0.7 and
min-p 0.05. Where no repetition penalty is recommended or set, the repetition guard applies: llama.cpp's DRY with its
usual values (multiplier 0.8, base 1.75, length 2), but on the answer alone. What stands in the prompt may be copied
freely, and line ends, colons, quotes and asterisks break a repetition, so that lines of code may be alike.

`--temp 0` is greedy decoding, without the guard. `generate` is always greedy unless told otherwise. In Python,
`engine.chat_sampling()` gives the parameters.

Below are ten first prompts with a seed, before (greedy) and after, and edits of `benchmarks/prompts/edits.jsonl`: the
share of right lines without any penalty, with the guard, and with the recommended repetition penalty where
there is one. A chat's temperature and one seed are the same for all three.

This page is written by `python -m benchmarks.chat_defaults --page`.
"""


@click.command()
@click.option("-m", "--model", help="Model: a .gguf file or an alias.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Result file; a stopped run resumes from it.")
@click.option("-n", "--max-tokens", "count", default=256, show_default=True, help="Longest answer, in tokens.")
@click.option("--edit-tokens", "edit_count", default=640, show_default=True, help="Longest edit, in tokens.")
@click.option("--first-only", is_flag=True, help="Ask the first prompts alone, not the edits.")
@click.option("--page", is_flag=True, help="Write docs/chat-defaults.md from the result files.")
def main(model: str | None, out: Path | None, count: int, edit_count: int, first_only: bool, page: bool) -> None:
    """Ask a model, and print the scores of the edits."""
    if page:
        found = sorted((FOLDER / "results").glob("chat-defaults-*.json"), reverse=True)  # SmolLM2 first
        lines = [line for path in found for line in sections(path)]
        for path in sorted((FOLDER / "results").glob("*-chat.json")):
            lines += speeds(path)
        PAGE.write_text("\n".join([HEAD, *lines]).rstrip() + "\n", encoding="utf-8")
        return
    result = measure(resolve(model, cache_dir=cache_directory()), out, count, edit_count, first_only=first_only)
    if result["edits"]:
        click.echo("\n".join(edit_rows(result)))


if __name__ == "__main__":
    main()
