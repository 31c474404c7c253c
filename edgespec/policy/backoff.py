"""When not even to look for a draft: where a target is fast, looking in vain takes a part of its time that counts."""

from __future__ import annotations

_SHARE = 0.005
"""Of T(1), that looking may take."""

_PATIENCE = 8
"""So often it is looked for in vain before a block is left out, and so often again before one more is."""

_LONGEST = 8
"""Blocks left out in a row at most: a text that begins to repeat itself is noticed so much later."""


class Rest:
    """Counts what was looked for in vain."""

    def __init__(self) -> None:
        self._vain = 0
        self._left = 0

    def goes_on(self) -> bool:
        """Whether to leave this block out, too."""
        self._left -= 1
        return self._left >= 0

    def looked(self, share: float, *, found: bool) -> None:
        """It took this share of T(1), and there was a draft or not."""
        if found:
            self._vain = 0
        elif share > _SHARE:
            self._vain += 1
        self._left = min(self._vain // _PATIENCE, _LONGEST)
