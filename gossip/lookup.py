"""Who holds a key, for those who ask: the index and the visibility of members, made ready for microseconds.

For each rank (in this node's zone; elsewhere; ranked last) a list holds, for each slot of the index, the member that
has the slot if it is of that rank. The lists are made anew at the first question after a change of membership, which
takes about 0.2 ms at 1,000 members.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from gossip.membership import Visibility

if TYPE_CHECKING:
    from gossip.membership import Member, Membership, Other
    from gossip.or_set import ORSet


class Lookup:
    """Answers from one replica's state; `outdated` must be called when a member, its visibility or its slot changes."""

    def __init__(self, membership: Membership, held: ORSet) -> None:
        self._membership = membership
        self._held = held
        self._ranks: list[list[Member | None]] | None = None

    def outdated(self) -> None:
        """Something changed that the answers depend on."""
        self._ranks = None

    def holders(self, key: bytes, limit: int | None = None, start: int = 0) -> list[Member]:
        """The visible members that hold a key, at most `limit` of them; without this node.

        Those of this node's zone come first and those ranked last come last. When a key has more holders than the
        limit, `start` (any number) says where among them to begin: drawn at random it spreads the load.
        """
        slots = self._held.index.slots(key)
        if limit is not None and len(slots) > limit:
            start %= len(slots)
            slots = slots[start:] + slots[:start]  # type: ignore[operator]  # a tuple or an array
        holders: list[Member] = []
        for rank in self._arrange() if self._ranks is None else self._ranks:
            room = None if limit is None else limit - len(holders)
            holders.extend(islice(filter(None, map(rank.__getitem__, slots)), room))
        return holders

    def members(self) -> list[Member]:
        """The visible others, those ranked last at the end, each part by name."""
        others = self._membership.others.values()
        visible = [other for other in others if other.visibility is not Visibility.HIDDEN]
        return [o.member for o in sorted(visible, key=lambda o: (o.visibility, o.member.name))]

    def check(self) -> None:
        """Assert that the lists are as they would be if they were made now."""
        if self._ranks is not None:
            kept = self._ranks
            assert self._arrange() == kept

    def _arrange(self) -> list[list[Member | None]]:
        ranks: dict[int, list[Member | None]] = {}
        for name, other in self._membership.others.items():
            cell = self._held.cells.get(name)
            if cell is not None and other.visibility is not Visibility.HIDDEN:
                rank = ranks.setdefault(self._rank(other), [None] * self._held.index.slots_claimed)
                rank[cell.slot] = other.member
        # A rank without members is not there, and costs a lookup nothing.
        self._ranks = [rank for _, rank in sorted(ranks.items())]
        return self._ranks

    def _rank(self, other: Other) -> int:
        if other.visibility is Visibility.LAST:
            return 2
        return 0 if other.member.zone == self._membership.me.zone else 1
