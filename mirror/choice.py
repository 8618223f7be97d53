"""Which holder to ask first: pure decisions over what is known of the peers.

The best ranked come first (not avoided, not suspected, in this node's zone), and among equals the less busy of two
taken at random, which spreads load almost as well as knowing everybody's (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001).

A holder that failed is avoided for a while: it is asked last, not never, for it may be the only one left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from mirror.errors import UnavailableError
    from mirror.peer_mac import Target

AVOID_S: Final = 10.0
"""How long a holder that failed is asked last."""
AVOID_CORRUPT_S: Final = 300.0
"""The same for one that gave wrong bytes."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A member that has a digest, as far as this node knows: how to reach it, and how much it is to be preferred."""

    target: Target
    url: str
    zone: str
    suspect: bool = False


class Standing:
    """What this node's own transfers have shown of each peer. `zone` is this node's."""

    def __init__(self, zone: str, rng: random.Random, clock: Callable[[], float]) -> None:
        self._zone = zone
        self._rng = rng
        self._clock = clock
        self._busy: Counter[str] = Counter()
        self._avoided: dict[str, float] = {}

    def begin(self, holder: Holder) -> None:
        """A transfer from the holder starts."""
        self._busy[holder.target.name] += 1

    def end(self, holder: Holder) -> None:
        """A transfer from the holder is over, however it went."""
        self._busy[holder.target.name] -= 1

    def fail(self, holder: Holder, error: UnavailableError) -> None:
        """The holder did not give what it was asked for."""
        until = self._clock() + (AVOID_CORRUPT_S if isinstance(error, CorruptError) else AVOID_S)
        self._avoided[holder.target.name] = max(until, self._avoided.get(holder.target.name, until))

    def ranked(self, holders: Sequence[Holder]) -> Iterator[Holder]:
        """The holders in the order in which to ask them."""
        now = self._clock()
        groups: dict[tuple[bool, bool, bool], list[Holder]] = {}
        for holder in holders:
            avoided = self._avoided.get(holder.target.name, now) > now
            groups.setdefault((avoided, holder.suspect, holder.zone != self._zone), []).append(holder)
        for _, group in sorted(groups.items()):
            while group:
                pair = self._rng.sample(group, min(2, len(group)))
                choice = min(pair, key=lambda holder: self._busy[holder.target.name])
                group.remove(choice)
                yield choice
