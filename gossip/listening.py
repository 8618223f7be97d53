"""Whom a replica listens to: the neighbours that the overlay gives it, made anew when the membership changed.

Among very many members that takes some milliseconds, and is done in steps. What changes meanwhile is
seen the next time.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from gossip import overlay
from gossip.outputs import Link, Unlink

if TYPE_CHECKING:
    from collections.abc import Generator

    from gossip.membership import Membership

DERIVE_S: Final = 1.0
"""The overlay is made anew so long after a change of membership, but for a few members: changes come in crowds."""
RAISE_S: Final = 2.0
"""A higher protocol is spoken when all who are known have spoken it for so long: who joins does not know all yet."""


class Listening:
    """The links of one replica. `due_at` is when they are to be made anew, `busy` whether that is under way; `protocol`
    is what all live members speak."""

    def __init__(self, membership: Membership) -> None:
        self.due_at = inf
        self.protocol = membership.protocol()
        self._raise_at = inf
        self._membership = membership
        self._steps: Generator[None, None, list[str]] | None = None

    @property
    def busy(self) -> bool:
        """Whether `tick` has something to do at once."""
        return self._steps is not None

    def settle(self, now: float) -> list[Link | Unlink]:
        """Note what changed about the membership; few members act on it at once."""
        membership = self._membership
        if membership.reshaped:
            membership.reshaped = False
            self.due_at = min(self.due_at, now + DERIVE_S)
            if not membership.linked or overlay.mesh(len(membership.others) + 1):
                self.due_at = now
                return self.tick(now)
        return []

    def tick(self, now: float) -> list[Link | Unlink]:
        """Do a step of what is due: whom to listen to from now on, and whom not any more."""
        if self._steps is None:
            if now < self.due_at:
                return []
            names, doubtful = self._membership.ringed(now)
            self.due_at = now + DERIVE_S if doubtful else inf
            self._steps = overlay.neighbours(self._membership.me.name, names)
        try:
            next(self._steps)
        except StopIteration as end:
            self._steps = None
            return self._listen(end.value, now)
        return []

    def _listen(self, names: list[str], now: float) -> list[Link | Unlink]:
        membership = self._membership
        self._agree(now)
        outputs: list[Link | Unlink] = []
        for name in sorted(membership.linked.keys() - set(names)):
            membership.unlink(name, now)
            outputs.append(Unlink(name))
        # One may have been forgotten since it was found.
        fresh = [name for name in names if name in membership.others and name not in membership.linked]
        return [*outputs, *(Link(membership.link(name, now)) for name in fresh)]

    def _agree(self, now: float) -> None:
        """Speak as all do: what an older one does not know no more, and what is newer after a while."""
        agreed = self._membership.protocol()
        if agreed <= self.protocol or now >= self._raise_at:
            self.protocol, self._raise_at = agreed, inf
            return
        self._raise_at = min(self._raise_at, now + RAISE_S)
        self.due_at = min(self.due_at, self._raise_at)
