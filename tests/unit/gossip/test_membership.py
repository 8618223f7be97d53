"""Records, visibility and forgetting."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from gossip import membership
from gossip.config import Config
from gossip.membership import DROP_S, GRACE_S, MASS_GRACE_S, Member, Membership, Status, Visibility
from gossip.or_set import Epoch

EPOCH = Epoch(1, 1)
BEN = Member("ben", EPOCH, "192.0.2.2", 1, 2)
CONFIG = Config("ann")
DOWN = replace(BEN, status=Status.DOWN)


def ann_alone() -> Membership:
    return Membership(CONFIG, EPOCH)


def knowing(*members: Member, now: float = 0.0) -> Membership:
    known = ann_alone()
    for member in members or (BEN,):
        assert known.learn(member, now)
    return known


def crowd(count: int) -> list[Member]:
    """So many members, Ben the first of them."""
    return [BEN, *(replace(BEN, name=f"member{number}") for number in range(1, count))]


def visibility(known: Membership, name: str = "ben") -> Visibility:
    return known.others[name].visibility


def test_join_is_the_maximum_in_whatever_order_records_come() -> None:
    records = [
        BEN,
        replace(BEN, status=Status.SUSPECT),
        DOWN,
        replace(BEN, refutation=1),
        replace(BEN, epoch=Epoch(2, 0)),
    ]
    for order in permutations(records):
        known = knowing(BEN)
        for record in order:
            known.learn(record, 0.0)
            known.check()
        assert known.others["ben"].member == records[-1]


@pytest.mark.parametrize("status", [Status.DOWN, Status.LEFT])
def test_who_is_gone_and_unknown_stays_unknown(status: Status) -> None:
    """R1."""
    known = ann_alone()
    assert not known.learn(replace(BEN, status=status), 0.0)
    assert not known.others


def test_a_silent_neighbour_is_ranked_last_and_heard_again_normal() -> None:
    known = knowing()
    known.link("ben", 0.0)
    for now, expected in [(3.5, Visibility.NORMAL), (3.6, Visibility.LAST), (600.0, Visibility.LAST)]:
        known.revise(now)
        assert visibility(known) is expected
    known.hear("ben", 601.0)
    assert visibility(known) is Visibility.NORMAL


def test_the_silence_of_one_who_is_not_listened_to_means_nothing() -> None:
    known = knowing()
    known.revise(600.0)
    assert visibility(known) is Visibility.NORMAL
    known.link("ben", 600.0)
    known.revise(604.0)
    known.unlink("ben", 604.0)
    assert visibility(known) is Visibility.NORMAL


def test_a_broken_connection_ranks_last_until_the_member_is_heard_or_there_is_another() -> None:
    known = knowing()
    known.disconnected("ben", 0.1)
    assert visibility(known) is Visibility.NORMAL, "a connection that this node does not have"
    known.link("ben", 0.1)
    known.disconnected("ben", 0.2)
    assert visibility(known) is Visibility.LAST
    known.hear("ben", 0.3)
    assert visibility(known) is Visibility.NORMAL
    known.disconnected("ben", 0.4)
    known.connected("ben", 0.5)
    assert visibility(known) is Visibility.NORMAL
    known.disconnected("ben", 0.6)
    known.connected("ben", 4.0)
    assert visibility(known) is Visibility.LAST, "it has said nothing for too long"


def test_a_suspect_is_ranked_last_until_it_refutes() -> None:
    known = knowing(replace(BEN, status=Status.SUSPECT))
    assert visibility(known) is Visibility.LAST
    known.learn(replace(BEN, refutation=1), 1.0)
    assert visibility(known) is Visibility.NORMAL


def test_whom_others_call_down_has_a_moment_to_deny_it_and_whom_this_node_does_has_none() -> None:
    known = knowing()
    known.learn(DOWN, 10.0)
    known.revise(10.0 + GRACE_S - 0.1)
    assert visibility(known) is Visibility.LAST
    known.revise(10.0 + GRACE_S)
    assert visibility(known) is Visibility.HIDDEN
    known = knowing()
    known.learn(DOWN, 10.0, witnessed=True)
    assert visibility(known) is Visibility.HIDDEN
    known.learn(replace(BEN, refutation=1), 11.0)
    assert visibility(known) is Visibility.NORMAL


def test_whom_others_call_down_and_this_node_suspects_too_is_hidden_when_it_would_say_so_itself() -> None:
    known = knowing(replace(BEN, status=Status.SUSPECT))
    known.learn(DOWN, 10.0, certain_at=11.0)
    known.revise(10.9)
    assert visibility(known) is Visibility.LAST
    known.revise(11.0)
    assert visibility(known) is Visibility.HIDDEN


def test_a_member_that_left_is_hidden_at_once() -> None:
    known = knowing()
    known.learn(replace(BEN, status=Status.LEFT), 0.0)
    known.hear("ben", 0.1)
    assert visibility(known) is Visibility.HIDDEN


@pytest.mark.parametrize(("size", "fall", "hidden"), [(2, 1, True), (3, 1, True), (3, 2, True), (5, 2, True)])
def test_one_of_two_and_two_of_five_are_hidden(size: int, fall: int, hidden: bool) -> None:
    members = crowd(size - 1)
    known = knowing(*members)
    for member in members[:fall]:
        known.learn(replace(member, status=Status.DOWN), 1.0, witnessed=True)
    known.revise(1.0 + GRACE_S)
    assert (visibility(known) is Visibility.HIDDEN) is hidden


@pytest.mark.parametrize(("size", "fall"), [(5, 3), (6, 3), (10, 4), (100, 31)])
def test_in_a_mass_failure_those_down_are_ranked_last_for_a_minute(size: int, fall: int) -> None:
    members = crowd(size - 1)
    known = knowing(*members)
    for number, member in enumerate(members[:fall]):
        known.learn(replace(member, status=Status.DOWN), 1.0 + number / 100, witnessed=True)
    known.revise(1.0 + MASS_GRACE_S - 1)
    assert {visibility(known, member.name) for member in members[:fall]} == {Visibility.LAST}
    known.revise(3.0 + MASS_GRACE_S)
    assert {visibility(known, member.name) for member in members[:fall]} == {Visibility.HIDDEN}


def test_many_that_fall_one_after_another_are_no_mass() -> None:
    members = crowd(9)
    known = knowing(*members)
    for number, member in enumerate(members):
        known.learn(replace(member, status=Status.DOWN), 20.0 * number, witnessed=True)
        assert visibility(known, member.name) is Visibility.HIDDEN


def test_a_refutation_is_above_the_accusation() -> None:
    known = ann_alone()
    accusation = replace(known.me, refutation=4, status=Status.DOWN)
    known.refute(accusation)
    assert known.me.rank > accusation.rank
    assert known.me.status is Status.ALIVE


def test_who_is_gone_loses_its_content_then_is_not_told_then_forgotten() -> None:
    """R2."""
    known, half = knowing(), CONFIG.forget_s / 2
    known.learn(DOWN, 0.0)
    assert (known.dropped(DROP_S - 1), known.dropped(DROP_S)) == ([], ["ben"])
    assert known.told("ben", half - 1)
    assert not known.told("ben", half)
    assert known.expired(CONFIG.forget_s - 1) == []
    assert known.expired(CONFIG.forget_s) == ["ben"]
    known.forget("ben")
    known.check()
    assert not known.others
    assert not known.gone


def test_who_is_back_is_not_forgotten() -> None:
    known = knowing()
    known.learn(DOWN, 0.0)
    known.learn(replace(BEN, epoch=Epoch(2, 1)), 1.0)
    known.check()
    assert known.expired(CONFIG.forget_s + 1) == []
    assert known.told("ben", CONFIG.forget_s)


def test_who_may_still_deny_being_down_stays_in_the_overlay() -> None:
    known = knowing(*crowd(3))
    known.learn(DOWN, 0.0)
    known.learn(replace(crowd(3)[1], status=Status.DOWN), 0.0, witnessed=True)
    assert known.ringed(1.0) == (["member2", "ben"], True)
    assert known.ringed(GRACE_S) == (["member2"], False)


def test_there_is_a_limit_on_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MEMBERS_MAX", 2)
    known = knowing()
    assert not known.learn(replace(BEN, name="cyd"), 0.0)
    known.check()


def test_a_feature_is_used_only_when_all_live_members_have_it() -> None:
    newer = replace(BEN, name="cyd", protocol=2)
    known = knowing(BEN, newer)
    known.me = replace(known.me, protocol=2)
    assert known.protocol() == 1
    known.learn(DOWN, 0.0)
    assert known.protocol() == 2
    known.me = replace(known.me, protocol=1)
    assert known.protocol() == 1, "no more than it speaks itself"


def test_who_knows_nobody_speaks_the_oldest_that_it_understands() -> None:
    known = knowing()
    known.forget("ben")
    assert known.protocol() == 1
    for mine, spoken in ((2, 1), (5, 4)):
        known.me = replace(known.me, protocol=mine)
        assert known.protocol() == spoken


def test_a_silent_members_connection_is_opened_anew_ever_more_rarely() -> None:
    known = knowing()
    known.link("ben", 0.0)
    opened = [second for second in range(300) if known.relink(float(second))]
    assert opened == [11, 22, 44, 88, 148, 208, 268]


def test_silence_while_this_process_slept_is_excused() -> None:
    known = knowing()
    known.link("ben", 0.0)
    known.excuse(100.0, 101.0)
    known.revise(101.0)
    assert visibility(known) is Visibility.NORMAL


def test_very_many_that_are_to_be_hidden_at_the_same_moment_are_hidden_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "JUDGED_MAX", 2)
    members = crowd(5)
    known = knowing(*members)
    for member in members:
        known.learn(replace(member, status=Status.DOWN), 1.0)
    left = []
    while known.revise(2.0 + MASS_GRACE_S):
        left.append(sum(visibility(known, member.name) is Visibility.LAST for member in members))
        known.check()
    assert left == [3, 1]
    assert {visibility(known, member.name) for member in members} == {Visibility.HIDDEN}
