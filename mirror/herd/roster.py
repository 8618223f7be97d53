"""Who coordinates what: rendezvous hashing over the live members.

Every member gives each object a weight that all nodes compute alike, and the heaviest coordinates it. When a member
goes, only what it coordinated moves; nobody need agree on anything (Thaler and Ravishankar, "Using name-based mappings
to increase hit rates", 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from heapq import nlargest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

RANKS: Final = 3
"""How many members are asked in turn before a node goes its own way."""

_MASK: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """A live member, as far as coordinating goes."""

    name: str
    zone: str


class Roster:
    """The live members, this node (`me`) included, ready to be ranked for any object in less than a millisecond."""

    def __init__(self, me: Place, others: Iterable[Place]) -> None:
        self.me = me
        everybody = [(_hash(place.name.encode()), place.name, place.zone) for place in (me, *others)]
        self._cluster = [(number, name) for number, name, _ in everybody]
        self._zone = [(number, name) for number, name, zone in everybody if zone == me.zone]
        self.size = len(self._zone)
        """How many members this node's zone has."""
        self.zoned = len(self._zone) < len(everybody)
        """Whether there are members in other zones."""

    def in_zone(self, key: bytes) -> list[str]:
        """Who coordinates an object in this node's zone: the first in rank, and those that take over, in order."""
        return _ranked(self._zone, key)

    def in_cluster(self, key: bytes) -> list[str]:
        """The same among all members."""
        return _ranked(self._cluster, key)


def _ranked(members: list[tuple[int, str]], key: bytes) -> list[str]:
    salt = _hash(key)
    weights = [((number ^ salt) * 0x9E3779B97F4A7C15 & _MASK, number, name) for number, name in members]
    # The product's low bits depend on few of the hash's: its high half is mixed into them, and multiplied again.
    heaviest = nlargest(RANKS, weights, key=lambda entry: (entry[0] ^ entry[0] >> 32) * 0xD6E8FEB86659FD93 & _MASK)
    return [name for _, _, name in heaviest]


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
