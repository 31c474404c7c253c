#!/usr/bin/env python3
"""Prompts with a passage to work on, for `edgespec heads collect --prompts`, from answers that were collected.

A target that writes its own prompts seldom quotes a text in them. These do: each takes passages from the answers of a
data set and asks for a summary, a translation, an answer or another form of them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from edgespec.backend import LlamaModel
from edgespec.heads.dataset import HeadData

TASKS = (
    "Summarize the following text in a few sentences.\n\n{0}",
    "{0}\n\nGive a short summary of the text above.",
    "What are the main points of this text?\n\n{0}",
    "Translate this text into {language}:\n\n{0}",
    "Write the following again in {language}.\n\n{0}",
    "Rewrite the following text so that a child understands it.\n\n{0}",
    "Make this text shorter and more formal:\n\n{0}",
    "Here are three notes.\n\n1. {0}\n\n2. {1}\n\n3. {2}\n\nWith their help, answer the question: {question}",
    "Passage 1: {0}\n\nPassage 2: {1}\n\nUse only the passages above to answer.\n\nQuestion: {question}",
    "Read the text, then write three questions about it with their answers.\n\n{0}",
    "Which of these two texts is clearer, and why?\n\nA: {0}\n\nB: {1}",
    "Continue this text with one more paragraph.\n\n{0}",
)
LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese", "English", "simple English")
SUMS = (
    "{a} boxes hold {b} {thing} each. {c} {thing} are taken out. How many {thing} are left? Explain each step.",
    "A train drives {a} km in {b} hours. How far does it come in {c} hours at the same speed?",
    "One of the {thing} costs {a} cents. How much do {b} of them cost, and how much is left of {c} dollars?",
    "{a} people share {c} {thing}. Each gets the same number. How many does each get, and how many are left over?",
    "What is {a} plus {b} times {c}? Show how you compute it.",
)
THINGS = ("pens", "apples", "books", "coins", "tickets", "cups", "stones", "stamps")


def passages(data: HeadData, model: LlamaModel, least: int) -> list[tuple[str, str]]:
    """(the last line of a prompt, its answer) for each answer of `least` characters that does not loop."""
    found = []
    for answer in data:
        if answer.looping:
            continue
        said = b"".join(map(model.vocabulary.piece, answer.tokens[answer.is_answer].tolist()))
        asked = b"".join(map(model.vocabulary.piece, answer.tokens[~answer.is_answer].tolist()))
        text = " ".join(said.decode(errors="ignore").split())
        lines = asked.decode(errors="ignore").strip().removesuffix("assistant").strip().splitlines()
        question = lines[-1] if lines else ""
        if len(text) >= least and question and len(question) < 200:
            found.append((question, text))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the target, a GGUF")
    parser.add_argument("data", type=Path, help="a data set of edgespec heads collect")
    parser.add_argument("-o", "--out", type=Path, required=True, help="prompt file to write")
    parser.add_argument("-n", type=int, default=1000, help="number of prompts (default 1000)")
    parser.add_argument("--least", type=int, default=200, help="characters of a passage (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    texts = passages(HeadData(args.data), LlamaModel(args.model, gpu_layers=0), args.least)
    with args.out.open("x", encoding="utf-8") as file:
        for number in range(args.n):
            if number % 6 == 5:
                task = random.choice(SUMS)
                text = task.format(
                    a=random.randint(2, 40), b=random.randint(2, 60), c=random.randint(2, 90),
                    thing=random.choice(THINGS),
                )  # fmt: skip
            else:
                chosen = random.sample(texts, 3)
                length = random.randint(150, 700)
                cut = [whole[:length].rsplit(" ", 1)[0] for _, whole in chosen]
                text = random.choice(TASKS).format(*cut, question=chosen[0][0], language=random.choice(LANGUAGES))
            file.write(json.dumps({"question_id": f"passage-{number}", "category": "passage", "turns": [text]}) + "\n")


if __name__ == "__main__":
    main()
