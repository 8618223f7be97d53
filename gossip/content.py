"""How this replica's content follows that of the owners: what arrives, what is missing, what is passed on.

A delta that continues what is held is applied and passed on; one that does not is kept while what comes before it is
pulled (`gossip.gaps`). A head shows where a set stands: a restart without changes needs no more, otherwise what is
missing is pulled. Content never runs ahead of its owner's record: an owner that lost its disk learns from the records
which epochs there were, and would else choose one below that of a cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossip.dissemination import Dissemination
from gossip.gaps import Gaps
from gossip.or_set import Outcome, Snapshot

if TYPE_CHECKING:
    from collections.abc import Generator

    from gossip.cell import Cell
    from gossip.or_set import Delta, Epoch, Head
    from gossip.state import State

WHOLE_DELAY_S: Final = 2.0


class Content:
    """Other members' sets at one replica."""

    def __init__(self, state: State) -> None:
        self.gaps = Gaps(state.rng)
        self.dissemination = Dissemination(state.set)
        self._membership = state.membership
        self._held = state.set
        self._lookup = state.lookup
        self._hash = state.hash
        self._counters = state.counters
        self._rebases: dict[str, tuple[Head, str, tuple[Epoch, int], Generator[None, None, bool]]] = {}
        """Of owners that may have begun a new epoch with the keys held of them: the head, who showed it, where this
        replica stood then, and what is still to be done."""

    def consider(self, head: Head, source: str, now: float) -> None:
        """Catch up with the head of a member's set; `source` has come as far."""
        owner = head.owner
        if not self._known(owner, head.epoch) or owner in self._rebases:
            return
        before, steps = self._held.at(owner), self._held.rebase(head)
        if steps is None:
            self._follow(head, source, now)
        else:
            self._rebases[owner] = (head, source, before, steps)

    @property
    def rebasing(self) -> bool:
        """Whether `work` has something to do."""
        return bool(self._rebases)

    def work(self, now: float) -> None:
        """Go on with what takes long, for about 1 ms."""
        if not self._rebases:
            return
        owner, (head, source, before, steps) = next(iter(self._rebases.items()))
        try:
            next(steps)
        except StopIteration as end:
            del self._rebases[owner]
            if end.value:
                self._counters.rebases += 1
                self._advanced(owner, before, None, source, now)
            self._follow(head, source, now)

    def _follow(self, head: Head, source: str, now: float) -> None:
        owner = head.owner
        at = self._held.at(owner)
        if (head.epoch, head.version) == at:
            # Only the owner's own word is worth dropping a cell.
            if source == owner and head.audit != self._held.audit(owner):
                self._repair(owner, head.epoch, head.version, owner, now)
        elif head.version == 0:
            self.apply(Snapshot(owner, head.epoch, 0, ()), source, now)
        elif (head.epoch, head.version) > at:
            self.gaps.want(owner, head.epoch, head.version, source, now)

    def apply(self, delta: Delta, source: str, now: float, *, taught: bool = False) -> None:
        """Join a delta. `taught`: it is part of an answer to a newcomer, which passes nothing of that on."""
        owner = delta.owner
        cell = self._held.cells.get(owner)
        if cell is not None and cell.epoch == delta.epoch and delta.version <= cell.version:
            self._counters.duplicates += 1
            return  # by far the most common case: every neighbour passes on everything
        if not self._known(owner, delta.epoch):
            return
        before = self._held.at(owner)
        outcome = self._held.apply(delta)
        if self._held.cells.get(owner) is not cell:
            self._lookup.outdated(owner)
        if outcome is Outcome.APPLIED:
            self._advanced(owner, before, delta, source, now, taught=taught)
        elif outcome is Outcome.GAP:
            self._counters.gaps += 1
            self.gaps.keep(delta)
            if owner in self._rebases:
                return  # what it continues is nearly there
            # A whole set that is missing mostly comes by a comparison under way.
            self.gaps.want(owner, delta.epoch, delta.version, source, now if cell else now + WHOLE_DELAY_S)
        elif outcome is Outcome.LONG:
            self.gaps.want(owner, delta.epoch, delta.version, source, now, whole=True)
        elif outcome is Outcome.CORRUPT:
            self._repair(owner, delta.epoch, delta.version, source, now)

    def install(self, owner: str, cell: Cell, source: str, now: float, *, taught: bool) -> None:
        """A snapshot that came in pieces is complete."""
        if not self._known(owner, cell.epoch):
            self._held.abandon(cell)
            return
        before = self._held.at(owner)
        if self._held.install(owner, cell) is Outcome.APPLIED:
            self._lookup.outdated(owner)
            self._advanced(owner, before, None, source, now, taught=taught)

    def holds(self, owner: str) -> bool:
        """Whether anything is held of an owner."""
        return owner in self._held.cells

    def forget(self, owner: str) -> None:
        """Drop all content of an owner."""
        self._rebases.pop(owner, None)
        self._held.forget(owner)
        self.gaps.forget(owner)
        self.dissemination.forget(owner)
        self._lookup.outdated(owner)
        self._hash.touch(owner)

    def _known(self, owner: str, epoch: Epoch) -> bool:
        """Whether content of this epoch may be held of this owner."""
        if owner == self._membership.me.name:
            return False
        other = self._membership.others.get(owner)
        dropped = owner in self._membership.gone and owner not in self._held.cells
        if other is None or epoch > other.member.epoch or dropped:
            self._counters.dropped["unknown_owner"] += 1
            return False
        return True

    def _advanced(
        self,
        owner: str,
        before: tuple[Epoch, int],
        delta: Delta | None,
        source: str,
        now: float,
        *,
        taught: bool = False,
    ) -> None:
        self._hash.touch(owner)
        if not taught:
            self.dissemination.change(owner, before, delta)
        for early in self.gaps.release(owner):
            self.apply(early, source, now)

    def _repair(self, owner: str, epoch: Epoch, version: int, source: str, now: float) -> None:
        """What is held contradicts the owner: drop it, and pull it whole."""
        self._counters.audit_mismatches += 1
        self.forget(owner)
        self.gaps.want(owner, epoch, version, source, now)
