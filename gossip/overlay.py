"""Whom a member listens to: its neighbours on K rings.

On each ring all members stand in an order of their own, by a hash of the ring's number and their name; a member's
neighbours are the one before and the one after it on each ring. So everybody who knows the same members knows the
same neighbours, without a word about it, and being neighbours is mutual. The graph is an expander: 10 neighbours each
reach 1,000 members in five steps, also when half of the members have just died, and each member is observed by as many
as it has neighbours.

Few members are all neighbours of each other: rings would only leave out some of the links.

Source: the K rings of Rapid (Suresh et al., arXiv 1803.03620), without its consensus.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from gossip.membership import NAMES_KEPT

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

RINGS_MAX: Final = 6
AT_ONCE_MAX: Final = 2000
"""Among more members than these neighbours are looked for on one ring at a time."""


def rings(members: int) -> int:
    """How many rings a cluster of so many members has. A ring more costs each member two connections."""
    if members <= 200:
        return 4
    return 5 if members <= 3000 else RINGS_MAX


def mesh(members: int) -> bool:
    """Whether in a cluster of so many members all are neighbours."""
    return members <= 2 * rings(members) + 1


def neighbours(me: str, names: Sequence[str]) -> Generator[None, None, list[str]]:
    """Find the neighbours of `me` among the others, about 2 K of them; they are returned, sorted.

    Linear in the number of the others; in steps of 2 to 3 ms, one if they are few. Among many the first step and the
    last find nobody, since the caller has to do with all of them too.
    """
    if mesh(len(names) + 1):
        return sorted(names)
    found: dict[str, None] = {}
    many = len(names) > AT_ONCE_MAX
    if many:
        yield
    for number, here in enumerate(points(me)[: rings(len(names) + 1)]):
        ring = [points(name)[number] for name in names]
        ahead = [point for point in ring if point > here]
        behind = [point for point in ring if point < here]
        # At the end the ring begins anew.
        for neighbour in (min(ahead or ring), max(behind or ring)):
            found[names[ring.index(neighbour)]] = None
        if many:
            yield
    return sorted(found)


def graph(names: Collection[str]) -> dict[str, list[str]]:
    """The neighbours of each among all, as `neighbours` finds them for one; far sooner than one by one."""
    if mesh(len(names)):
        return {name: sorted(set(names) - {name}) for name in names}
    found: dict[str, set[str]] = {name: set() for name in names}
    for ring in range(rings(len(names))):
        order = sorted(names, key=lambda name: (points(name)[ring], name))
        for name, ahead in zip(order, [*order[1:], order[0]], strict=True):
            found[name].add(ahead)
            found[ahead].add(name)
    return {name: sorted(near) for name, near in found.items()}


@lru_cache(maxsize=NAMES_KEPT)
def points(name: str) -> tuple[int, ...]:
    """The places of a name on all rings: eight bytes of a hash for each. They are remembered."""
    digest = hashlib.blake2b(name.encode(), digest_size=8 * RINGS_MAX, person=b"gossip/rings").digest()
    return tuple(int.from_bytes(digest[start : start + 8]) for start in range(0, 8 * RINGS_MAX, 8))
