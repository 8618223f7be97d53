"""How many uploads at a time: few, and one more as long as the node then gives more in all.

Many uploads at a time make each of them slow, and with it everybody who follows them; few leave a fast network unused.
What a node can give is not known beforehand, so it is tried: with all slots taken and others waiting, one more is let
in, and stays in if the node's rate rose by at least half of its share within a period. Otherwise the limit was the
node, and it is not tried again for a while. Pure: times and byte counts are arguments.
"""

from __future__ import annotations

from typing import Final

UPLOADS: Final = 4
"""Uploads at a time to begin with."""
CHILDREN: Final = 2
"""Uploads of one blob at a time to begin with. In a large herd with `k` of them all take about `k` times as long as one
upload does."""
PERIOD_S: Final = 1.0
GAIN: Final = 0.5
"""The part of a fair share that one more upload must add."""
HOLD_S: Final = 10.0
"""How long a limit is believed that was found."""


class Capacity:
    """The number of uploads allowed now, at most `uploads_max`."""

    def __init__(self, uploads_max: int) -> None:
        self._uploads_max = uploads_max
        self._begun_at = 0.0
        self._begun_with = 0
        self._rate_before: float | None = None  # while one more is tried
        self._hold_until = float("-inf")
        self.uploads = min(UPLOADS, uploads_max)

    @property
    def children(self) -> int:
        """How many of them may be of one blob."""
        return max(CHILDREN, self.uploads // 2)

    def wanted(self, sent: int, now: float) -> None:
        """All slots are taken, and somebody wants one: so far the node sent so many bytes, in all its uploads."""
        took_s = now - self._begun_at
        if took_s < PERIOD_S:
            return
        rate = (sent - self._begun_with) / took_s
        first = took_s > 2 * PERIOD_S  # nobody wanted one for a while, so the rate says little
        self._begun_at, self._begun_with = now, sent
        if first:
            self._rate_before = None
            return
        if self._rate_before is not None and rate < self._rate_before * (1 + GAIN / (self.uploads - 1)):
            self.uploads -= 1
            self._rate_before = None
            self._hold_until = now + HOLD_S
        elif now >= self._hold_until and self.uploads < self._uploads_max:
            self.uploads += 1
            self._rate_before = rate

    def idle(self) -> None:
        """Nothing is uploaded: what was found may not hold the next time."""
        self.uploads = min(UPLOADS, self._uploads_max)
        self._rate_before = None
        self._hold_until = float("-inf")
