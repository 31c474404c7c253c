"""Progress of long runs on stderr: a line that is redrawn on a terminal, else one for every tenth."""

from __future__ import annotations

import sys
import time

from edgespec.cli.terminal import echo, redraw


class AnswerProgress:
    """Answers, tokens, speed and time left of each stage in turn, which is named by what it counts."""

    def __init__(self) -> None:
        self._stage = ""
        self._begun = 0.0
        self._at_start = 0.0, 0
        self._tenths = -1

    def __call__(self, stage: str, done: int, total: int, tokens: int, share: float) -> None:
        """`done` of `total`, with `tokens` in all; `share` of the stage is done."""
        if stage != self._stage:
            self.finish()
            self._stage, self._begun, self._at_start, self._tenths = stage, time.monotonic(), (share, tokens), -1
        seconds, gained = time.monotonic() - self._begun, share - self._at_start[0]
        line = f"{done} of {total} {stage}, {tokens} tokens"
        if gained > 0:
            left = seconds / gained * (1 - share)
            line += f", {(tokens - self._at_start[1]) / seconds:.0f} tokens/s, {left / 60:.0f} min left"
        if sys.stderr.isatty():
            redraw(line)
        elif done == total or int(10 * share) > self._tenths:
            echo(line, err=True)
        self._tenths = int(10 * share)

    def end_line(self) -> None:
        """End the line on a terminal: something else is printed next."""
        if self._stage and sys.stderr.isatty():
            echo(err=True)

    def finish(self) -> None:
        """End the line of a stage."""
        self.end_line()
        self._stage = ""
