"""The failure detector alone: what it sends and what it finds out, second by second."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import pytest

from gossip.config import Config
from gossip.detector import DRAWN_MAX, HEALTH_WORST, RELAYS_MAX, TICK_S_MIN, Detector
from gossip.membership import Claim, Member, Membership, Status
from gossip.messages import Ack, Nack, Ping, PingRequest
from gossip.or_set import Epoch

if TYPE_CHECKING:
    from gossip.messages import Message

EPOCH = Epoch(1, 1)


class Bench:
    """A detector that listens to `linked` and knows `known` besides; time goes by in steps."""

    def __init__(self, linked: int, known: int = 0) -> None:
        self.membership = Membership(Config("me"), EPOCH)
        self.detector = Detector(Config("me"), self.membership, random.Random(1))
        self.members = [Member(f"member{n}", EPOCH, "192.0.2.1", 1, n + 1) for n in range(linked + known)]
        for member in self.members:
            self.membership.learn(member, 0.0)
        for member in self.members[:linked]:
            self.membership.link(member.name, 0.0)
        self.detector.start(0.0)
        self.detector._round_at = inf  # the probes of random members are tested by themselves
        self.now = 0.0

    def run(self, until: float, *speaking: int) -> list[tuple[float, str, Message]]:
        """What is sent until then, while these members say something all the time."""
        sent = []
        while self.now < until:
            self.now = round(self.now + 0.05, 2)
            for number in speaking:
                self.membership.hear(self.members[number].name, self.now)
                self.detector.heard(self.members[number].name)
            self.detector.tick(self.now)
            sent += [(self.now, to.name, message) for to, message in self.detector.sends]
            self.detector.sends = []
        return sent

    def claims(self) -> list[Claim]:
        """What was found out, and is known from now on."""
        claims, self.detector.claims = self.detector.claims, []
        for claim in claims:
            self.learn(claim)
        return claims

    def learn(self, claim: Claim) -> bool:
        self.membership.learn(claim.member, self.now)
        return self.detector.learned(claim, self.now)

    def suspicion(self, number: int, accuser: str) -> Claim:
        return Claim(replace(self.members[number], status=Status.SUSPECT), accuser)


def test_the_silent_are_pinged_then_pinged_by_others_then_suspected() -> None:
    bench = Bench(linked=2, known=4)
    sent: list[tuple[float, str, Message]] = []
    while not any(isinstance(message, PingRequest) for _, _, message in sent):
        sent += bench.run(bench.now + 0.05, 1, 2, 3, 4, 5)
    [number] = {message.number for _, _, message in sent if isinstance(message, PingRequest)}
    bench.detector.refused(number)
    sent += bench.run(5.4, 1, 2, 3, 4, 5)
    pings = [(at, name) for at, name, message in sent if isinstance(message, Ping) and name == "member0"]
    requests = [(at, name) for at, name, message in sent if isinstance(message, PingRequest)]
    assert pings[-1][0] == pytest.approx(3.8, abs=0.35)
    assert len(requests) == 3
    assert {name for _, name in requests} <= {"member2", "member3", "member4", "member5"}, "not its neighbours"
    assert bench.claims() == [bench.suspicion(0, "me")]


def test_a_sign_of_life_ends_a_probe_and_the_prober_is_the_better_for_it() -> None:
    bench = Bench(linked=2)
    bench.detector.health = 3
    bench.detector.suspect("member0", 0.0)
    bench.detector.heard("member0")
    assert bench.detector.health == 2
    bench.run(3.0, 0, 1)
    assert bench.claims() == []


def test_a_broken_connection_is_probed_at_once() -> None:
    bench = Bench(linked=2)
    bench.membership.disconnected("member0", 0.0)
    bench.detector.suspect("member0", 0.0)
    [(to, ping)] = bench.detector.sends
    assert (to.name, type(ping)) == ("member0", Ping)
    bench.run(1.3, 1)
    assert bench.claims() == [bench.suspicion(0, "me")]


@pytest.mark.parametrize(
    ("known", "accusers", "expected"),
    [(0, 1, 5.0), (1, 1, 16.0), (1, 2, 5.0), (9, 1, 16.0), (9, 2, 10.5), (9, 3, 7.3), (9, 4, 5.0)],
)
def test_the_more_suspect_a_member_the_sooner_it_is_down_and_few_members_are_enough_in_a_small_cluster(
    known: int, accusers: int, expected: float
) -> None:
    bench = Bench(linked=1, known=known)
    for number in range(accusers):
        assert bench.learn(bench.suspicion(0, f"accuser{number}"))
    everybody = range(known + 1)
    bench.run(expected - 0.2, *everybody)
    assert bench.claims() == []
    bench.run(expected + 0.3, *everybody)
    assert [claim.member for claim in bench.claims()] == [replace(bench.members[0], status=Status.DOWN)]


def test_an_early_accuser_takes_nothing_from_the_time_that_a_member_has_when_others_follow() -> None:
    bench = Bench(linked=0, known=9)
    bench.learn(bench.suspicion(0, "member1"))
    bench.run(4.0)
    for number in (2, 3, 4):
        bench.learn(bench.suspicion(0, f"member{number}"))
    bench.run(8.9)
    assert not bench.claims()
    bench.run(9.1)
    assert [claim.member.status for claim in bench.claims()] == [Status.DOWN]


def test_a_suspicion_is_passed_on_once_for_each_accuser_and_not_for_very_many() -> None:
    bench = Bench(linked=1, known=9)
    assert [bench.learn(bench.suspicion(0, f"accuser{n}")) for n in (1, 1, 2, 3, 4, 5, 6)] == [
        True, False, True, True, True, False, False]  # fmt: skip


def test_a_neighbour_is_accused_after_the_probe_that_its_silence_began_not_after_one_that_chance_did() -> None:
    bench = Bench(linked=2)
    bench.run(1.0, 0)
    bench.run(4.4, 1)
    assert bench.detector._probe("member0", bench.now)
    bench.run(5.4, 1)
    assert "member0" not in bench.detector._probes
    assert bench.claims() == []
    bench.run(7.0, 1)
    assert bench.claims() == [bench.suspicion(0, "me")]


def test_who_refutes_is_suspected_no_more() -> None:
    bench = Bench(linked=1, known=9)
    bench.learn(bench.suspicion(0, "accuser"))
    bench.learn(Claim(replace(bench.members[0], refutation=1)))
    assert not bench.learn(bench.suspicion(0, "another")), "of a life that is over"
    bench.run(20.0, *range(10))
    assert bench.claims() == []


def test_a_pause_of_this_process_lengthens_all_waits() -> None:
    bench = Bench(linked=1, known=0)
    bench.learn(bench.suspicion(0, "accuser"))
    bench.detector.excuse(10.0)
    bench.run(14.8, 0)
    assert bench.claims() == []
    bench.run(15.3, 0)
    assert [claim.member.status for claim in bench.claims()] == [Status.DOWN]


def test_helpers_that_say_nothing_make_the_accuser_doubt_itself_and_those_that_answer_do_not() -> None:
    bench = Bench(linked=2, known=3)
    bench.detector.suspect("member0", 0.0)
    [number] = [message.number for _, message in bench.detector.sends if isinstance(message, Ping)]
    bench.run(0.6, 1, 2, 3, 4)
    for _ in range(2):
        bench.detector.refused(number)
    bench.run(1.3, 1, 2, 3, 4)
    assert bench.detector.health == 1


def test_whose_helpers_all_say_nothing_accuses_nobody_until_it_can_be_no_worse() -> None:
    bench = Bench(linked=2, known=3)
    bench.membership.disconnected("member0", 0.0)
    bench.detector.suspect("member0", 0.0)
    bench.run(1.3, 1, 2, 3, 4)
    assert bench.claims() == []
    assert bench.detector.health == 3
    bench.detector.health = HEALTH_WORST
    bench.detector.suspect("member0", bench.now)
    bench.run(11.0, 1, 2, 3, 4)
    assert bench.claims() == [bench.suspicion(0, "me")]


def test_who_is_in_bad_health_waits_longer_before_it_accuses() -> None:
    bench = Bench(linked=2)
    bench.detector.health = 1
    bench.run(6.9, 1)
    assert bench.claims() == []
    bench.run(9.8, 1)
    assert bench.claims() == [bench.suspicion(0, "me")]


def test_who_hears_nobody_accuses_only_after_it_blamed_itself() -> None:
    bench = Bench(linked=4)
    bench.run(30.0)
    assert bench.claims() == []
    assert bench.detector.health == HEALTH_WORST
    bench.run(45.0)
    assert {claim.member.name for claim in bench.claims()} == {member.name for member in bench.members}


@pytest.mark.parametrize("linked", [1, 2])
def test_of_two_and_of_three_the_silent_are_accused_at_once(linked: int) -> None:
    bench = Bench(linked=linked)
    bench.run(5.2)
    assert len(bench.claims()) == linked


def test_a_helper_passes_the_answer_on_or_says_that_there_is_none_while_half_of_the_time_is_left() -> None:
    bench = Bench(linked=3)
    asker, target = bench.members[0], bench.members[1]
    for number in (7, 8):
        bench.detector.asked(PingRequest(asker, number, target), 0.0)
    [first, _] = [message.number for _, message in bench.detector.sends if isinstance(message, Ping)]
    bench.detector.sends = []
    bench.detector.acknowledged(Ack(target, first))
    assert bench.detector.sends == [(asker, Ack(target, 7))]
    bench.detector.sends = []
    half_s = Config("me").probe_timeout_s / 2
    nacks = [message for _, name, message in bench.run(half_s + TICK_S_MIN, 0, 1, 2) if name == asker.name]
    assert Nack(8) in nacks
    assert Nack(7) not in nacks


def test_a_helper_helps_only_so_many_at_once() -> None:
    bench = Bench(linked=3)
    for number in range(RELAYS_MAX + 10):
        bench.detector.asked(PingRequest(bench.members[0], number, bench.members[1]), 0.0)
    assert len(bench.detector.sends) == RELAYS_MAX


def test_where_nearly_all_are_gone_the_neighbours_help() -> None:
    bench = Bench(linked=5, known=DRAWN_MAX)
    for member in bench.members[5:]:
        bench.learn(Claim(replace(member, status=Status.DOWN)))
    sent = bench.run(6.0, 1, 2, 3, 4)
    helpers = [name for _, name, message in sent if isinstance(message, PingRequest)]
    assert len(helpers) == len(set(helpers)) == 3
    assert set(helpers) < {"member1", "member2", "member3", "member4"}


def test_newcomers_are_probed_before_others() -> None:
    """R4: a ghost that somebody still believes in lives no longer than one detection."""
    bench = Bench(linked=3, known=20)
    bench.detector._round_at = 1.0
    bench.detector.newcomer("member22")
    pings = [name for _, name, message in bench.run(6.0, 0, 1, 2) if isinstance(message, Ping)]
    assert pings[0] == "member22"


def test_each_is_probed_once_in_a_round_of_all_in_an_order_of_chance() -> None:
    bench = Bench(linked=3, known=20)
    bench.detector._round_at = 1.0
    everybody = range(len(bench.members))
    pings = [name for _, name, message in bench.run(300.0, *everybody) if isinstance(message, Ping)]
    names = [member.name for member in bench.members]
    first, second = pings[:23], pings[23:46]
    assert sorted(first) == sorted(second) == sorted(names)
    assert names != first != second


def test_a_round_is_not_spent_on_one_that_is_gone() -> None:
    bench = Bench(linked=3, known=20)
    for number in range(3, 22):
        bench.detector.newcomer(f"member{number}")
        bench.learn(Claim(replace(bench.members[number], status=Status.DOWN)))
    bench.detector.newcomer("member22")
    bench.detector._round_at = 1.0
    pings = [(at, name) for at, name, message in bench.run(1.2, 0, 1, 2) if isinstance(message, Ping)]
    assert [name for _, name in pings if name == "member22"] == ["member22"]


@pytest.mark.parametrize(("known", "least", "most"), [(1, 5, 8), (20, 2, 3)])
def test_one_that_is_down_is_pinged_now_and_then_and_more_often_by_few(known: int, least: int, most: int) -> None:
    bench = Bench(linked=3, known=known)
    bench.membership.learn(replace(bench.members[3], status=Status.DOWN), 0.0)
    pings = [name for _, name, message in bench.run(25.0, 0, 1, 2) if isinstance(message, Ping)]
    assert least <= pings.count("member3") <= most


def test_helpers_that_are_silent_themselves_say_nothing_about_the_one_that_asked_them() -> None:
    bench = Bench(linked=2, known=0)
    bench.run(6.0)
    assert [claim.member.name for claim in bench.claims()] == ["member0", "member1"]
    assert bench.detector.health == 0
