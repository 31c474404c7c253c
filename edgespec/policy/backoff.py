"""When not even to propose: where a target is fast, proposing in vain takes a part of its time that counts."""

from __future__ import annotations

from edgespec.policy.config import PolicyConfig


class Backoff:
    """Counts the proposals of one answer that were made in vain."""

    def __init__(self, config: PolicyConfig) -> None:
        self._config = config
        self._in_vain = 0
        self._left_out = 0

    def goes_on(self) -> bool:
        """Whether to leave this forward pass out, too."""
        self._left_out -= 1
        return self._left_out >= 0

    def proposed(self, share: float, *, found: bool) -> None:
        """It took this share of T(1), and a draft that promises something was found or not."""
        if found:
            self._in_vain = 0
        elif share > self._config.backoff_share:
            self._in_vain += 1
        after = self._config.backoff_after
        self._left_out = min(self._in_vain // after, after)
