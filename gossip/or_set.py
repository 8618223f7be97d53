"""The replicated set: an OR-set in which every element is written by its owner alone.

An element is (key, owner). Because only the owner adds and removes its elements, one sequential process writes them
all, and it numbers every operation, additions and removals alike: 1, 2, 3 ... So the owner's whole set is a function
of `(epoch, version)`, the states of one owner form a chain, and *join* is "take the higher one". The causal context of
an OR-set shrinks to that one pair: there are no tombstones and no clouds of dots, and nothing grows with history.

A replica holds for each owner an exact prefix of its history. It applies only what continues that prefix; anything
else is a gap, to be pulled. What travels:

- `Interval`: the operations after one version up to another, for those who missed a little;
- `LiveSet`: which of the old elements still live, and the new ones, for those who missed more than the owner logged
  (it stands in for tombstones, at about a byte for each survivor);
- `Snapshot`: everything; replaces what was there;
- `Head`: the version and an audit hash, no content.

A new *epoch* starts the owner's history afresh (a restart). Its first versions are the sorted keys with which the owner
started, so one who holds the same keys from the epoch before builds the new cell by itself (`ORSet.rebase`) and nothing
is sent.

Sources: Bieniusa et al., "An optimized conflict-free replicated set" (arXiv 1210.3368); Almeida, Shoker, Baquero,
"Delta state replicated data types" (arXiv 1603.01529).

Invariants (I1 to I4, see `ORSet.check`): sequence numbers ascend and lie within 1 to version; keys of a cell are
distinct; `(epoch, version)` never falls unless the owner is forgotten; the audit hash is that of the live keys.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from gossip.cell import CHANGED_MAX, KEY_BYTES_MAX, NUMBERED_KEYS, Cell, base_hash
from gossip.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

KEYS_PER_OWNER_MAX: Final = 65_536
OWNER_BYTES_MAX: Final = 16 * 1024 * 1024
"""All keys of one owner together."""
SEQUENCE_MAX: Final = 2**32 - 1
LOG_OPERATIONS_MAX: Final = 1024
"""How far back the owner answers with intervals. Raising it costs 100 bytes an operation on each node."""
SWEEP_ELEMENTS: Final = 1024
"""So many elements of dropped cells are taken out of the index at a time; about 1 ms."""
RETIRED_MAX: Final = 16
"""So many dropped cells wait for that; one more is emptied at once, however long it takes."""

Addition = tuple[int, bytes]
"""A sequence number and the key that was added by it."""


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """One life of an owner. The counter survives restarts; the nonce tells two lives of one counter apart."""

    counter: int
    nonce: int


BOTTOM: Final = Epoch(0, 0)
"""Before every epoch: nothing is known of the owner."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The operations after version `after` up to `version`.

    `removals` lists every dot removed in between, also those born in between: the receiver may stand anywhere in it.
    """

    owner: str
    epoch: Epoch
    after: int
    version: int
    adds: tuple[Addition, ...]
    removals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LiveSet:
    """`live` are the sequence numbers up to `after` that still live at `version`; `adds` are the later elements."""

    owner: str
    epoch: Epoch
    after: int
    version: int
    adds: tuple[Addition, ...]
    live: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The owner's whole set at `version`."""

    owner: str
    epoch: Epoch
    version: int
    adds: tuple[Addition, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the owner stands: `audit` covers the live keys; the base is the sorted keys that its epoch began with.
    Who passes on a head without having seen the base leaves it out: `base_hash` is empty.
    """

    owner: str
    epoch: Epoch
    version: int
    audit: int
    base_count: int
    base_hash: bytes


Delta = Interval | LiveSet | Snapshot


class Outcome(Enum):
    """What became of a delta."""

    APPLIED = "applied"
    STALE = "stale"
    """Nothing new in it: a duplicate, or late."""
    GAP = "gap"
    """It continues a version that this replica has not reached."""
    CORRUPT = "corrupt"
    """It contradicts what is held; the owner's cell was dropped and must be pulled whole."""
    LONG = "long"
    """To apply it would take long. Nothing was done; the whole set is to be pulled, which is taken in slices."""


class ORSet:
    """All cells of one replica, that of `me`, for which it writes, among them; and the index over them."""

    def __init__(self, me: str, epoch: Epoch, group_of: Callable[[bytes], bytes | None]) -> None:
        self.me = me
        self.index = Index(group_of)
        self._own_cell = Cell(self.index, epoch)
        self.cells: dict[str, Cell] = {me: self._own_cell}
        self._own: dict[bytes, int] = {}
        self._own_bytes = 0
        self._log: deque[tuple[int, int]] = deque(maxlen=LOG_OPERATIONS_MAX)  # (number, dot removed or 0)
        self._bases: dict[str, tuple[Epoch, int, bytes]] = {me: (epoch, 0, base_hash().digest())}
        self._staged: list[Cell] = []
        self._retired: list[Cell] = []

    # What the owner does.

    def add(self, key: bytes) -> bool:
        """Add an element of this node's own; False when it is there already, or there is no room for it."""
        full = len(self._own) >= KEYS_PER_OWNER_MAX or self._own_bytes + len(key) > OWNER_BYTES_MAX
        if key in self._own or full or not 0 < len(key) <= KEY_BYTES_MAX:
            return False
        cell = self._own_cell
        assert cell.version < SEQUENCE_MAX
        cell.version += 1
        self._own[key] = cell.version
        self._own_bytes += len(key)
        extended = cell.extend((cell.version,), (key,))
        assert extended
        self._log.append((cell.version, 0))
        return True

    def remove(self, key: bytes) -> bool:
        """Remove an element of this node's own; False when it is not there."""
        sequence = self._own.pop(key, None)
        if sequence is None:
            return False
        cell = self._own_cell
        assert cell.version < SEQUENCE_MAX
        cell.version += 1
        self._own_bytes -= len(key)
        cell.delete(cell.find((sequence,)))
        self._log.append((cell.version, sequence))
        return True

    def holds(self, key: bytes) -> bool:
        """Whether this node has the element."""
        return key in self._own

    def begin(self, epoch: Epoch) -> Generator[None, None, None]:
        """Begin a new epoch of this node's own with the keys of now as its base, numbered in their sorted order.

        In steps of about 1 ms. Nothing may be added or removed between them.
        """
        cell = self._own_cell
        version = cell.version
        if version > self._bases[self.me][1]:
            base = yield from cell.in_order()
            for start in range(0, len(self._own), NUMBERED_KEYS):
                keys = self.index.keys(base.identities[start : start + NUMBERED_KEYS])
                self._own.update(zip(keys, count(start + 1), strict=False))
                yield
            assert cell.version == version
            cell.renumber(base, epoch)
            self._bases[self.me] = (epoch, len(self._own), base.hash)
            self._log.clear()
        self.renew(epoch)

    def renew(self, epoch: Epoch) -> None:
        """Begin a new epoch of this node's own with the base, and the operations since, of the one before."""
        assert epoch >= self._own_cell.epoch
        self._own_cell.epoch = epoch
        self._bases[self.me] = (epoch, *self._bases[self.me][1:])

    # What every replica does.

    def at(self, owner: str) -> tuple[Epoch, int]:
        """The epoch and version that is held of an owner."""
        cell = self.cells.get(owner)
        return (BOTTOM, 0) if cell is None else (cell.epoch, cell.version)

    def audit(self, owner: str) -> int:
        """The audit hash of what is held of an owner."""
        cell = self.cells.get(owner)
        return 0 if cell is None else cell.audit

    def head(self, owner: str | None = None) -> Head:
        """Where an owner's set stands at this replica; this node's own if none is named."""
        cell = self.cells[owner or self.me]
        epoch, size, hashed = self._bases.get(owner or self.me, (BOTTOM, 0, b""))
        if epoch != cell.epoch:
            size, hashed = 0, b""
        return Head(owner or self.me, cell.epoch, cell.version, cell.audit, size, hashed)

    def elements(self, owner: str) -> list[Addition]:
        """The live elements of an owner, by ascending sequence number."""
        return list(self.cells[owner].elements()) if owner in self.cells else []

    def diff(self, owner: str, epoch: Epoch, after: int) -> Delta | None:
        """What brings one who stands at `(epoch, after)` to where this replica stands; None when it is no further.

        Any replica may answer for any owner.
        """
        cell = self.cells.get(owner)
        if cell is None or (epoch, after) >= (cell.epoch, cell.version):
            return None
        if epoch != cell.epoch or after == 0:
            return self.snapshot(owner)
        if owner == self.me and self._log and after >= self._log[0][0] - 1:
            return self.interval(owner, after, [dot for sequence, dot in self._log if dot and sequence > after])
        later = bisect_right(cell.sequences, after)
        if not later:
            return self.snapshot(owner)
        return LiveSet(owner, epoch, after, cell.version, cell.elements(later), tuple(cell.sequences[:later]))

    def interval(self, owner: str, after: int, removals: Iterable[int]) -> Interval:
        """The interval from `after` to where this replica stands, by one who knows all removals in between."""
        cell = self.cells[owner]
        adds = cell.elements(bisect_right(cell.sequences, after))
        return Interval(owner, cell.epoch, after, cell.version, adds, tuple(sorted(removals)))

    def snapshot(self, owner: str) -> Snapshot | None:
        """Everything that is held of an owner; None when nothing is known of it."""
        cell = self.cells.get(owner)
        return Snapshot(owner, cell.epoch, cell.version, cell.elements()) if cell else None

    def apply(self, delta: Delta) -> Outcome:
        """The join, for another's cell. Total: it never raises for anything that `gossip.codec` lets in."""
        assert delta.owner != self.me
        epoch, version = self.at(delta.owner)
        if (delta.epoch, delta.version) <= (epoch, version):
            return Outcome.STALE
        if isinstance(delta, Snapshot):
            sound = self._replace(delta)
        elif delta.epoch != epoch or delta.after > version:
            return Outcome.GAP
        elif isinstance(delta, Interval):
            cell = self.cells[delta.owner]
            if len(delta.removals) > CHANGED_MAX:
                return Outcome.LONG
            cell.delete(cell.find(delta.removals))
            sound = self._extend(cell, delta.adds)
        elif self.cells[delta.owner].displaced(delta.after, len(delta.live)) > CHANGED_MAX:
            return Outcome.LONG
        else:
            sound = self._apply_live_set(self.cells[delta.owner], delta)
        if sound:
            self.cells[delta.owner].version = delta.version
            return Outcome.APPLIED
        self.forget(delta.owner)
        return Outcome.CORRUPT

    def rebase(self, head: Head) -> Generator[None, None, bool] | None:
        """Enter the owner's new epoch without content, when its first keys are those held of an older epoch.

        None when they surely are not; otherwise steps of about 1 ms, which return whether they are (they are not, if
        the set changes between them). In any case the base is remembered, to be shown to others.
        """
        epoch, version = self.at(head.owner)
        if not head.base_hash or head.owner == self.me or head.epoch < epoch:
            return None
        self._bases[head.owner] = (head.epoch, head.base_count, head.base_hash)
        cell = self.cells.get(head.owner)
        if cell is None or epoch == head.epoch or len(cell.sequences) != head.base_count:
            return None
        return self._rebase(head, cell, (epoch, version))

    def forget(self, owner: str) -> None:
        """Drop everything that is held of another owner."""
        assert owner != self.me
        self._bases.pop(owner, None)
        if cell := self.cells.pop(owner, None):
            self._retire(cell)

    # Snapshots that come in pieces.

    def stage(self, epoch: Epoch, version: int) -> Cell:
        """An empty cell that nobody sees, to be filled and then installed or abandoned."""
        cell = Cell(self.index, epoch, version)
        self._staged.append(cell)
        return cell

    def install(self, owner: str, cell: Cell) -> Outcome:
        """A staged cell is complete: it replaces what was held of the owner, if it is higher."""
        if (cell.epoch, cell.version) <= self.at(owner):
            self.abandon(cell)
            return Outcome.STALE
        self._staged.remove(cell)
        self._put(owner, cell)
        return Outcome.APPLIED

    def abandon(self, cell: Cell) -> None:
        """A staged cell will not be completed."""
        self._staged.remove(cell)
        self._retire(cell)

    def sweep(self) -> None:
        """Take some elements of dropped cells, and what is left of keys that went, out of the index."""
        if self._retired:
            cell = self._retired[-1]
            cell.shrink(SWEEP_ELEMENTS)
            if not cell.sequences:
                self._retired.pop().release()
        self.index.sweep(SWEEP_ELEMENTS)

    @property
    def swept(self) -> bool:
        """Whether nothing is left to sweep."""
        return not self._retired and self.index.swept

    def check(self) -> None:
        """Assert the invariants; linear in the number of elements."""
        self.index.check()
        cells = [*self.cells.values(), *self._staged, *self._retired]
        assert self.index.pairs == sum(len(cell.sequences) for cell in cells)
        for cell in self.cells.values():
            cell.check()
        assert {key: sequence for sequence, key in self.elements(self.me)} == self._own

    def _rebase(self, head: Head, cell: Cell, at: tuple[Epoch, int]) -> Generator[None, None, bool]:
        base = yield from cell.in_order()
        same = self.cells.get(head.owner) is cell and (cell.epoch, cell.version) == at
        if not same or base.hash != head.base_hash:
            return False
        cell.renumber(base, head.epoch)
        return True

    def _retire(self, cell: Cell) -> None:
        self._retired.append(cell)
        if len(cell.sequences) <= SWEEP_ELEMENTS:
            self.sweep()  # what is soon done is done at once
        while len(self._retired) > RETIRED_MAX:
            self.sweep()

    def _put(self, owner: str, cell: Cell) -> None:
        """A cell takes the place of the one before, which is emptied in slices."""
        before, self.cells[owner] = self.cells.get(owner, cell), cell
        if before is not cell:
            self._retire(before)

    def _replace(self, snapshot: Snapshot) -> bool:
        cell = Cell(self.index, snapshot.epoch)
        sound = self._extend(cell, snapshot.adds)
        self._put(snapshot.owner, cell)
        return sound

    def _apply_live_set(self, cell: Cell, delta: LiveSet) -> bool:
        living = cell.find(delta.live)
        if len(living) != len(delta.live):
            return False
        # Dots above `after` that this replica already has are judged by `adds`: those missing there have died.
        living += cell.find(sequence for sequence, _ in delta.adds)
        cell = cell.only(living)
        self._put(delta.owner, cell)
        return self._extend(cell, delta.adds)

    def _extend(self, cell: Cell, adds: Sequence[Addition]) -> bool:
        """Append the additions above the cell's version; False when one contradicts what is held, or it is too much."""
        fresh = adds[bisect_right(adds, cell.version, key=itemgetter(0)) :]
        if len(cell.sequences) + len(fresh) > KEYS_PER_OWNER_MAX:
            return False
        return cell.extend([sequence for sequence, _ in fresh], [key for _, key in fresh])
