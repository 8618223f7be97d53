"""What is sent in parts arrives as it was, part by part small, whatever the sets are."""

from __future__ import annotations

import gc

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.messages import Part
from gossip.or_set import BOTTOM, Epoch, ORSet, Outcome, Snapshot
from gossip.transfer import PART_WORK_MAX, Incoming, Outgoing

OWNERS = ("ann", "bob", "cyd")
EPOCH = Epoch(1, 1)


def holding(sizes: list[int], overlap: int) -> ORSet:
    """A replica that holds sets of these sizes; neighbours in the list have most of their keys in common."""
    held = ORSet("me", Epoch(1, 1), lambda _key: None)
    for number, (owner, size) in enumerate(zip(OWNERS, sizes, strict=True)):
        keys = [b"key%d" % (number * overlap + index) for index in range(size)]
        held.apply(Snapshot(owner, EPOCH, 2 * size, tuple((2 * index + 1, key) for index, key in enumerate(keys))))
    return held


def parts_of(held: ORSet) -> list[Part]:
    outgoing = Outgoing(held, (), [(owner, BOTTOM, 0) for owner in OWNERS])
    return list(iter(outgoing.next, None))


sizes = st.lists(st.integers(0, 3 * PART_WORK_MAX), min_size=3, max_size=3)


@settings(deadline=None, max_examples=50)
@given(sizes, st.integers(0, 50))
def test_sets_of_any_size_arrive_in_small_parts(sizes: list[int], overlap: int) -> None:
    source, target = holding(sizes, overlap), ORSet("you", Epoch(1, 1), lambda _key: None)
    incoming = Incoming("me", target, 0.0)
    parts = parts_of(source)
    for part in parts:
        assert part.last == (part is parts[-1])
        assert sum(len(piece.sequences) for piece in part.pieces) <= PART_WORK_MAX
        for owner, cell in incoming.take(part) or ():
            assert target.install(owner, cell) is Outcome.APPLIED
        target.check()
    for owner in OWNERS:
        assert target.at(owner) == source.at(owner)
        assert target.elements(owner) == source.elements(owner)
    assert sum(len(part.keys) for part in parts) == len(source.index), "each key is sent once"


def test_what_changes_while_a_set_is_sent_is_not_in_it() -> None:
    """Its keys go meanwhile, and others come in their place."""
    source, target = holding([3 * PART_WORK_MAX, 0, 0], 0), ORSet("you", Epoch(1, 1), lambda _key: None)
    there, elements = source.at("ann"), source.elements("ann")
    outgoing = Outgoing(source, (), [("ann", BOTTOM, 0)])
    first = outgoing.next()
    assert first is not None
    others = tuple((number, b"other%d" % number) for number in range(1, len(elements) + 1))
    source.apply(Snapshot("ann", Epoch(2, 1), len(others), others))
    source.check()
    incoming = Incoming("me", target, 0.0)
    for part in (first, *iter(outgoing.next, None)):
        for owner, cell in incoming.take(part) or ():
            assert target.install(owner, cell) is Outcome.APPLIED
    assert (target.at("ann"), target.elements("ann")) == (there, elements)
    source.sweep()
    size = len(source.index._keys)
    source.apply(Snapshot("bob", Epoch(1, 1), 2, ((1, b"one"), (2, b"two"))))
    assert len(source.index._keys) == size, "what went is used again when nobody reads it"
    source.check()


@settings(deadline=None, max_examples=50)
@given(sizes, st.data())
def test_an_answer_that_loses_a_part_is_given_up_and_leaves_nothing(sizes: list[int], data: st.DataObject) -> None:
    parts = parts_of(holding([size + PART_WORK_MAX for size in sizes], 10))
    lost = data.draw(st.integers(0, len(parts) - 2))
    target = ORSet("you", Epoch(1, 1), lambda _key: None)
    incoming = Incoming("me", target, 0.0)
    for part in (*parts[:lost], *parts[lost + 1 :]):
        cells = incoming.take(part)
        if cells is None:
            break
        for _, cell in cells:
            target.abandon(cell)
    else:
        raise AssertionError("the loss was not seen")
    incoming.abandon()
    while not target.swept:
        target.sweep()
    target.check()
    assert target.index.pairs == 0


def test_an_answer_that_is_dropped_frees_at_once_what_it_was_still_to_tell_of() -> None:
    source = holding([3 * PART_WORK_MAX, 0, 0], 0)
    gc.disable()
    try:
        outgoing = Outgoing(source, (), [("ann", BOTTOM, 0)])
        outgoing.next()
        source.forget("ann")
        while not source.swept:
            source.sweep()
        del outgoing
        assert not source.index.swept, "its keys could be told of until then"
    finally:
        gc.enable()
