"""What is sent in parts arrives as it was, part by part small, whatever the sets are."""

from __future__ import annotations

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
