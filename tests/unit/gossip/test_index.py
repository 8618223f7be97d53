"""The inverted index against a plain dict of sets."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gossip.index import Index
from gossip.or_set import Epoch, ORSet, Snapshot


def group_of(key: bytes) -> bytes | None:
    return key[:1] if key[:1] in b"ab" else None


def test_the_index_answers_like_a_plain_dict_through_random_changes() -> None:
    dice = random.Random(1)
    index = Index(group_of)
    slots = [index.claim_slot() for _ in range(5)]
    plain: dict[bytes, dict[int, int]] = {}
    for step in range(5000):
        slot, key = dice.choice(slots), b"%c%d" % (dice.choice(b"abc"), dice.randrange(6))
        holders = plain.setdefault(key, {})
        if slot in holders:
            assert index.insert(slot, [key, b"another"]) == []
            index.discard(slot, holders.pop(slot))
        else:
            [identity] = index.insert(slot, [key])
            assert index.keys([identity]) == [key]
            holders[slot] = identity
        assert list(index.slots(key)) == sorted(holders)
        assert index.holds(slot, key) == (slot in holders)
        for group in (b"a", b"b", b"c"):
            expected = sorted(k for k, h in plain.items() if h and group_of(k) == group)
            assert index.keys_in_group(group) == expected
        if step % 100 == 0:
            index.check()
    assert len(index) == sum(1 for holders in plain.values() if holders)
    assert index.pairs == sum(map(len, plain.values()))


def test_a_released_slot_is_used_again() -> None:
    index = Index(lambda _key: None)
    first, second = index.claim_slot(), index.claim_slot()
    index.release_slot(first)
    assert index.claim_slot() == first
    assert index.claim_slot() not in (first, second)


def test_an_unknown_key_has_no_holders() -> None:
    index = Index(lambda _key: None)
    assert list(index.slots(b"key")) == []
    assert not index.holds(0, b"key")


@pytest.mark.parametrize(("members", "keys_each", "keys"), [(3, 1000, 3000), (20, 200, 2000), (100, 100, 500)])
def test_what_the_index_says_it_takes_is_about_what_it_takes(members: int, keys_each: int, keys: int) -> None:
    rng = random.Random(1)
    tracemalloc.start()
    known = [rng.randbytes(33) for _ in range(keys)]
    held = ORSet("me", Epoch(1, 1), lambda _key: None)
    for number in range(members):
        chosen = tuple(enumerate(rng.sample(known, keys_each), 1))
        held.apply(Snapshot(f"node-{number}", Epoch(1, 1), keys_each, chosen))
        del chosen
    del known
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 < held.index.bytes_about / taken < 1.4


def test_ids_of_keys_that_went_while_they_were_read_are_freed_some_at_a_time() -> None:
    index = Index(group_of)
    slot = index.claim_slot()
    keys = [b"key%d" % number for number in range(5)]
    identities = index.insert(slot, keys)
    with index.pinned():
        for identity in identities:
            index.discard(slot, identity)
        assert index.swept, "they are still read"
        index.sweep(5)
        assert index.keys(identities) == keys
    for left in (3, 1, 0):
        index.sweep(2)
        assert sum(key != b"" for key in index.keys(identities)) == left
        assert index.swept == (left == 0)
        index.check()
    assert sorted(index.insert(slot, keys)) == sorted(identities), "they are used again"
