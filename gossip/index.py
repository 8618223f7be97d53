"""Which members hold a key: the inverted index, compact enough for a million pairs.

It is not the replicated data itself (`gossip.or_set`) and knows no names: a member is a *slot*, a small number that
is given back when the member is forgotten. A key is stored once and meant by its *id* everywhere else.

The cost: about 4 bytes for the pair here and 8 in the member's own arrays (`gossip.or_set.Cell`), together
`PAIR_BYTES`; and about 180 bytes for each distinct key (`KEY_BYTES`), nearly all of it CPython's bytes object and
dictionary entry. A key's audit hash is kept beside it, since hashing is most of what it would take to note one more
holder.

Invariants: the holders of a key are distinct and ascending; a key without a holder does not exist; a free id stands
for no key.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise
from operator import xor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SLOTS_MAX: Final = 1 << 16
"""Slots are unsigned 16-bit numbers; the limit on members (`gossip.membership.MEMBERS_MAX`) lies far below."""
PAIR_BYTES: Final = 12
KEY_BYTES: Final = 180


class Index:
    """Holders by key, and keys by group.

    `group_of` maps a key to the group it is listed under, or to None; it must always give the same answer.
    """

    def __init__(self, group_of: Callable[[bytes], bytes | None]) -> None:
        self.pairs = 0
        self._group_of = group_of
        self._ids: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._audits: array[int] = array("Q")
        # A lone holder, the most common case by far in small clusters, is the bare number.
        self._holders: list[int | array[int]] = []
        self._free_ids: list[int] = []
        self._pins = 0
        self._pinned_ids: list[int] = []
        """Of keys that went while somebody read ids; they are to be freed when nobody does any more."""
        self._free_slots: list[int] = []
        self.slots_claimed = 0
        self._groups: dict[bytes, dict[int, None]] = {}

    def __len__(self) -> int:
        """The number of distinct keys."""
        return len(self._ids)

    @property
    def bytes_about(self) -> int:
        """About how much memory the index and the members' cells take."""
        return PAIR_BYTES * self.pairs + KEY_BYTES * len(self)

    def claim_slot(self) -> int:
        """A slot that nobody uses."""
        if self._free_slots:
            return self._free_slots.pop()
        assert self.slots_claimed < SLOTS_MAX
        self.slots_claimed += 1
        return self.slots_claimed - 1

    def release_slot(self, slot: int) -> None:
        """Give a slot back; it holds nothing any more."""
        self._free_slots.append(slot)

    def keys(self, identities: Iterable[int]) -> list[bytes]:
        """The keys that some ids stand for."""
        return list(map(self._keys.__getitem__, identities))

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Within this every id goes on to stand for its key, also when the key goes: for who reads many, some at a
        time. `sweep` frees such ids afterwards."""
        self._pins += 1
        try:
            yield
        finally:
            self._pins -= 1

    def sweep(self, most: int) -> None:
        """Free ids of keys that went while somebody read ids, if nobody does now; at most so many."""
        if not self._pins:
            for _ in range(min(most, len(self._pinned_ids))):
                self._free(self._pinned_ids.pop())

    @property
    def swept(self) -> bool:
        """Whether there is nothing to sweep now."""
        return bool(self._pins) or not self._pinned_ids

    def audit(self, identities: Iterable[int]) -> int:
        """The audit hash of the keys that some ids stand for."""
        return reduce(xor, map(self._audits.__getitem__, identities), 0)

    def slots(self, key: bytes) -> Sequence[int]:
        """The slots that hold `key`, ascending."""
        identity = self._ids.get(key)
        if identity is None:
            return ()
        holders = self._holders[identity]
        return (holders,) if isinstance(holders, int) else holders

    def holds(self, slot: int, key: bytes) -> bool:
        """Whether `slot` holds `key`."""
        slots = self.slots(key)
        position = bisect_left(slots, slot)
        return position < len(slots) and slots[position] == slot

    def groups(self) -> list[bytes]:
        """All groups that a key belongs to."""
        return list(self._groups)

    def keys_in_group(self, group: bytes) -> list[bytes]:
        """The keys of a group that anybody holds, sorted."""
        return sorted(self._keys[identity] for identity in self._groups.get(group, ()))

    def insert(self, slot: int, keys: Iterable[bytes]) -> list[int]:
        """Note that `slot` holds some keys; their ids, up to the first of which that was known already."""
        ids, all_holders = self._ids, self._holders
        identities: list[int] = []
        for key in keys:
            identity = ids.get(key)
            if identity is None:
                identity = self._new_key(slot, key)
            else:
                holders = all_holders[identity]
                if isinstance(holders, int):
                    if holders == slot:
                        break
                    all_holders[identity] = array("H", (holders, slot) if holders < slot else (slot, holders))
                else:
                    position = bisect_left(holders, slot)
                    if position < len(holders) and holders[position] == slot:
                        break
                    holders.insert(position, slot)
            identities.append(identity)
        self.pairs += len(identities)
        return identities

    def discard(self, slot: int, identity: int) -> None:
        """Note that `slot` no longer holds a key that it held."""
        holders = self._holders[identity]
        self.pairs -= 1
        if isinstance(holders, int):
            assert holders == slot
            self._drop_key(identity)
            return
        position = bisect_left(holders, slot)
        assert holders[position] == slot
        del holders[position]
        if len(holders) == 1:
            self._holders[identity] = holders[0]

    def check(self) -> None:
        """Assert the invariants; linear in the size of the index."""
        pairs = 0
        for key, identity in self._ids.items():
            assert self._keys[identity] == key
            assert self._audits[identity] == audit_of(key)
            slots = self.slots(key)
            assert len(slots) > 0
            assert all(first < second for first, second in pairwise(slots))
            pairs += len(slots)
            group = self._group_of(key)
            assert group is None or identity in self._groups[group]
        assert pairs == self.pairs
        assert len(self._ids) + len(self._free_ids) + len(self._pinned_ids) == len(self._keys) == len(self._audits)

    def _new_key(self, slot: int, key: bytes) -> int:
        if self._free_ids:
            identity = self._free_ids.pop()
            self._keys[identity] = key
            self._audits[identity] = audit_of(key)
            self._holders[identity] = slot
        else:
            identity = len(self._keys)
            self._keys.append(key)
            self._audits.append(audit_of(key))
            self._holders.append(slot)
        self._ids[key] = identity
        group = self._group_of(key)
        if group is not None:
            self._groups.setdefault(group, {})[identity] = None
        return identity

    def _drop_key(self, identity: int) -> None:
        key = self._keys[identity]
        del self._ids[key]
        group = self._group_of(key)
        if group is not None:
            members = self._groups[group]
            del members[identity]
            if not members:
                del self._groups[group]
        if self._pins:
            self._pinned_ids.append(identity)
        else:
            self._free(identity)

    def _free(self, identity: int) -> None:
        self._keys[identity] = b""
        self._free_ids.append(identity)


def audit_of(key: bytes) -> int:
    """The 64-bit hash of a key; the hash of a set is the exclusive or of its keys'."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"gossip/audit").digest())
