"""One owner's set at one replica, as parallel arrays; and the hash of the keys that an epoch begins with.

A cell's elements stand in the index too (`gossip.index`), under the cell's slot; both are changed together here.

Invariants: sequence numbers ascend and lie within 1 to version; keys are distinct; `audit` is the exclusive or of the
audit hashes of all keys.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from bisect import bisect_left, bisect_right
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from gossip.index import audit_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from gossip.index import Index
    from gossip.or_set import Addition, Epoch

BASE_HASH_BYTES: Final = 16
KEY_BYTES_MAX: Final = 1024
SORTED_KEYS: Final = 2048
NUMBERED_KEYS: Final = 1024
"""So many keys are sorted, or put in their place among all, at a time: about 1 ms of work."""
CHANGED_MAX: Final = 1024
"""So many elements are removed, or kept where most go, in one call: some milliseconds."""
_T = TypeVar("_T")
_LENGTHS: Final = [length.to_bytes(2) for length in range(KEY_BYTES_MAX + 1)]


class Base(NamedTuple):
    """What an epoch begins with: the numbers from 1 on, the ids of the keys in the order of the keys, and a hash of
    these."""

    sequences: array[int]
    identities: array[int]
    hash: bytes


class Cell:
    """Sequence numbers, ascending, and the key ids of the index, in arrays; 8 bytes an element."""

    __slots__ = ("_index", "audit", "epoch", "identities", "sequences", "slot", "version")

    def __init__(self, index: Index, epoch: Epoch, version: int = 0) -> None:
        self._index = index
        self.slot = index.claim_slot()
        self.epoch = epoch
        self.version = version
        self.sequences: array[int] = array("I")
        self.identities: array[int] = array("I")
        self.audit = 0

    def extend(self, sequences: Sequence[int], keys: Sequence[bytes]) -> bool:
        """Add elements above all others, ascending; False when one of the keys is there already: it and those after it
        are not added."""
        identities = self._index.insert(self.slot, keys)
        self.sequences.extend(sequences[: len(identities)])
        self.identities.extend(identities)
        self.audit ^= self._index.audit(identities)
        return len(identities) == len(keys)

    def find(self, sequences: Iterable[int]) -> list[int]:
        """The positions of those elements that are there; the numbers ascend."""
        held, positions, position = self.sequences, [], 0
        for sequence in sequences:
            position = bisect_left(held, sequence, position)
            if position == len(held):
                break
            if held[position] == sequence:
                positions.append(position)
        return positions

    def displaced(self, after: int, live: int) -> int:
        """How many elements move when so many of those up to a number live: those that go, or those that stay, if these
        are fewer."""
        return min(live, bisect_right(self.sequences, after) - live)

    def delete(self, positions: Sequence[int]) -> None:
        """Remove the elements at some positions, which ascend."""
        identities = [self.identities[position] for position in positions]
        self.audit ^= self._index.audit(identities)
        for identity in identities:
            self._index.discard(self.slot, identity)
        _delete(self.sequences, positions)
        _delete(self.identities, positions)

    def only(self, positions: Sequence[int]) -> Cell:
        """A cell of the elements at some positions, which ascend: this one without the others, or a new one if these
        are fewer."""
        if 2 * len(positions) >= len(self.sequences):
            ends = pairwise((-1, *positions, len(self.sequences)))
            self.delete([position for before, after in ends for position in range(before + 1, after)])
            return self
        cell = Cell(self._index, self.epoch, self.version)
        identities = [self.identities[position] for position in positions]
        cell.extend([self.sequences[position] for position in positions], self._index.keys(identities))
        return cell

    def in_order(self) -> Generator[None, None, Base]:
        """The base of an epoch that begins with these keys; in steps of about 1 ms, one if they are few. It means
        nothing when the cell changes between the steps."""
        unsorted, many = self.identities[:], len(self.identities) > NUMBERED_KEYS
        runs = []
        for start in range(0, len(unsorted), SORTED_KEYS):
            some = unsorted[start : start + SORTED_KEYS]
            runs.append(sorted(zip(self._index.keys(some), some, strict=True), reverse=True))
            if many:
                yield
        merged = heapq.merge(*map(_drained, runs))
        base, hashed = Base(array("I"), array("I"), b""), base_hash()
        while batch := list(islice(merged, NUMBERED_KEYS)):
            hashed.update(framed([key for key, _ in batch]))
            base.identities.extend(identity for _, identity in batch)
            base.sequences.extend(range(len(base.sequences) + 1, len(base.identities) + 1))
            if many:
                yield
        return base._replace(hash=hashed.digest())

    def renumber(self, base: Base, epoch: Epoch) -> None:
        """Enter an epoch that begins with the keys that are there. The index stays as it is."""
        assert len(base.sequences) == len(self.sequences)
        self.sequences, self.identities = base.sequences, base.identities
        self.epoch, self.version = epoch, len(base.sequences)

    def shrink(self, elements: int) -> None:
        """Take the last elements out of the index, at most so many. What remains is no state of the owner's."""
        start = max(0, len(self.sequences) - elements)
        for identity in self.identities[start:]:
            self._index.discard(self.slot, identity)
        del self.sequences[start:]
        del self.identities[start:]

    def release(self) -> None:
        """Give the slot back; the cell is empty, and is not used any more."""
        assert not self.sequences
        self._index.release_slot(self.slot)

    def elements(self, start: int = 0) -> tuple[Addition, ...]:
        """The numbers and keys of the elements from that position on."""
        return tuple(zip(self.sequences[start:], self._index.keys(self.identities[start:]), strict=True))

    def check(self) -> None:
        """Assert the invariants; linear in the number of elements."""
        numbers = list(self.sequences)
        assert numbers == sorted(set(numbers)), "I1: sequence numbers ascend"
        assert not numbers or 1 <= numbers[0] <= numbers[-1] <= self.version, "I1: within 1 to version"
        audit = 0
        for _, key in self.elements():
            assert self._index.holds(self.slot, key), "every element is in the index"
            audit ^= audit_of(key)
        assert audit == self.audit, "I4: the audit hash is that of the live keys"


def _delete(numbers: array[int], positions: Sequence[int]) -> None:
    """Close the gaps in one pass: each deletion by itself would move half of all."""
    end = positions[0] if positions else len(numbers)
    with memoryview(numbers) as view:
        for position, following in pairwise((*positions, len(numbers))):
            kept = following - position - 1
            view[end : end + kept] = view[position + 1 : following]
            end += kept
    del numbers[end:]


def _drained(things: list[_T]) -> Iterator[_T]:
    """Take the things from the last to the first; to let go of very many at once takes long."""
    while things:
        yield things.pop()


def base_hash() -> hashlib.blake2b:
    """A hash to be fed with the sorted keys of a base, `framed`."""
    return hashlib.blake2b(digest_size=BASE_HASH_BYTES, person=b"gossip/base")


def framed(keys: Sequence[bytes]) -> bytes:
    """The keys one after another, each preceded by its length, so that no two lists look alike."""
    lengths = map(_LENGTHS.__getitem__, map(len, keys))
    return b"".join(chain.from_iterable(zip(lengths, keys, strict=True)))
