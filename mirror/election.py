"""Who holds a Lease, and whether it is this node's turn to: the decisions, without the Kubernetes API (`lease`).

The holder of the Lease is a *seed*: its identity is the `host:port` that others join through. To be one is no power:
two seeds at a time, or none for a while, are harmless once their cluster is formed. So nothing stops when the API
server is away, and a holder that cannot renew need not step down.

As in client-go's leader election, a holder is gone when nothing has changed for some time *as seen from here*: the
times in the Lease are other machines', whose clocks differ. There one waits for the whole duration from when the last
renewal was seen, so the next leader comes later than that. Here the next seed is to be there when the duration has
passed since the renewal itself: so what a look may be late, and what the calls take, comes off the wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEASE_DURATION_S: Final = 15
RENEW_S: Final = 3.0
"""How often the holder renews, and the candidates look."""
MARGIN_S: Final = 2 * RENEW_S
"""So much before its duration has passed, as seen from here, a Lease may be taken: one turn for the look, which may see
the last renewal that late, and one for the calls. It leaves the holder two renewals, of which one has to arrive."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What an election needs of a Lease. `holder` is empty when it was given up, or never taken."""

    holder: str
    version: str
    """Its resourceVersion, which changes with every write."""

    duration_s: float


class Election:
    """One candidate's view. `me` is its identity."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._seen: Lease | None = None
        self._changed_at = 0.0

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen; empty when that is not known."""
        return self._seen.holder if self._seen else ""

    @property
    def mine(self) -> bool:
        """Whether this node held it."""
        return self.holder == self._me

    def observe(self, lease: Lease, now: float) -> bool:
        """Take note of the Lease as it is; tells whether this node should write itself into it."""
        if self._seen is None or self._seen.version != lease.version:
            self._changed_at = now
        self._seen = lease
        return self.mine or not lease.holder or now >= self._runs_out_at(lease)

    def wait_s(self, now: float) -> float:
        """How long until the Lease should be looked at again: a turn, or less when it runs out before that."""
        if self._seen is None or self.mine:
            return RENEW_S
        return min(RENEW_S, max(0.0, self._runs_out_at(self._seen) - now))

    def _runs_out_at(self, lease: Lease) -> float:
        return self._changed_at + max(RENEW_S, lease.duration_s - MARGIN_S)
