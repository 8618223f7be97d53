"""Records, visibility and forgetting."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from gossip import membership
from gossip.config import Config
from gossip.membership import Member, Membership, Sighting, Status, Visibility
from gossip.or_set import Epoch

EPOCH = Epoch(1, 1)
BEN = Member("ben", EPOCH, "192.0.2.2", 1, 2)
CONFIG = Config("ann")


def ann_alone() -> Membership:
    return Membership(CONFIG, EPOCH)


def knowing(member: Member = BEN, now: float = 0.0) -> Membership:
    known = ann_alone()
    assert known.learn(Sighting(member, 0.0), now)
    return known


def visibility(known: Membership) -> Visibility:
    return known.others["ben"].visibility


def test_join_is_the_maximum_in_whatever_order_records_come() -> None:
    records = [
        BEN,
        replace(BEN, status=Status.SUSPECT),
        replace(BEN, status=Status.DOWN),
        replace(BEN, refutation=1),
        replace(BEN, epoch=Epoch(2, 0)),
    ]
    for order in permutations(records):
        known = knowing(BEN)
        for record in order:
            known.learn(Sighting(record, 0.0), 0.0)
        assert known.others["ben"].member == records[-1]


@pytest.mark.parametrize("status", [Status.DOWN, Status.LEFT])
def test_who_is_gone_and_unknown_stays_unknown(status: Status) -> None:
    known = ann_alone()
    assert not known.learn(Sighting(replace(BEN, status=status), 0.0), 0.0)
    assert not known.others


def test_a_silent_member_is_ranked_last_then_hidden_and_heard_again_normal() -> None:
    known = knowing()
    for now, expected in [(3.0, Visibility.NORMAL), (3.1, Visibility.LAST), (8.1, Visibility.HIDDEN)]:
        known.revise(now)
        assert visibility(known) is expected
    assert known.hear("ben", 9.0)
    assert visibility(known) is Visibility.NORMAL


def test_a_broken_connection_ranks_last_until_the_member_is_heard() -> None:
    known = knowing()
    assert known.disconnected("ben", 0.1)
    assert visibility(known) is Visibility.LAST
    known.hear("ben", 0.2)
    assert visibility(known) is Visibility.NORMAL
    assert not known.disconnected("unknown", 0.3)


def test_a_member_that_left_is_hidden_even_if_it_was_just_heard() -> None:
    known = knowing()
    assert known.learn(Sighting(replace(BEN, status=Status.LEFT), 0.0), 0.0)
    known.hear("ben", 0.1)
    assert visibility(known) is Visibility.HIDDEN


def test_a_refutation_is_above_the_accusation() -> None:
    known = ann_alone()
    accusation = replace(known.me, refutation=4, status=Status.DOWN)
    known.refute(accusation)
    assert known.me.rank > accusation.rank
    assert known.me.status is Status.ALIVE


def test_hearsay_makes_a_member_younger_but_not_heard() -> None:
    known = knowing()
    known.learn(Sighting(BEN, 1.0), 100.0)
    known.revise(100.0)
    assert visibility(known) is Visibility.HIDDEN
    assert known.expired(CONFIG.forget_s + 98.0) == []
    assert known.expired(CONFIG.forget_s + 99.0) == ["ben"]


def test_a_member_silent_for_half_of_the_time_is_neither_told_nor_learned() -> None:
    half = CONFIG.forget_s / 2
    known = knowing()
    assert [told.member.name for told in known.told(half - 1)] == ["ann", "ben"]
    assert known.told(half - 1)[1].age_s == half - 1
    assert [told.member.name for told in known.told(half)] == ["ann"]
    assert not ann_alone().learn(Sighting(BEN, half), half)


def test_there_is_a_limit_on_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MEMBERS_MAX", 2)
    known = knowing()
    assert not known.learn(Sighting(replace(BEN, name="cyd"), 0.0), 0.0)
    known.check()


def test_a_silent_members_connection_is_opened_anew_ever_more_rarely() -> None:
    known = knowing()
    opened = [second for second in range(300) if known.relink(float(second))]
    assert opened == [11, 22, 44, 88, 148, 208, 268]


def test_silence_while_this_process_slept_is_excused() -> None:
    known = knowing()
    known.excuse(100.0)
    known.revise(101.0)
    assert visibility(known) is Visibility.NORMAL
