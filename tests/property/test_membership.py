"""Records in any order, twice, late: what membership promises whatever happens to them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.config import Config
from gossip.counters import Counters
from gossip.membership import MASS_GRACE_S, REFUTATION_MAX, Claim, Member, Membership, Status, Visibility
from gossip.messages import Heartbeat, Members, Sender
from gossip.or_set import Epoch
from gossip.outputs import Publish
from gossip.replica import Replica

if TYPE_CHECKING:
    from random import Random

NAMES = ("ann", "bob", "cyd", "dan")
members = st.builds(
    Member,
    name=st.sampled_from(NAMES),
    epoch=st.builds(Epoch, st.integers(1, 3), st.just(0)),
    address=st.just("192.0.2.1"),
    publish_port=st.just(1),
    router_port=st.just(2),
    refutation=st.integers(0, 3),
    status=st.sampled_from(Status),
)
events = st.lists(st.tuples(members, st.booleans(), st.floats(0, 10)), max_size=40)
refutations = st.one_of(st.integers(0, 3), st.integers(0, REFUTATION_MAX - 1))
accusations = st.lists(st.tuples(st.integers(-1, 2), refutations, st.sampled_from(Status)), max_size=5)
"""Of each: how far its epoch is from the present one, its refutation, its status."""


@settings(deadline=None)
@given(events)
def test_who_is_down_is_normal_again_only_by_a_record_that_it_wrote_itself(
    history: list[tuple[Member, bool, float]],
) -> None:
    """P5: no resurrection. And a record never falls."""
    known, now = Membership(Config("me"), Epoch(1, 1)), 0.0
    for member, witnessed, pause_s in history:
        now += pause_s
        known.revise(now)
        other = known.others.get(member.name)
        before = None if other is None else other.member
        known.learn(member, now, witnessed=witnessed)
        known.check()
        if before is None:
            continue
        after = known.others[member.name]
        assert after.member.rank == max(before.rank, member.rank)
        if before.status >= Status.DOWN and after.visibility is Visibility.NORMAL:
            assert after.member.life > before.life


@settings(deadline=None)
@given(st.lists(members, max_size=30), st.randoms())
def test_the_order_and_number_of_records_do_not_matter(records: list[Member], random: Random) -> None:
    start = [Member(name, Epoch(1, 0), "192.0.2.1", 1, 2) for name in NAMES]
    one, other = (Membership(Config("me"), Epoch(1, 1)) for _ in range(2))
    shuffled = records * 2
    random.shuffle(shuffled)
    for known, order in ((one, records), (other, shuffled)):
        for member in (*start, *order):
            known.learn(member, 0.0)
    ranks = [{name: other.member.rank for name, other in known.others.items()} for known in (one, other)]
    assert ranks[0] == ranks[1]


@settings(deadline=None)
@given(st.lists(members, max_size=30))
def test_nobody_who_is_gone_stays_visible_or_known_for_ever(records: list[Member]) -> None:
    """P6: stubs go."""
    config = Config("me")
    known = Membership(config, Epoch(1, 1))
    for member in records:
        known.learn(member, 0.0)
    for name in NAMES:
        if name in known.others:
            known.learn(replace(known.others[name].member, status=Status.DOWN), 1.0)
    known.revise(1.0 + MASS_GRACE_S)
    assert all(other.visibility is Visibility.HIDDEN for other in known.others.values())
    for name in known.expired(1.0 + config.forget_s):
        known.forget(name)
    known.check()
    assert not known.others


@settings(deadline=None)
@given(st.lists(st.tuples(accusations, st.floats(0, 3)), max_size=10))
def test_whatever_is_said_of_this_node_in_its_present_epoch_is_refuted_and_published(
    history: list[tuple[list[tuple[int, int, Status]], float]],
) -> None:
    """P7: whoever hears the answer joins it over every accusation. A higher epoch of its own it exceeds by another."""
    me = Replica(Config("me"), counter=1, rng=random.Random(1), counters=Counters())
    now, told, outputs = 0.0, [], me.start(0.0)
    for batch, pause_s in history:
        now += pause_s
        counter = me.me.epoch.counter
        claims = [
            replace(me.me, epoch=replace(me.me.epoch, counter=counter + ahead), refutation=refutation, status=status)
            for ahead, refutation, status in batch
        ]
        told += claims
        outputs += me.receive(Sender("other", Epoch(1, 1)), Members(tuple(map(Claim, claims))), now)
        own = [claim for claim in told if claim.epoch == me.me.epoch]
        assert all(me.me.rank > claim.rank or claim == me.me for claim in own)
        while me.deadline <= now:
            outputs += me.tick(now)
    outputs += me.tick(now + me.config.coalesce_s)
    said = [output.message for output in outputs if isinstance(output, Publish)]
    records = [m.member for m in said if isinstance(m, Heartbeat)]
    records += [claim.member for m in said if isinstance(m, Members) for claim in m.claims]
    assert me.me in records
    assert max(records, key=lambda record: record.rank) == me.me
