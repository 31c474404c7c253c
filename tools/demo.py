"""Answers a few prompts with drafting and plainly, in turns, block by block; demo.sh sets up what it needs.

The drafted answer is shown as it comes, on a terminal with the drafted text in green. Both answers see the same
machine, so the ratio of their speeds is steadier than the speeds are.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from edgespec import Block, SamplingParams
from edgespec.backend import Prompt
from edgespec.bench.contestants import PLAIN, Contestants
from edgespec.bench.measurements import Answer
from edgespec.cli.chat.screen import Screen
from edgespec.cli.terminal import echo
from edgespec.system.signals import heeded_signals

DRAFTED = "auto"
CONTEXT = 1024
TOKENS = 256
ROUNDS = 3

NOTICEABLE = 1.05
"""Ratios of speeds below this are not called a gain, nor those above its inverse a loss."""

EXAMPLES = (
    (
        "A letter with a mistake in it (wil). Nearly all of the answer can be copied, so edgespec drafts it:",
        """Correct the mistakes in this letter:

Dear Mrs. Carter,

Thank you for your letter of 3 May. The kitchen table that you ordered wil be ready on Friday. Our driver will bring \
it to your house between nine and twelve. Please make sure that somebody is at home to open the door. If that day does \
not suit you, please call us by Wednesday. You can pay the driver in cash or by card.

Yours sincerely,
Tom Baker""",
    ),
    (
        "A question, whose answer is not in it:",
        "Tell me in a few sentences why the sea is salty.",
    ),
)  # fmt: skip


def verdict(rounds: Sequence[Mapping[str, Answer]]) -> str:
    """One line: whether the texts are the same, and how the speeds compare. No ratio where it would be noise."""
    drafted, plain = ([answers[name] for answers in rounds] for name in (DRAFTED, PLAIN))
    same = all(ours.tokens == theirs.tokens for ours, theirs in zip(drafted, plain, strict=True))
    text = "The text is the same as without drafting" if same else "The texts differ (docs/exactness.md says when)"
    fast, slow = (statistics.median(map(speed, answers)) for answers in (drafted, plain))
    ratios = [speed(ours) / speed(theirs) for ours, theirs in zip(drafted, plain, strict=True)]
    ratio = statistics.median(ratios)
    if not any(answer.drafted for answer in drafted):
        return f"{text}, and so is the speed: nothing was drafted. {slow:.0f} tokens per second."
    if (min(ratios) > 1.0 and ratio >= NOTICEABLE) or (max(ratios) < 1.0 and ratio <= 1.0 / NOTICEABLE):
        return f"{text}. {fast:.0f} tokens per second with drafting, {slow:.0f} without: {ratio:.1f} times as fast."
    return f"{text}. Drafting makes no difference that can be measured: {slow:.0f} tokens per second."


def speed(answer: Answer) -> float:
    """Tokens per second after the first one."""
    return (len(answer.tokens) - 1) / max(answer.seconds, 1e-9)


def answer(contestants: Contestants, prompt: str) -> list[dict[str, Answer]]:
    """Show the drafted answer to `prompt` as it comes, then measure it again; the answers of all rounds."""
    tokens = Prompt(contestants.first.model, [{"role": "user", "content": prompt}]).ids()
    screen = Screen(footer=False)
    screen.colour = True
    sampling = SamplingParams(temperature=0.0)

    def show(name: str, block: Block) -> None:
        if name == DRAFTED:
            screen.block(block)
            sys.stdout.flush()

    contestants.forget()
    rounds = [contestants.answer(tokens, TOKENS, sampling, on_block=show)]
    screen.end_line()
    while len(rounds) < ROUNDS:
        rounds.append(contestants.answer(tokens, TOKENS, sampling, backwards=len(rounds) % 2 == 1))
    return rounds


def main() -> None:
    """Show all examples."""
    with Contestants(None, [DRAFTED], n_ctx=CONTEXT, threads=None, gpu_layers=-1) as contestants:
        for introduction, prompt in EXAMPLES:
            echo(f"\n{introduction}\n\n> {prompt.strip()}\n")
            rounds = answer(contestants, prompt)
            echo(f"\n{verdict(rounds)}")


if __name__ == "__main__":
    try:
        with heeded_signals():
            main()
    except KeyboardInterrupt:
        sys.exit(130)
