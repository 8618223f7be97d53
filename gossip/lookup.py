"""Who holds a key, for those who ask: the index and the visibility of members, made ready for microseconds.

For each rank (in this node's zone; elsewhere; ranked last) a list holds, for each slot of the index, the member that
has the slot if it is of that rank. What changed is put right at the next question, at some microseconds a member.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import islice
from typing import TYPE_CHECKING, Final

from gossip.membership import Visibility

if TYPE_CHECKING:
    from gossip.membership import Member, Membership, Other
    from gossip.or_set import ORSet

RANKS: Final = 3
OUTDATED_MAX: Final = 256
"""More changes do not wait for a question."""


class Lookup:
    """Answers from one replica's state; `outdated` must be called when a member, its visibility or its slot changes."""

    def __init__(self, membership: Membership, held: ORSet) -> None:
        self._membership = membership
        self._held = held
        self._outdated: dict[str, None] = {}
        self._places: dict[str, tuple[int, int]] = {}
        """The rank and the slot of each member that has both."""
        self._ranks: list[list[Member | None]] = [[] for _ in range(RANKS)]
        self._sizes = [0] * RANKS
        """How many members each rank has."""
        self._visible: dict[str, Visibility] = {}
        self._listed: dict[Visibility, list[str]] = {Visibility.NORMAL: [], Visibility.LAST: []}
        """The visible others, and their names in order."""

    def outdated(self, name: str) -> None:
        """Something changed about this member that the answers depend on."""
        self._outdated[name] = None
        if len(self._outdated) >= OUTDATED_MAX:
            self._update()

    def holders(self, key: bytes, limit: int | None = None, start: int = 0) -> list[Member]:
        """The visible members that hold a key, at most `limit` of them; without this node.

        Those of this node's zone come first and those ranked last come last. When a key has more holders than the
        limit, `start` (any number) says where among them to begin: drawn at random it spreads the load.
        """
        self._update()
        slots = self._held.index.slots(key)
        if limit is not None and len(slots) > limit:
            start %= len(slots)
            slots = slots[start:] + slots[:start]  # type: ignore[operator]  # a tuple or an array
        holders: list[Member] = []
        for rank, size in zip(self._ranks, self._sizes, strict=True):
            if size:
                room = None if limit is None else limit - len(holders)
                holders.extend(islice(filter(None, map(rank.__getitem__, slots)), room))
        return holders

    def members(self) -> list[Member]:
        """The visible others, those ranked last at the end, each part by name."""
        self._update()
        others = self._membership.others
        return [others[name].member for names in self._listed.values() for name in names]

    def check(self) -> None:
        """Assert that the answers are as they would be if everything were looked at now."""
        self._update()
        fresh = Lookup(self._membership, self._held)
        for name in self._membership.others:
            fresh.outdated(name)
        fresh._update()
        assert (fresh._places, fresh._ranks, fresh._sizes) == (self._places, self._ranks, self._sizes)
        assert fresh.members() == self.members()

    def _update(self) -> None:
        # A cell that is not complete has a slot, and its keys are in the index.
        if missing := self._held.index.slots_claimed - len(self._ranks[0]):
            for rank in self._ranks:
                rank.extend([None] * missing)
        if not self._outdated:
            return
        outdated, self._outdated = self._outdated, {}
        # A slot may have changed hands: all give it back before one takes it.
        for name in outdated:
            if (place := self._places.pop(name, None)) is not None:
                self._ranks[place[0]][place[1]] = None
                self._sizes[place[0]] -= 1
        for name in outdated:
            other, cell = self._membership.others.get(name), self._held.cells.get(name)
            self._list(name, other)
            if other is not None and cell is not None and other.visibility is not Visibility.HIDDEN:
                number = self._rank(other)
                self._places[name] = number, cell.slot
                self._ranks[number][cell.slot] = other.member
                self._sizes[number] += 1

    def _list(self, name: str, other: Other | None) -> None:
        before = self._visible.get(name, Visibility.HIDDEN)
        after = Visibility.HIDDEN if other is None else other.visibility
        if before is after:
            return
        if names := self._listed.get(before):
            del names[bisect_left(names, name)]
            del self._visible[name]
        if after is not Visibility.HIDDEN:
            insort(self._listed[after], name)
            self._visible[name] = after

    def _rank(self, other: Other) -> int:
        if other.visibility is Visibility.LAST:
            return 2
        return 0 if other.member.zone == self._membership.me.zone else 1
