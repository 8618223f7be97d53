"""What this replica passes on at its next publication: records first, then heads, then content.

Of an owner's content it passes on what changed here, from the version it had to the one it has: whatever way that
came, in how many messages, and how often. So nothing goes around in circles, and what arrives twice says nothing new.

Content above `PUBLISHED_BYTES_MAX` is only announced, by a head; who lacks it pulls it, once, at a moment of its own.
The same goes for a new epoch: whoever holds the same keys from the epoch before enters it by its head alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from gossip.messages import (
    CLAIMS_PER_MESSAGE_MAX,
    DELTAS_PER_MESSAGE_MAX,
    HEADS_PER_MESSAGE_MAX,
    Deltas,
    Heads,
    Members,
)
from gossip.or_set import BOTTOM, Interval
from gossip.payload import content_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gossip.membership import Claim
    from gossip.or_set import Delta, Epoch, Head, ORSet

PUBLISHED_BYTES_MAX: Final = 8 * 1024
"""Of one owner. Each neighbour sends it, so a byte here costs ten."""
BATCH_BYTES_MAX: Final = 64 * 1024
ELEMENTS_MAX: Final = 512
AT_ONCE_MAX: Final = 128
"""Records, and owners whose content changed, that one publication tells of: 1 or 2 ms of work. More wait for the
next one."""
REST_SHARE: Final = 0.2

_Key = TypeVar("_Key")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Change:
    """Where this replica stood with an owner, and the removals since; None when they are not all known."""

    epoch: Epoch
    after: int
    removals: list[int] | None


class Dissemination:
    """The changes of one replica since its last publication."""

    def __init__(self, held: ORSet) -> None:
        self._held = held
        self._claims: dict[tuple[str, str], Claim] = {}
        self._changes: dict[str, _Change] = {}

    @property
    def pending(self) -> bool:
        """Whether there is anything to publish."""
        return bool(self._claims or self._changes)

    def pause_s(self, coalesce_s: float) -> float:
        """How long the next publication waits: for less than others when one could not tell of everything."""
        return coalesce_s * (REST_SHARE if self.pending else 1)

    def claim(self, claim: Claim) -> None:
        """A record is news here; it replaces what was to be said of that member by the same accuser."""
        self._claims[claim.member.name, claim.accuser] = claim

    def change(self, owner: str, before: tuple[Epoch, int], delta: Delta | None = None) -> None:
        """An owner's set changed here, by that delta if it was one."""
        change = self._changes.get(owner)
        removals = delta.removals if isinstance(delta, Interval) else None
        if change is None:
            known = None if removals is None else list(removals)
            self._changes[owner] = _Change(*before, known)
        elif removals is None:
            change.removals = None
        elif change.removals is not None:
            change.removals.extend(removals)

    def forget(self, owner: str) -> None:
        """Nothing is to be said of this owner's content."""
        self._changes.pop(owner, None)

    def take(self) -> Iterator[Members | Heads | Deltas]:
        """What is to be published now; it is not pending any more."""
        claims, changes = _pop(self._claims), _pop(self._changes)
        for some in _batches(claims, CLAIMS_PER_MESSAGE_MAX):
            yield Members(tuple(claim for _, claim in some))
        heads: list[Head] = []
        deltas: list[Delta] = []
        for owner, change in changes:
            if (change.epoch, change.after) < self._held.at(owner):
                delta = self._delta(owner, change)
                if delta is None:
                    heads.append(self._held.head(owner))
                else:
                    deltas.append(delta)
        for heads_now in _batches(heads, HEADS_PER_MESSAGE_MAX):
            yield Heads(tuple(heads_now))
        yield from _in_messages(deltas)

    def _delta(self, owner: str, change: _Change) -> Delta | None:
        """What to publish of a change; None when it is to be announced."""
        cell = self._held.cells[owner]
        if change.epoch == cell.epoch and change.removals is not None:
            delta: Delta | None = self._held.interval(owner, change.after, set(change.removals))
        elif change.epoch not in (cell.epoch, BOTTOM):
            return None
        elif len(cell.sequences) > (ELEMENTS_MAX if change.after == 0 else PUBLISHED_BYTES_MAX):
            return None  # surely too large: spare the work of finding out how much
        else:
            delta = self._held.diff(owner, change.epoch, change.after)
        assert delta is not None
        return delta if content_bytes(delta) <= PUBLISHED_BYTES_MAX else None


def _pop(pending: dict[_Key, _T]) -> list[tuple[_Key, _T]]:
    """Take the first out of what is pending."""
    return [(key, pending.pop(key)) for key in list(islice(pending, AT_ONCE_MAX))]


def _batches(things: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(things), most):
        yield things[start : start + most]


def _in_messages(deltas: Iterable[Delta]) -> Iterator[Deltas]:
    batch: list[Delta] = []
    size = 0
    for delta in deltas:
        if batch and (size + content_bytes(delta) > BATCH_BYTES_MAX or len(batch) == DELTAS_PER_MESSAGE_MAX):
            yield Deltas(tuple(batch))
            batch, size = [], 0
        batch.append(delta)
        size += content_bytes(delta)
    if batch:
        yield Deltas(tuple(batch))
