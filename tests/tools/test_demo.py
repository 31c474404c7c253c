"""What the demo says of two answers, and that it shows one of them as it comes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from edgespec import Block
from edgespec.bench.contestants import PLAIN, Contestants
from edgespec.bench.measurements import Answer
from edgespec.cli.chat.screen import Screen
from tests.gguf_files import tiny_model
from tests.vocabtrim.test_pipeline import TEMPLATE

ROOT = Path(__file__).parents[2]
TEXT = tuple(range(101))


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("demo")


def _rounds(*seconds: tuple[float, float], drafted: int = 50, text: Sequence[int] = TEXT) -> list[dict[str, Answer]]:
    """Rounds in which 101 tokens took these seconds with drafting and without."""
    return [
        {"auto": Answer(tuple(text), ours, 0.1, 50, drafted, drafted), PLAIN: Answer(TEXT, theirs, 0.1, 100)}
        for ours, theirs in seconds
    ]


@pytest.mark.parametrize(
    ("seconds", "comparison"),
    [
        ([(0.5, 1.0), (0.6, 1.0), (0.4, 1.0)], "200 tokens per second with drafting, 100 without: 2.0 times as fast."),
        ([(2.0, 1.0), (1.9, 1.0), (2.1, 1.0)], "50 tokens per second with drafting, 100 without: 0.5 times as fast."),
        ([(0.5, 1.0), (1.1, 1.0), (0.4, 1.0)], "no difference that can be measured: 100 tokens per second."),
        ([(0.98, 1.0), (0.97, 1.0), (0.99, 1.0)], "no difference that can be measured: 100 tokens per second."),
    ],
    ids=["all faster", "all slower", "not all faster", "hardly faster"],
)
def test_a_ratio_is_told_where_all_rounds_agree(
    demo: ModuleType, seconds: list[tuple[float, float]], comparison: str
) -> None:
    line = demo.verdict(_rounds(*seconds))
    assert line.endswith(comparison) and line.startswith("The text is the same as without drafting. ")


def test_where_nothing_was_drafted_no_ratio_is_told_whatever_the_clock_says(demo: ModuleType) -> None:
    line = demo.verdict(_rounds((0.5, 1.0), (0.6, 1.0), drafted=0))
    assert line == (
        "The text is the same as without drafting, and so is the speed: nothing was drafted. 100 tokens per second."
    )


def test_texts_that_differ_are_not_called_the_same(demo: ModuleType) -> None:
    line = demo.verdict(_rounds((0.5, 1.0), (0.6, 1.0), text=(*TEXT[:-1], 7)))
    assert line.startswith("The texts differ") and "exactness.md" in line


def test_the_answer_is_shown_once_and_measured_in_turns(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    class Recorder(Screen):
        def block(self, block: Block) -> None:
            shown.extend(block.tokens)

    model = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    monkeypatch.setattr(demo, "TOKENS", 64)
    monkeypatch.setattr(demo, "Screen", Recorder)
    with Contestants(str(model), [demo.DRAFTED], n_ctx=128, threads=1, gpu_layers=0) as contestants:
        rounds = demo.answer(contestants, "w300 w300")
    assert len(rounds) == demo.ROUNDS and all(set(answers) == {demo.DRAFTED, PLAIN} for answers in rounds)
    assert tuple(shown) == rounds[0][demo.DRAFTED].tokens
    assert demo.verdict(rounds)


def test_every_example_asks_for_something_and_fits(demo: ModuleType) -> None:
    assert all(introduction.endswith(":") and prompt for introduction, prompt in demo.EXAMPLES)
    assert demo.CONTEXT >= demo.TOKENS
