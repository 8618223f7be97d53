"""One owner's set at one replica, as parallel arrays; and the hash of the keys that an epoch begins with.

A cell's elements stand in the index too (`gossip.index`), under the cell's slot; both are changed together here.

Invariants: sequence numbers ascend and lie within 1 to version; keys are distinct; `audit` is the exclusive or of the
audit hashes of all keys.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING, Final

from gossip.index import audit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossip.index import Index
    from gossip.or_set import Epoch

BASE_HASH_BYTES: Final = 16
KEY_BYTES_MAX: Final = 1024
_LENGTHS: Final = [length.to_bytes(2) for length in range(KEY_BYTES_MAX + 1)]


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

    def delete(self, sequence: int) -> None:
        """Remove an element, if it is there."""
        position = bisect_left(self.sequences, sequence)
        if position == len(self.sequences) or self.sequences[position] != sequence:
            return
        identity = self.identities[position]
        self.audit ^= self._index.audit((identity,))
        self._index.discard(self.slot, identity)
        del self.sequences[position]
        del self.identities[position]

    def in_order(self) -> tuple[list[bytes], array[int]]:
        """The keys, sorted, and their ids in the same order."""
        keys = self.keys()
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return [keys[position] for position in order], array("I", map(self.identities.__getitem__, order))

    def renumber(self, epoch: Epoch, identities: array[int]) -> None:
        """Begin an epoch with the keys that are there, numbered from 1 in their sorted order, in which `identities`
        are. The index stays as it is."""
        assert len(identities) == len(self.sequences)
        self.identities = identities
        self.sequences = array("I", range(1, len(identities) + 1))
        self.epoch, self.version = epoch, len(identities)

    def clear(self) -> None:
        """Remove all elements; the version is 0 then."""
        self.shrink(len(self.sequences))
        self.version = self.audit = 0

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

    def keys(self, start: int = 0) -> list[bytes]:
        """The keys of the elements from that position on."""
        return self._index.keys(self.identities[start:])

    def check(self) -> None:
        """Assert the invariants; linear in the number of elements."""
        numbers = list(self.sequences)
        assert numbers == sorted(set(numbers)), "I1: sequence numbers ascend"
        assert not numbers or 1 <= numbers[0] <= numbers[-1] <= self.version, "I1: within 1 to version"
        audit = 0
        for key in self.keys():
            assert self._index.holds(self.slot, key), "every element is in the index"
            audit ^= audit_of(key)
        assert audit == self.audit, "I4: the audit hash is that of the live keys"


def hash_of(keys: Sequence[bytes]) -> bytes:
    """A hash of sorted keys; each is preceded by its length, so that no two lists look alike."""
    lengths = map(_LENGTHS.__getitem__, map(len, keys))
    content = b"".join(chain.from_iterable(zip(lengths, keys, strict=True)))
    return hashlib.blake2b(content, digest_size=BASE_HASH_BYTES, person=b"gossip/base").digest()
