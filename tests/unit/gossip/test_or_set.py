"""Single cases of the replicated set that the property tests do not aim at."""

from __future__ import annotations

import pytest

from gossip import or_set
from gossip.cell import KEY_BYTES_MAX
from gossip.or_set import BOTTOM, Epoch, Interval, LiveSet, ORSet, Outcome, Snapshot

FIRST, SECOND = Epoch(1, 1), Epoch(2, 1)


def fresh(me: str = "me") -> ORSet:
    return ORSet(me, FIRST, lambda _key: None)


def holding(*keys: bytes) -> ORSet:
    writer = fresh("owner")
    for key in keys:
        assert writer.add(key)
    return writer


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
    writer.renew(SECOND)
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


def test_rebase_needs_the_same_keys_and_a_higher_epoch() -> None:
    writer, reader = holding(b"b", b"a"), fresh()
    snapshot = writer.snapshot("owner")
    assert snapshot is not None
    reader.apply(snapshot)
    assert not reader.rebase(writer.head())
    writer.renew(SECOND)
    assert reader.rebase(writer.head())
    assert reader.elements("owner") == writer.elements("owner") == [(1, b"a"), (2, b"b")]
    writer.remove(b"a")
    writer.add(b"c")
    writer.renew(Epoch(3, 1))
    assert writer.head().base_count == 2, "as many keys, but others"
    assert not reader.rebase(writer.head())
    assert reader.at("owner") == (SECOND, 2)
