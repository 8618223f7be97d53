"""Which holder to ask first: pure decisions over what is known of the peers.

The best ranked come first (not avoided, not suspected, not full, in this node's zone), and among equals the less
loaded of two taken at random, which spreads load almost as well as knowing everybody's (Mitzenmacher, "The power of
two choices in randomized load balancing", 2001).

A holder's load is what it told last of other uploads, as long as that is fresh, and this node's own transfers from it.

A holder that failed is avoided for a while: it is asked last, not never, for it may be the only one left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError
from mirror.load import SLOTS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from mirror.errors import UnavailableError
    from mirror.load import Load
    from mirror.peer_mac import Target

AVOID_S: Final = 10.0
"""How long a holder that failed is asked last."""
AVOID_CORRUPT_S: Final = 300.0
"""The same for one that gave wrong bytes."""
LOAD_FRESH_S: Final = 5.0
"""How long a peer's word on its load counts; a layer of 100 MB takes about a second."""
SWEEP_S: Final = 60.0
"""How often it is forgotten what counts no longer: in a cluster whose nodes come and go, names are not used again."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A member that has a digest, as far as this node knows: how to reach it, and how much it is to be preferred."""

    target: Target
    url: str
    zone: str
    suspect: bool = False


@dataclass(slots=True)
class Search:
    """Holders are asked in turn, and whom they name, in one `zone` or (None) wherever that is, for a client that has
    waited for `waited_s` before while others had something to give.

    Those that broke off or did not answer are `lost`, those that have nothing for this node `absent`, and those that
    have nothing yet `barren`.
    """

    zone: str | None = None
    waited_s: float = 0.0
    lost: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    barren: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is thought of a holder now: in this node's zone or not, for how many more seconds it is avoided and why, and
    the part of its upload slots that is taken (0 to 1, or more)."""

    near: bool
    avoided_s: float
    avoided_because: str
    load: float


@dataclass(frozen=True, slots=True)
class _Told:
    others: int
    slots: int
    at: float


@dataclass(frozen=True, slots=True)
class _Avoided:
    until: float
    because: str


class Standing:
    """What this node's own transfers have shown of each peer. `zone` is this node's."""

    def __init__(self, zone: str, rng: random.Random, clock: Callable[[], float]) -> None:
        self._zone = zone
        self._rng = rng
        self._clock = clock
        self._busy: Counter[str] = Counter()
        self._avoided: dict[str, _Avoided] = {}
        self._told: dict[str, _Told] = {}
        self._swept_at = clock()

    def begin(self, holder: Holder) -> None:
        """A transfer from the holder starts."""
        self._busy[holder.target.name] += 1

    def end(self, holder: Holder) -> None:
        """A transfer from the holder is over, however it went."""
        self._busy[holder.target.name] -= 1
        if not self._busy[holder.target.name]:
            del self._busy[holder.target.name]

    def hear(self, holder: Holder, load: Load) -> None:
        """The holder told its load, in an answer whose own transfer has not begun here."""
        others = max(0, load.uploads - self._busy[holder.target.name])
        self._told[holder.target.name] = _Told(others, load.slots, self._clock())
        self._sweep()

    def fail(self, holder: Holder, error: UnavailableError) -> None:
        """The holder did not give what it was asked for."""
        until = self._clock() + (AVOID_CORRUPT_S if isinstance(error, CorruptError) else AVOID_S)
        before = self._avoided.get(holder.target.name)
        if before is None or before.until <= until:
            self._avoided[holder.target.name] = _Avoided(until, str(error))
        self._sweep()

    def opinion(self, holder: Holder) -> Opinion:
        """What `ranked` goes by, for people."""
        now = self._clock()
        avoided = self._avoided.get(holder.target.name)
        avoided_s = max(0.0, avoided.until - now) if avoided else 0.0
        because = avoided.because if avoided and avoided_s else ""
        return Opinion(holder.zone == self._zone, avoided_s, because, self._load(holder, now))

    def ranked(self, holders: Sequence[Holder]) -> Iterator[Holder]:
        """The holders in the order in which to ask them."""
        now = self._clock()
        groups: dict[tuple[bool, bool, bool, bool], list[Holder]] = {}
        for holder in holders:
            failed = self._avoided.get(holder.target.name)
            avoided = failed is not None and failed.until > now
            full = self._load(holder, now) >= 1
            groups.setdefault((avoided, holder.suspect, full, holder.zone != self._zone), []).append(holder)
        for _, group in sorted(groups.items()):
            while group:
                pair = self._rng.sample(group, min(2, len(group)))
                choice = min(pair, key=lambda holder: self._load(holder, now))
                group.remove(choice)
                yield choice

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_at < SWEEP_S:
            return
        self._swept_at = now
        self._avoided = {name: avoided for name, avoided in self._avoided.items() if avoided.until > now}
        self._told = {
            name: told for name, told in self._told.items() if name in self._busy or now - told.at <= LOAD_FRESH_S
        }

    def _load(self, holder: Holder, now: float) -> float:
        """The part of the holder's upload slots that is taken, as far as is known."""
        busy = self._busy[holder.target.name]
        told = self._told.get(holder.target.name)
        if told is None or now - told.at > LOAD_FRESH_S:
            return busy / (told.slots if told else SLOTS)
        return (told.others + busy) / told.slots
