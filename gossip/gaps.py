"""What is known to exist and is not here: deltas that came too early, and whom to ask for what is missing.

A missing delta is mostly on its way, so a pull waits a moment. The first goes to the member that showed the gap, since
it surely has what is missing, later ones to the owner. After a few the gap is given up: the comparison with a random
member finds it, if it still is one.

Invariants: see `Gaps.check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from gossip.payload import content_bytes

if TYPE_CHECKING:
    import random
    from collections.abc import Container

    from gossip.messages import Standing
    from gossip.or_set import Delta, Epoch, ORSet

PER_OWNER_MAX: Final = 4
BYTES_MAX: Final = 1024 * 1024
"""Deltas kept until what comes before them arrives; what is more is dropped and pulled."""

PULL_DELAY_S: Final = 0.02
"""How long a missing delta may still arrive by itself. As much again is added at random."""
PULL_RETRY_S: Final = 1.0
PULLS_MAX: Final = 3


@dataclass(slots=True)
class _Want:
    """An owner's version that exists, who showed it, when to ask for it, and since when it is missing. `whole`: the way
    there from what is held is too long."""

    epoch: Epoch
    version: int
    source: str
    due: float
    since: float
    whole: bool
    pulls: int = 0


class Gaps:
    """The gaps of one replica."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._wants: dict[str, _Want] = {}
        self._early: dict[str, dict[tuple[Epoch, int], Delta]] = {}
        self._early_bytes = 0

    def want(self, owner: str, epoch: Epoch, version: int, source: str, now: float, *, whole: bool = False) -> None:
        """This version exists, `source` has it, and it is not here. `whole`: ask for all of the set."""
        want = self._wants.get(owner)
        if want is None:
            self._wants[owner] = _Want(epoch, version, source, now + self.delay_s(), now, whole)
            return
        want.whole |= whole
        want.epoch, want.version = max((want.epoch, want.version), (epoch, version))

    def keep(self, delta: Delta) -> None:
        """Keep a delta that came too early, if there is room and none that leads as far: each neighbour sends it."""
        early, at = self._early.setdefault(delta.owner, {}), (delta.epoch, delta.version)
        if at in early or len(early) == PER_OWNER_MAX:
            return
        size = content_bytes(delta)
        if self._early_bytes + size <= BYTES_MAX:
            early[at] = delta
            self._early_bytes += size

    def release(self, owner: str) -> list[Delta]:
        """The deltas kept of an owner, which may fit now, in their order; they are not kept any more."""
        if owner not in self._early:
            return []
        early = self._early.pop(owner)
        self._early_bytes -= sum(map(content_bytes, early.values()))
        return [early[at] for at in sorted(early)]

    def forget(self, owner: str) -> None:
        """Nothing of this owner is wanted."""
        self._wants.pop(owner, None)
        self.release(owner)

    def due(self, held: ORSet, members: Container[str], now: float) -> dict[str, list[Standing]]:
        """What to ask for now, by the member to ask; what has come or was asked for too often is given up."""
        asked: dict[str, list[Standing]] = {}
        for owner, want in list(self._wants.items()):
            if want.due > now:
                continue
            epoch, version = held.at(owner)
            if (epoch, version) >= (want.epoch, want.version) or want.pulls == PULLS_MAX:
                del self._wants[owner]
                continue
            source = want.source if want.pulls == 0 and want.source in members else owner
            want.pulls += 1
            want.due = now + PULL_RETRY_S
            asked.setdefault(source, []).append((owner, epoch, 0 if want.whole else version))
        return asked

    def behind(self, now: float) -> tuple[int, float]:
        """Of how many owners something is missing, and for how many seconds the oldest of it."""
        return len(self._wants), max((now - want.since for want in self._wants.values()), default=0.0)

    def delay_s(self) -> float:
        """How long to wait for what may be on its way."""
        return PULL_DELAY_S * self._rng.uniform(1, 2)

    @property
    def deadline(self) -> float:
        """When `due` has something to say; infinity when nothing is wanted."""
        return min(want.due for want in self._wants.values()) if self._wants else inf

    def check(self, members: Container[str]) -> None:
        """Assert that only members' content is wanted or kept, and the limits."""
        assert all(owner in members for owner in (*self._wants, *self._early))
        assert all(len(early) <= PER_OWNER_MAX for early in self._early.values())
        size = sum(content_bytes(delta) for early in self._early.values() for delta in early.values())
        assert size == self._early_bytes <= BYTES_MAX
