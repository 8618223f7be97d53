"""One owner's set at one replica, as parallel arrays; and the hash of the keys that an epoch begins with.

A cell's elements stand in the index too (`gossip.index`), under the cell's slot; both are changed together here.

Invariants: sequence numbers ascend and lie within 1 to version; keys are distinct; `audit` is the exclusive or of the
audit hashes of all keys.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from gossip.index import audit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossip.index import Index
    from gossip.or_set import Epoch

BASE_HASH_BYTES: Final = 16


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

    def renumber(self, epoch: Epoch, keys: Sequence[bytes]) -> None:
        """Begin an epoch with the keys that are there, which are given sorted: they are numbered from 1 in that order.

        The index stays as it is, so this takes some 20 ms for as many keys as there may be.
        """
        assert len(keys) == len(self.sequences)
        self.identities = self._index.identities(keys)
        self.sequences = array("I", range(1, len(keys) + 1))
        self.epoch, self.version = epoch, len(keys)

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
    content = b"".join([len(key).to_bytes(2) + key for key in keys])
    return hashlib.blake2b(content, digest_size=BASE_HASH_BYTES, person=b"gossip/base").digest()
