"""Who holds a key, for those who ask: the index and the visibility of members, made ready for microseconds.

For each slot of the index two lists hold the member that has the slot, in one if it is ranked normally and in the other
if it is ranked last. They are made anew at the first question after a change of membership.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossip.membership import Visibility

if TYPE_CHECKING:
    from gossip.membership import Member, Membership
    from gossip.or_set import ORSet


class Lookup:
    """Answers from one replica's state; `outdated` must be called when a member, its visibility or its slot changes."""

    def __init__(self, membership: Membership, held: ORSet) -> None:
        self._membership = membership
        self._held = held
        self._by_slot: tuple[list[Member | None], list[Member | None]] | None = None

    def outdated(self) -> None:
        """Something changed that the answers depend on."""
        self._by_slot = None

    def holders(self, key: bytes) -> list[Member]:
        """The visible members that hold a key, those ranked last at the end; without this node."""
        normal, last = self._by_slot or self._arrange()
        slots = self._held.index.slots(key)
        holders = [member for slot in slots if (member := normal[slot]) is not None]
        holders.extend(member for slot in slots if (member := last[slot]) is not None)
        return holders

    def members(self) -> list[Member]:
        """The visible others, those ranked last at the end, each part by name."""
        others = self._membership.others.values()
        visible = [other for other in others if other.visibility is not Visibility.HIDDEN]
        return [o.member for o in sorted(visible, key=lambda o: (o.visibility, o.member.name))]

    def check(self) -> None:
        """Assert that the lists are as they would be if they were made now."""
        if self._by_slot is not None:
            kept = self._by_slot
            assert self._arrange() == kept

    def _arrange(self) -> tuple[list[Member | None], list[Member | None]]:
        slots = self._held.index.slots_claimed
        normal: list[Member | None] = [None] * slots
        last: list[Member | None] = [None] * slots
        for name, other in self._membership.others.items():
            cell = self._held.cells.get(name)
            if cell is not None and other.visibility is not Visibility.HIDDEN:
                (normal if other.visibility is Visibility.NORMAL else last)[cell.slot] = other.member
        self._by_slot = (normal, last)
        return self._by_slot
