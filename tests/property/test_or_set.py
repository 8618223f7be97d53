"""The replicated set against its laws and against the textbook's OR-set, on random histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gossip import or_set
from gossip.or_set import BOTTOM, Epoch, ORSet, Outcome
from tests.property.tombstone_or_set import TombstoneORSet
from tests.steps import outcome

if TYPE_CHECKING:
    from random import Random

    from gossip.or_set import Addition, Delta, Head

OWNERS = ("ann", "bob")
REPLICAS = ("left", "right")
KEYS = [b"key%d" % number for number in range(8)]
owners = st.sampled_from(OWNERS)
replicas = st.sampled_from(REPLICAS)
keys = st.sampled_from(KEYS)
# What begins a history anew must be rare, or none becomes long enough to be interesting.
rarely = st.integers(0, 5).map(lambda number: number == 5)


def no_group(_key: bytes) -> bytes | None:
    return None


class Point(NamedTuple):
    """One state in an owner's history."""

    elements: list[Addition]
    textbook: TombstoneORSet


class Histories(RuleBasedStateMachine):
    """Owners write, replicas hear of it in any order, twice, late, through each other, or not at all.

    After every step each replica holds exactly a former state of each owner (P1), and what the textbook's set holds
    that was given the same states (P2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.writers: dict[str, ORSet] = {}
        self.textbooks: dict[str, TombstoneORSet] = {}
        self.history: dict[tuple[str, Epoch, int], Point] = {}
        self.readers = {name: ORSet(name, Epoch(1, 0), no_group) for name in REPLICAS}
        self.reader_textbooks = {(name, owner): TombstoneORSet() for name in REPLICAS for owner in OWNERS}
        self.flying: list[Delta] = []
        self.heads: dict[str, Head] = {}

    @initialize()
    def begin(self) -> None:
        for owner in OWNERS:
            self.textbooks[owner] = TombstoneORSet()
            self.boot(owner, Epoch(1, 7), [])

    def boot(self, owner: str, epoch: Epoch, base: list[bytes]) -> None:
        writer = self.writers[owner] = ORSet(owner, epoch, no_group)
        for key in base:
            writer.add(key)
        outcome(writer.begin(epoch))
        textbook = self.textbooks[owner]
        textbook.clear()
        for number, key in enumerate(sorted(base)):
            textbook.add(key, (owner, epoch, number))
        self.heads[owner] = writer.head()
        self.record(owner)

    def record(self, owner: str) -> None:
        writer = self.writers[owner]
        point = Point(writer.elements(owner), self.textbooks[owner].copy())
        self.history[(owner, *writer.at(owner))] = point

    def add(self, owner: str, key: bytes) -> None:
        if self.writers[owner].add(key):
            self.textbooks[owner].add(key, (owner, *self.writers[owner].at(owner)))
            self.record(owner)

    def remove(self, owner: str, key: bytes) -> None:
        if self.writers[owner].remove(key):
            self.textbooks[owner].remove(key)
            self.record(owner)

    @rule(owner=owners, changes=st.lists(st.tuples(st.booleans(), keys), min_size=1, max_size=6))
    def change(self, owner: str, changes: list[tuple[bool, bytes]]) -> None:
        for adding, key in changes:
            (self.add if adding else self.remove)(owner, key)

    @rule(owner=owners, nonce=st.integers(0, 3), base=st.none() | st.sets(keys, max_size=3), happens=rarely)
    def restart(self, owner: str, nonce: int, base: set[bytes] | None, happens: bool) -> None:
        if not happens:
            return
        writer = self.writers[owner]
        counter = writer.at(owner)[0].counter + 1
        kept = {key for _, key in writer.elements(owner)}
        self.boot(owner, Epoch(counter, nonce), sorted(kept if base is None else base))

    @rule(owner=owners, missed=st.integers(1, 5))
    def publish(self, owner: str, missed: int) -> None:
        """Tell those who missed so many operations."""
        epoch, version = self.writers[owner].at(owner)
        delta = self.writers[owner].diff(owner, epoch, max(version - missed, 0))
        if delta is not None:
            self.flying.append(delta)

    @precondition(lambda self: self.flying)
    @rule(reader=replicas, data=st.data())
    def deliver(self, reader: str, data: st.DataObject) -> None:
        # Late, but mostly not very late: what is old is stale everywhere and tests nothing.
        late = data.draw(st.integers(0, min(len(self.flying), 6) - 1))
        self.apply(reader, self.flying[-1 - late])

    @rule(reader=replicas, teller=st.none() | replicas, owner=owners, late=st.booleans())
    def ask(self, reader: str, teller: str | None, owner: str, late: bool) -> None:
        """A replica asks the owner, or another replica, for what it misses."""
        source = self.writers[owner] if teller is None else self.readers[teller]
        delta = source.diff(owner, *self.readers[reader].at(owner))
        if delta is None:
            return
        if late:
            self.flying.append(delta)
        else:
            assert self.apply(reader, delta) is Outcome.APPLIED

    @rule(reader=replicas, owner=owners)
    def rebase(self, reader: str, owner: str) -> None:
        head = self.heads[owner]
        steps = self.readers[reader].rebase(head)
        if steps is not None and outcome(steps):
            self.reader_textbooks[reader, owner].merge(self.history[owner, head.epoch, head.base_count].textbook)

    @rule(reader=replicas, owner=owners, happens=rarely)
    def forget(self, reader: str, owner: str, happens: bool) -> None:
        if not happens:
            return
        self.readers[reader].forget(owner)
        self.reader_textbooks[reader, owner] = TombstoneORSet()

    def apply(self, reader: str, delta: Delta) -> Outcome:
        before = self.readers[reader].at(delta.owner)
        outcome = self.readers[reader].apply(delta)
        after = self.readers[reader].at(delta.owner)
        assert outcome is not Outcome.CORRUPT
        assert after >= before, "P8: what is held of an owner never falls back, so an older epoch takes nothing away"
        if outcome is not Outcome.GAP:
            told = self.history[delta.owner, delta.epoch, delta.version]
            self.reader_textbooks[reader, delta.owner].merge(told.textbook)
        return outcome

    @invariant()
    def every_replica_holds_an_exact_prefix_and_the_textbooks_value(self) -> None:
        for name, reader in self.readers.items():
            reader.check()
            for owner in OWNERS:
                epoch, version = reader.at(owner)
                held = reader.elements(owner)
                if epoch != BOTTOM:
                    assert held == self.history[owner, epoch, version].elements
                value = self.reader_textbooks[name, owner].value()
                assert sorted(key for _, key in held) == value

    def teardown(self) -> None:
        """P3: one pass of comparison with the owners, and all are equal to them."""
        for reader in self.readers.values():
            for owner, writer in self.writers.items():
                delta = writer.diff(owner, *reader.at(owner))
                assert delta is None or reader.apply(delta) is Outcome.APPLIED
                assert reader.elements(owner) == writer.elements(owner)
            reader.check()


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class ShortLog(Histories):
    """The same with owners that log two operations, so that live-set deltas come from them too."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(or_set, "LOG_OPERATIONS_MAX", 2)
        super().begin()

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()


TestShortLog = ShortLog.TestCase
TestShortLog.settings = TestHistories.settings


operations = st.lists(st.tuples(st.booleans(), keys), min_size=1, max_size=20)


@given(operations, st.data())
def test_a_delta_applies_at_every_version_of_its_interval(
    history: list[tuple[bool, bytes]], data: st.DataObject
) -> None:
    """P4."""
    writer = ORSet("ann", Epoch(1, 1), no_group)
    for number, (adding, key) in enumerate(history):
        (writer.add if adding or number == 0 else writer.remove)(key)
    epoch, version = writer.at("ann")
    replay = ORSet("ann", Epoch(1, 1), no_group)
    after, at = sorted(data.draw(st.lists(st.integers(0, version), min_size=2, max_size=2)))
    delta = writer.diff("ann", epoch, after)
    reader = ORSet("me", Epoch(1, 1), no_group)
    for number, (adding, key) in enumerate(history):
        if replay.at("ann")[1] == at:
            break
        (replay.add if adding or number == 0 else replay.remove)(key)
    prefix = replay.diff("ann", BOTTOM, 0)
    if at and prefix is not None:
        assert reader.apply(prefix) is Outcome.APPLIED
    if delta is not None:
        assert reader.apply(delta) is (Outcome.STALE if at == version else Outcome.APPLIED)
        assert reader.elements("ann") == writer.elements("ann")


@given(st.lists(st.tuples(owners, st.booleans(), keys, st.booleans()), max_size=30), st.randoms())
def test_the_order_and_number_of_deliveries_do_not_matter(
    history: list[tuple[str, bool, bytes, bool]], random: Random
) -> None:
    """P2: join is commutative, associative and idempotent: snapshots in any order, some twice, end in one state."""
    writers = {owner: ORSet(owner, Epoch(1, 1), no_group) for owner in OWNERS}
    states: list[Delta] = []
    for owner, adding, key, renewed in history:
        writer = writers[owner]
        (writer.add if adding else writer.remove)(key)
        if renewed:
            outcome(writer.begin(Epoch(writer.at(owner)[0].counter + 1, 0)))
        snapshot = writer.snapshot(owner)
        assert snapshot is not None
        states.append(snapshot)
    one, other = (ORSet("me", Epoch(1, 1), no_group) for _ in range(2))
    for state in states:
        one.apply(state)
    shuffled = states * 2
    random.shuffle(shuffled)
    for state in shuffled:
        other.apply(state)
    for owner in OWNERS:
        assert one.at(owner) == other.at(owner)
        assert one.elements(owner) == other.elements(owner)
