"""Single cases of the replicated set that the property tests do not aim at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip import cell, or_set
from gossip.cell import KEY_BYTES_MAX
from gossip.or_set import BOTTOM, Delta, Epoch, Interval, LiveSet, ORSet, Outcome, Snapshot
from tests.steps import outcome

FIRST, SECOND = Epoch(1, 1), Epoch(2, 1)


def fresh(me: str = "me") -> ORSet:
    return ORSet(me, FIRST, lambda _key: None)


def holding(*keys: bytes) -> ORSet:
    writer = fresh("owner")
    for key in keys:
        assert writer.add(key)
    return writer


def rebased(reader: ORSet, writer: ORSet) -> bool:
    steps = reader.rebase(writer.head())
    assert steps is not None
    return outcome(steps)


def test_adding_twice_and_removing_twice_count_once() -> None:
    writer = holding(b"a")
    assert not writer.add(b"a")
    assert writer.remove(b"a")
    assert not writer.remove(b"a")
    assert writer.at("owner") == (FIRST, 2), "removals are numbered too"


def test_what_exceeds_a_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = fresh()
    assert not writer.add(b"")
    assert not writer.add(bytes(KEY_BYTES_MAX + 1))
    assert writer.add(bytes(KEY_BYTES_MAX))
    monkeypatch.setattr(or_set, "OWNER_BYTES_MAX", KEY_BYTES_MAX + 1)
    assert not writer.add(b"ab")
    assert writer.add(b"a")
    monkeypatch.setattr(or_set, "KEYS_PER_OWNER_MAX", 2)
    assert not writer.add(b"")
    assert writer.remove(b"a")
    assert writer.add(b"b"), "removing makes room"


def test_a_recent_gap_is_answered_by_an_interval_and_an_old_one_by_a_live_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(or_set, "LOG_OPERATIONS_MAX", 2)
    writer = holding(b"a", b"b", b"c")
    writer.remove(b"b")
    assert writer.diff("owner", FIRST, 2) == Interval("owner", FIRST, 2, 4, ((3, b"c"),), (2,))
    assert writer.diff("owner", FIRST, 1) == LiveSet("owner", FIRST, 1, 4, ((3, b"c"),), (1,))


def test_who_knows_nothing_or_another_epoch_gets_a_snapshot() -> None:
    writer = holding(b"a", b"b")
    snapshot = Snapshot("owner", FIRST, 2, ((1, b"a"), (2, b"b")))
    assert writer.diff("owner", BOTTOM, 0) == snapshot
    outcome(writer.begin(SECOND))
    assert writer.diff("owner", FIRST, 2) == Snapshot("owner", SECOND, 2, snapshot.adds)
    assert writer.diff("owner", SECOND, 2) is None
    assert writer.diff("stranger", FIRST, 0) is None


def test_an_element_born_and_dead_within_an_interval_is_not_left_behind() -> None:
    writer = holding(b"a", b"b")
    reader = fresh()
    before = writer.diff("owner", BOTTOM, 0)
    assert before is not None
    reader.apply(before)
    writer.remove(b"b")
    whole = writer.diff("owner", FIRST, 1)
    assert whole is not None
    assert reader.apply(whole) is Outcome.APPLIED
    assert reader.elements("owner") == [(1, b"a")]


@pytest.mark.parametrize("lives", [True, False])
def test_a_live_set_applies_to_one_who_came_further_than_its_start(*, lives: bool) -> None:
    reader = fresh()
    reader.apply(Snapshot("owner", FIRST, 3, ((1, b"a"), (2, b"b"), (3, b"c"))))
    adds = ((3, b"c"), (5, b"d")) if lives else ((5, b"d"),)
    assert reader.apply(LiveSet("owner", FIRST, 2, 5, adds, (2,))) is Outcome.APPLIED
    assert reader.elements("owner") == [(2, b"b"), *adds]


def test_what_does_not_continue_the_prefix_is_a_gap_and_changes_nothing() -> None:
    reader = fresh()
    assert reader.apply(Interval("owner", FIRST, 1, 2, ((2, b"b"),), ())) is Outcome.GAP
    assert reader.at("owner") == (BOTTOM, 0)
    reader.apply(Snapshot("owner", FIRST, 1, ((1, b"a"),)))
    assert reader.apply(Interval("owner", FIRST, 2, 3, ((3, b"c"),), ())) is Outcome.GAP
    assert reader.apply(Interval("owner", SECOND, 1, 2, ((2, b"c"),), ())) is Outcome.GAP
    assert reader.elements("owner") == [(1, b"a")]


@pytest.mark.parametrize(
    "lie",
    [
        Interval("owner", FIRST, 2, 3, ((3, b"a"),), ()),
        LiveSet("owner", FIRST, 2, 3, ((3, b"c"),), (1, 7)),
        LiveSet("owner", FIRST, 2, 3, ((3, b"a"),), (1, 2)),
    ],
    ids=["a key that is there", "a live number that is not there", "a live key again"],
)
def test_a_delta_that_contradicts_the_cell_drops_it(lie: Interval | LiveSet) -> None:
    reader = fresh()
    reader.apply(Snapshot("owner", FIRST, 2, ((1, b"a"), (2, b"b"))))
    assert reader.apply(lie) is Outcome.CORRUPT
    assert reader.at("owner") == (BOTTOM, 0)
    assert reader.index.pairs == 0
    reader.check()


@pytest.mark.parametrize(
    "excess",
    [
        Interval("owner", FIRST, 2, 4, ((3, b"c"), (4, b"d")), (1,)),
        LiveSet("owner", FIRST, 2, 4, ((3, b"c"), (4, b"d")), (2,)),
        Snapshot("owner", SECOND, 3, ((1, b"a"), (2, b"b"), (3, b"c"))),
    ],
    ids=["an interval", "a live set", "a snapshot"],
)
def test_more_keys_than_an_owner_may_have_drop_its_cell(excess: Delta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(or_set, "KEYS_PER_OWNER_MAX", 2)
    reader = fresh()
    reader.apply(Snapshot("owner", FIRST, 2, ((1, b"a"), (2, b"b"))))
    assert reader.apply(replace(excess, adds=excess.adds[:-1])) is Outcome.APPLIED, "there is room for this"
    reader.forget("owner")
    reader.apply(Snapshot("owner", FIRST, 2, ((1, b"a"), (2, b"b"))))
    assert reader.apply(excess) is Outcome.CORRUPT
    assert (reader.at("owner"), reader.index.pairs) == ((BOTTOM, 0), 0)


@pytest.mark.parametrize(
    ("change", "left"),
    [(Snapshot("owner", SECOND, 0, ()), []), (LiveSet("owner", FIRST, 100, 200, (), (7, 8)), [7, 8])],
    ids=["a new epoch", "a live set"],
)
def test_a_large_set_of_which_little_is_left_goes_in_slices(
    change: Delta, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(or_set, "SWEEP_ELEMENTS", 10)
    reader = fresh()
    reader.apply(Snapshot("owner", FIRST, 100, tuple((number, b"%d" % number) for number in range(1, 101))))
    assert reader.apply(change) is Outcome.APPLIED
    assert [sequence for sequence, _ in reader.elements("owner")] == left
    assert reader.index.pairs == 100 + len(left), "nothing is done yet"
    reader.check()
    while not reader.swept:
        before = reader.index.pairs
        reader.sweep()
        assert before - reader.index.pairs <= 10
        reader.check()
    assert reader.index.pairs == len(left)


def test_rebase_needs_the_same_keys_and_a_higher_epoch() -> None:
    writer, reader = holding(b"b", b"a"), fresh()
    snapshot = writer.snapshot("owner")
    assert snapshot is not None
    reader.apply(snapshot)
    assert reader.rebase(writer.head()) is None
    outcome(writer.begin(SECOND))
    assert rebased(reader, writer)
    assert reader.elements("owner") == writer.elements("owner") == [(1, b"a"), (2, b"b")]
    writer.remove(b"a")
    writer.add(b"c")
    outcome(writer.begin(Epoch(3, 1)))
    assert writer.head().base_count == 2, "as many keys, but others"
    assert not rebased(reader, writer)
    assert reader.at("owner") == (SECOND, 2)


def test_an_epoch_with_the_history_of_the_one_before_is_entered_by_those_who_hold_its_base() -> None:
    """A node that lost its disk starts with an epoch that is too low; the next one costs it no new numbers."""
    former = holding(b"a", b"b")
    outcome(former.begin(SECOND))
    reader = fresh()
    reader.apply(known(former.snapshot("owner")))
    writer = holding(b"b", b"a")
    outcome(writer.begin(FIRST))
    writer.add(b"c")
    writer.renew(Epoch(3, 1))
    assert rebased(reader, writer)
    assert reader.at("owner") == (Epoch(3, 1), 2)
    assert reader.apply(known(writer.diff("owner", *reader.at("owner")))) is Outcome.APPLIED
    assert reader.elements("owner") == writer.elements("owner") == [(1, b"a"), (2, b"b"), (3, b"c")]


@pytest.mark.parametrize("change", ["a removal", "an addition", "a new cell"])
def test_a_set_that_changes_while_it_is_put_in_order_is_not_rebased(change: str) -> None:
    writer, reader = holding(*many_keys()), fresh()
    snapshot = known(writer.snapshot("owner"))
    reader.apply(snapshot)
    outcome(writer.begin(SECOND))
    steps = reader.rebase(writer.head())
    assert steps is not None
    next(steps)
    count = len(many_keys())
    if change == "a new cell":
        reader.forget("owner")
        reader.apply(snapshot)
    else:
        removals = (1,) if change == "a removal" else ()
        adds = () if removals else ((count + 1, b"new"),)
        reader.apply(Interval("owner", FIRST, count, count + 1, adds, removals))
    assert not outcome(steps)
    assert reader.at("owner")[0] == FIRST
    while not reader.swept:
        reader.sweep()
    reader.check()


def test_a_large_set_is_put_in_order_in_small_steps() -> None:
    writer, reader = holding(*many_keys()), fresh()
    reader.apply(known(writer.snapshot("owner")))
    assert len(list(writer.begin(SECOND))) > 2 * len(many_keys()) // cell.SORTED_KEYS
    writer.check()
    assert [key for _, key in writer.elements("owner")] == sorted(many_keys())
    assert rebased(reader, writer)
    assert reader.elements("owner") == writer.elements("owner")
    reader.check()


def many_keys() -> list[bytes]:
    """Enough for a few steps, in no order."""
    return [bytes([number * 7 % 251, *number.to_bytes(2)]) for number in range(3 * cell.SORTED_KEYS)]


def known(delta: Delta | None) -> Delta:
    assert delta is not None
    return delta


@pytest.mark.parametrize("count", [cell.CHANGED_MAX, cell.CHANGED_MAX + 1])
@pytest.mark.parametrize("kind", ["removals", "few stay", "few go"])
def test_many_changes_at_once_are_left_to_a_pull_of_the_whole_set(kind: str, count: int) -> None:
    size = 4 * cell.CHANGED_MAX
    writer, reader = fresh("owner"), fresh()
    for number in range(size):
        writer.add(b"%05d" % number)
    reader.apply(known(writer.snapshot("owner")))
    before = reader.elements("owner")
    numbers = tuple(range(1, size + 1))
    deltas: dict[str, Delta] = {
        "removals": Interval("owner", FIRST, size, size + count, (), numbers[:count]),
        "few stay": LiveSet("owner", FIRST, size, size + count, (), numbers[:count]),
        "few go": LiveSet("owner", FIRST, size, size + count, (), numbers[count:]),
    }
    delta = deltas[kind]
    if count > cell.CHANGED_MAX:
        assert reader.apply(delta) is Outcome.LONG
        assert reader.elements("owner") == before
        assert reader.at("owner") == (FIRST, size)
    else:
        assert reader.apply(delta) is Outcome.APPLIED
        stay = numbers[:count] if kind == "few stay" else numbers[count:]
        assert [sequence for sequence, _ in reader.elements("owner")] == list(stay)
    reader.check()
