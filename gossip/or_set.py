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

A new *epoch* starts the owner's history afresh (a restart). Its first versions are the sorted keys of that moment, so
one who holds the same keys from the epoch before builds the new cell by itself (`ORSet.rebase`) and nothing is sent.

Sources: Bieniusa et al., "An optimized conflict-free replicated set" (arXiv 1210.3368); Almeida, Shoker, Baquero,
"Delta state replicated data types" (arXiv 1603.01529).

Invariants (I1 to I4, see `ORSet.check`): sequence numbers ascend and lie within 1 to version; keys of a cell are
distinct; `(epoch, version)` never falls unless the owner is forgotten; the audit hash is that of the live keys.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from gossip.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY_BYTES_MAX: Final = 1024
KEYS_PER_OWNER_MAX: Final = 65_536
OWNER_BYTES_MAX: Final = 3 * 1024 * 1024
"""All keys of one owner together, so that its snapshot always fits one message."""

SEQUENCE_MAX: Final = 2**32 - 1
LOG_OPERATIONS_MAX: Final = 1024
"""How far back the owner answers with intervals. Raising it costs 100 bytes an operation on each node."""

BASE_HASH_BYTES: Final = 16

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

    `removals` lists every dot removed in between, also those born in between: the receiver may stand anywhere in
    the interval.
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
    """Where the owner stands: `audit` covers the live keys; the base is the sorted keys that its epoch began with."""

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


class Cell:
    """One owner's set at one replica: parallel arrays of sequence numbers, ascending, and key ids."""

    __slots__ = ("audit", "epoch", "identities", "sequences", "slot", "version")

    def __init__(self, slot: int, epoch: Epoch) -> None:
        self.slot = slot
        self.epoch = epoch
        self.version = 0
        self.sequences: array[int] = array("I")
        self.identities: array[int] = array("I")
        self.audit = 0


class ORSet:
    """All cells of one replica, its own among them, and the index over them.

    `me` is the owner that this replica writes for.
    """

    def __init__(self, me: str, epoch: Epoch, group_of: Callable[[bytes], bytes | None]) -> None:
        self.me = me
        self.index = Index(group_of)
        self.cells: dict[str, Cell] = {}
        self._own: dict[bytes, int] = {}
        self._own_bytes = 0
        self._log: deque[tuple[int, int]] = deque()  # (sequence, the dot it removed, or 0 for an addition)
        self._base = (0, _hash_of(()))
        self._own_cell = self._cell(me, epoch)

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
        inserted = self._insert(cell, cell.version, key)
        assert inserted
        self._record(cell.version, 0)
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
        self._delete(cell, sequence)
        self._record(cell.version, sequence)
        return True

    def holds(self, key: bytes) -> bool:
        """Whether this node has the element."""
        return key in self._own

    def renew(self, epoch: Epoch) -> None:
        """Begin a new epoch of this node's own with the keys of now, renumbered in their sorted order."""
        cell = self._own_cell
        assert epoch >= cell.epoch
        keys = sorted(self._own)
        self._clear(cell)
        cell.epoch, cell.version = epoch, len(keys)
        for sequence, key in enumerate(keys, 1):
            self._insert(cell, sequence, key)
            self._own[key] = sequence
        self._base = (len(keys), _hash_of(keys))
        self._log.clear()

    def head(self) -> Head:
        """Where this node's own set stands."""
        cell = self._own_cell
        return Head(self.me, cell.epoch, cell.version, cell.audit, *self._base)

    # What every replica does.

    def at(self, owner: str) -> tuple[Epoch, int]:
        """The epoch and version that is held of an owner."""
        cell = self.cells.get(owner)
        return (BOTTOM, 0) if cell is None else (cell.epoch, cell.version)

    def audit(self, owner: str) -> int:
        """The audit hash of what is held of an owner."""
        cell = self.cells.get(owner)
        return 0 if cell is None else cell.audit

    def elements(self, owner: str) -> list[Addition]:
        """The live elements of an owner, by ascending sequence number."""
        cell = self.cells.get(owner)
        if cell is None:
            return []
        return [(s, self.index.key(i)) for s, i in zip(cell.sequences, cell.identities, strict=True)]

    def diff(self, owner: str, epoch: Epoch, after: int) -> Delta | None:
        """What brings one who stands at `(epoch, after)` to where this replica stands; None when it is no further.

        Any replica may answer for any owner.
        """
        cell = self.cells.get(owner)
        if cell is None or (epoch, after) >= (cell.epoch, cell.version):
            return None
        if epoch != cell.epoch or after == 0:
            return self.snapshot(owner)
        later = bisect_right(cell.sequences, after)
        adds = tuple(
            (s, self.index.key(i)) for s, i in zip(cell.sequences[later:], cell.identities[later:], strict=True)
        )
        if owner == self.me and self._log and after >= self._log[0][0] - 1:
            removals = sorted(dot for sequence, dot in self._log if dot and sequence > after)
            return Interval(owner, epoch, after, cell.version, adds, tuple(removals))
        if not later:
            return self.snapshot(owner)
        return LiveSet(owner, epoch, after, cell.version, adds, tuple(cell.sequences[:later]))

    def snapshot(self, owner: str) -> Snapshot | None:
        """Everything that is held of an owner; None when nothing is known of it."""
        cell = self.cells.get(owner)
        if cell is None:
            return None
        return Snapshot(owner, cell.epoch, cell.version, tuple(self.elements(owner)))

    def apply(self, delta: Delta) -> Outcome:
        """The join, for another's cell. Total: it never raises for anything that `gossip.codec` lets in."""
        assert delta.owner != self.me
        epoch, version = self.at(delta.owner)
        if (delta.epoch, delta.version) <= (epoch, version):
            return Outcome.STALE
        if isinstance(delta, Snapshot):
            sound = self._replace(delta)
        else:
            if delta.epoch != epoch or delta.after > version:
                return Outcome.GAP
            cell = self.cells[delta.owner]
            if isinstance(delta, Interval):
                sound = self._apply_interval(cell, delta)
            else:
                sound = self._apply_live_set(cell, delta)
        if sound:
            self.cells[delta.owner].version = delta.version
            return Outcome.APPLIED
        self.forget(delta.owner)
        return Outcome.CORRUPT

    def rebase(self, head: Head) -> bool:
        """Enter the owner's new epoch without content, when its first keys are those held of an older epoch."""
        epoch, _ = self.at(head.owner)
        if head.epoch <= epoch or head.owner == self.me:
            return False
        keys = sorted(key for _, key in self.elements(head.owner))
        if len(keys) != head.base_count or _hash_of(keys) != head.base_hash:
            return False
        adds = tuple(enumerate(keys, 1))
        return self.apply(Snapshot(head.owner, head.epoch, len(keys), adds)) is Outcome.APPLIED

    def forget(self, owner: str) -> None:
        """Drop everything that is held of another owner."""
        assert owner != self.me
        cell = self.cells.pop(owner, None)
        if cell is not None:
            self._clear(cell)
            self.index.release_slot(cell.slot)

    def check(self) -> None:
        """Assert the invariants; linear in the number of elements."""
        self.index.check()
        assert self.index.pairs == sum(len(cell.sequences) for cell in self.cells.values())
        for owner, cell in self.cells.items():
            elements = self.elements(owner)
            sequences = [sequence for sequence, _ in elements]
            assert sequences == sorted(set(sequences)), "I1: sequence numbers ascend"
            assert not sequences or 1 <= sequences[0] <= sequences[-1] <= cell.version, "I1: within 1 to version"
            assert all(self.index.holds(cell.slot, key) for _, key in elements), "every element is in the index"
            audit = 0
            for _, key in elements:
                audit ^= _audit_of(key)
            assert audit == cell.audit, "I4: the audit hash is that of the live keys"
        assert {key: sequence for sequence, key in self.elements(self.me)} == self._own

    def _cell(self, owner: str, epoch: Epoch) -> Cell:
        cell = self.cells.get(owner)
        if cell is None:
            cell = self.cells[owner] = Cell(self.index.claim_slot(), epoch)
        cell.epoch = epoch
        return cell

    def _record(self, sequence: int, removed: int) -> None:
        self._log.append((sequence, removed))
        if len(self._log) > LOG_OPERATIONS_MAX:
            self._log.popleft()

    def _replace(self, snapshot: Snapshot) -> bool:
        cell = self._cell(snapshot.owner, snapshot.epoch)
        self._clear(cell)
        return self._extend(cell, snapshot.adds)

    def _apply_interval(self, cell: Cell, interval: Interval) -> bool:
        for sequence in interval.removals:
            self._delete(cell, sequence)
        return self._extend(cell, interval.adds)

    def _apply_live_set(self, cell: Cell, delta: LiveSet) -> bool:
        live = frozenset(delta.live)
        # Dots above `after` that this replica already has are judged by `adds`: those missing there have died.
        live |= {sequence for sequence, _ in delta.adds}
        dead = [sequence for sequence in cell.sequences if sequence not in live]
        for sequence in dead:
            self._delete(cell, sequence)
        kept = frozenset(cell.sequences)
        return kept.issuperset(delta.live) and self._extend(cell, delta.adds)

    def _extend(self, cell: Cell, adds: Sequence[Addition]) -> bool:
        """Append the additions above the cell's version; False when one contradicts what is held."""
        return all(self._insert(cell, sequence, key) for sequence, key in adds if sequence > cell.version)

    def _insert(self, cell: Cell, sequence: int, key: bytes) -> bool:
        identity = self.index.insert(cell.slot, key)
        if identity is None:
            return False
        cell.sequences.append(sequence)
        cell.identities.append(identity)
        cell.audit ^= _audit_of(key)
        return True

    def _delete(self, cell: Cell, sequence: int) -> None:
        position = bisect_left(cell.sequences, sequence)
        if position == len(cell.sequences) or cell.sequences[position] != sequence:
            return
        identity = cell.identities[position]
        cell.audit ^= _audit_of(self.index.key(identity))
        self.index.discard(cell.slot, identity)
        del cell.sequences[position]
        del cell.identities[position]

    def _clear(self, cell: Cell) -> None:
        for identity in cell.identities:
            self.index.discard(cell.slot, identity)
        cell.version, cell.audit = 0, 0
        del cell.sequences[:]
        del cell.identities[:]


def _audit_of(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"gossip/audit").digest())


def _hash_of(keys: Sequence[bytes]) -> bytes:
    """A hash of sorted keys; each is preceded by its length, so that no two lists look alike."""
    hasher = hashlib.blake2b(digest_size=BASE_HASH_BYTES, person=b"gossip/base")
    for key in keys:
        hasher.update(len(key).to_bytes(2))
        hasher.update(key)
    return hasher.digest()
