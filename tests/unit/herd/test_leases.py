"""The coordinator's decisions, rule by rule."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

import pytest

from mirror.herd import leases
from mirror.herd.leases import (
    AGAIN_S,
    AHEAD_BYTES,
    BARREN_S,
    CLOSED_S_MAX,
    CONTEST_S,
    DONE_S,
    DOUBTED_S,
    ESCAPES_S,
    GONE_S,
    GRACE_S,
    NEARLY_S,
    OBJECT_IDLE_S,
    PATIENCE_S,
    REFUSED_S,
    RENEW_S,
    RENEWED_S,
    STARVED_S,
    STRANDED_S,
    Leases,
    Ration,
)
from mirror.herd.words import (
    Claim,
    Closed,
    End,
    Follow,
    Given,
    Lead,
    Noted,
    Probe,
    Release,
    Renewal,
    Scope,
    Small,
    Verdict,
    Wait,
)

OBJECT = "registry.test sha256:0"
AN_INSTANT_S = 0.001


@dataclass
class Desk:
    """A coordinator, the time, and the members that are gone."""

    now: float = 1000.0
    young: bool = False
    scope: Scope = Scope.CLUSTER
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.leases = Leases(lambda name: name not in self.gone, lambda: self.young)

    def claim(self, member: str, **about: object) -> Verdict:
        claim = Claim(self.scope, OBJECT, **about)  # type: ignore[arg-type]
        return self.leases.answer(member, claim, self.now)

    def renew(self, member: str, offset: int = 0) -> None:
        assert self.leases.answer(member, Renewal(self.scope, OBJECT, offset), self.now) == Noted()

    def release(
        self, member: str, end: End, retry_s: float = 0.0, small: Small | None = None, *, registry: bool = False
    ) -> None:
        word = Release(self.scope, OBJECT, end, retry_s, small, registry)
        assert self.leases.answer(member, word, self.now) == Noted()

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def contest(self, *members: str, **about: object) -> list[Verdict]:
        """All claim again and again until one leads; what each was told last."""
        for _ in range(20):
            told = [self.claim(member, **about) for member in members]
            if Lead() in told:
                return told
            self.wait(AGAIN_S)
        raise AssertionError("nobody leads")


def test_the_first_that_claims_leads_and_the_others_follow() -> None:
    desk = Desk()
    assert desk.claim("ann") == Lead()
    assert desk.claim("bob") == Follow("ann")
    assert desk.claim("cyd") == Follow("ann"), "and not somebody who waits as well"


def test_each_object_and_each_scope_has_a_lease_of_its_own() -> None:
    desk = Desk()
    assert desk.claim("ann") == Lead()
    assert desk.leases.answer("bob", Claim(Scope.ZONE, OBJECT), desk.now) == Lead()
    assert desk.leases.answer("bob", Claim(Scope.CLUSTER, "another"), desk.now) == Lead()


def test_a_leader_that_claims_again_still_leads() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob")
    assert desk.claim("ann") == Lead()


def test_a_lease_that_is_renewed_holds() -> None:
    desk = Desk()
    desk.claim("ann")
    for _ in range(100):
        desk.wait(RENEW_S)
        desk.renew("ann")
    assert desk.claim("bob") == Follow("ann")


def test_a_lease_that_is_not_renewed_is_over() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.wait(RENEWED_S - AN_INSTANT_S)
    assert desk.claim("bob") == Follow("ann")
    desk.wait(2 * AN_INSTANT_S)
    assert Lead() in desk.contest("bob", "cyd")


def test_a_leader_that_is_gone_leads_no_more() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob")
    desk.gone.add("ann")
    desk.wait(GONE_S + AN_INSTANT_S)
    assert desk.claim("bob") == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("bob") == Lead()


def test_a_leader_that_is_thought_to_be_gone_and_renews_is_followed() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.gone.add("ann")
    desk.wait(RENEW_S)
    desk.renew("ann")
    assert desk.claim("bob") == Follow("ann")


def test_another_leader_takes_the_place_of_one_that_is_gone() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.gone.add("ann")
    desk.wait(GONE_S + AN_INSTANT_S)
    desk.renew("bob", 7)
    assert desk.claim("cyd") == Follow("bob")


def test_a_leader_that_a_follower_lost_and_that_comes_further_keeps_its_lease() -> None:
    desk = Desk()
    desk.claim("ann")
    assert desk.claim("bob", lost=("ann",)) == Wait(AGAIN_S)
    desk.wait(RENEW_S)
    desk.renew("ann", 1)
    desk.wait(DOUBTED_S)
    assert desk.claim("cyd") == Follow("ann")


def test_a_leader_that_a_follower_lost_and_that_renews_but_comes_no_further_is_replaced_by_one() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.renew("ann", 7)
    began = desk.now
    leading: list[str] = []
    while desk.now < began + 2 * DOUBTED_S:
        told = {name: desk.claim(name, offset=5, lost=("ann",)) for name in ("bob", "cyd", "dan")}
        leading += [name for name, verdict in told.items() if verdict == Lead() and name not in leading]
        desk.wait(AGAIN_S)
        desk.renew("ann", 7)
    assert len(leading) == 1
    assert desk.claim("ann", offset=7) == Follow(leading[0])


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("comes", [0, 1])
def test_a_leader_that_a_follower_calls_barren_is_followed_and_replaced_if_nothing_comes(
    comes: int, scope: Scope
) -> None:
    desk = Desk(scope=scope)
    desk.claim("ann")
    barren_s = STARVED_S if scope is Scope.ZONE else BARREN_S
    until = desk.now + barren_s
    assert desk.claim("bob", barren=("ann",)) == Follow("ann")
    while desk.now + NEARLY_S < until:
        desk.wait(RENEW_S)
        desk.renew("ann", comes)
    rest_s = until - desk.now
    told = [desk.claim(name, barren=("ann",)) for name in ("bob", "cyd", "bob")]
    assert told == [Follow("ann") if comes or name == "cyd" else Wait(rest_s) for name in ("bob", "cyd", "bob")]
    desk.wait(rest_s)
    assert desk.claim("bob", barren=("ann",)) == (Follow("ann") if comes else Wait(AGAIN_S))
    desk.wait(AGAIN_S)
    assert desk.claim("bob", barren=("ann",)) == (Follow("ann") if comes else Lead())


def test_a_leader_that_asks_whether_it_leads_makes_way_for_one_that_takes_over_and_leads_on_if_none_does() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", barren=("ann",))
    desk.wait(BARREN_S - AN_INSTANT_S)
    assert desk.claim("ann") == Lead()
    desk.wait(2 * AN_INSTANT_S)
    assert desk.claim("ann") == Wait(AGAIN_S)
    desk.wait(DOUBTED_S)
    assert desk.claim("ann") == Lead()
    assert desk.claim("bob", barren=("ann",)) == Follow("ann")


@pytest.mark.parametrize("done", [False, True])
def test_a_leader_that_has_gone_past_what_another_wants_is_replaced_for_those_behind(done: bool) -> None:
    desk = Desk(scope=Scope.ZONE)
    desk.claim("ann")
    desk.renew("ann", 50)
    assert desk.claim("bob", absent=("ann",)) == Follow("ann")
    for offset in (100, 150):
        desk.wait(STARVED_S / 2)
        desk.renew("ann", offset)
    if done:
        desk.release("ann", End.DONE)
        assert desk.claim("bob", absent=("ann",)) == Follow("ann")
        return
    assert desk.claim("bob", absent=("ann",)) == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("bob", absent=("ann",)) == Lead()
    desk.renew("ann", 200)
    assert desk.claim("cyd") == Follow("bob")


def test_a_leader_that_has_not_what_another_has_already_is_no_reason_for_one_more() -> None:
    desk = Desk(scope=Scope.ZONE)
    desk.claim("ann")
    desk.renew("ann", 50)
    for _ in range(10):
        assert desk.claim("bob", offset=50, absent=("ann",)) == Follow("ann")
        desk.wait(RENEW_S)
        desk.renew("ann", 50)


def deposed() -> Desk:
    """Ann had nothing for some time, and bob leads now, who has nothing either; ann goes on and does not know."""
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", barren=("ann",))
    for _ in range(2):
        desk.wait(BARREN_S / 2)
        desk.renew("ann")
    assert desk.claim("bob") == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("bob") == Lead()
    return desk


def test_a_leader_that_was_only_slow_leads_again_when_it_comes_further_and_its_successor_has_nothing() -> None:
    desk = deposed()
    desk.renew("ann")
    assert desk.claim("cyd") == Follow("bob")
    desk.renew("ann", 1)
    assert desk.claim("cyd") == Follow("ann")
    desk.renew("bob", 1)
    assert desk.claim("cyd") == Follow("ann")


def test_a_leader_that_was_only_slow_is_followed_when_it_has_all_and_its_successor_nothing() -> None:
    desk = deposed()
    small = Small("text/plain", b"x")
    desk.release("ann", End.DONE, small=small)
    assert desk.claim("cyd") == Given(small)


def test_a_leader_that_was_only_slow_does_not_take_the_place_of_one_that_has_something() -> None:
    desk = deposed()
    desk.renew("bob", 1)
    desk.renew("ann", 2)
    assert desk.claim("cyd") == Follow("bob")
    desk.release("ann", End.DONE)
    assert desk.claim("cyd") == Follow("bob")


def test_one_whose_lease_was_passed_on_and_that_comes_no_further_does_not_have_it_back() -> None:
    desk = deposed()
    desk.renew("bob", 40)
    desk.release("bob", End.LOST)
    desk.renew("ann")
    assert desk.claim("cyd", offset=40, lost=("bob",)) == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("cyd", offset=40, lost=("bob",)) == Lead()


def test_one_that_has_the_whole_object_is_not_doubted_for_what_was_before() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", lost=("ann",))
    desk.release("ann", End.DONE)
    assert desk.claim("bob", barren=("ann",)) == Follow("ann")
    assert desk.claim("cyd") == Follow("ann")


def test_a_leader_that_pauses_far_ahead_of_one_that_lost_it_keeps_its_lease() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.renew("ann", 2 * AHEAD_BYTES)
    desk.claim("bob", offset=AHEAD_BYTES, lost=("ann",))
    for _ in range(10):
        desk.wait(RENEW_S)
        desk.renew("ann", 2 * AHEAD_BYTES)
    assert desk.claim("cyd") == Follow("ann")


def test_a_leader_is_not_doubted_because_the_one_before_it_was_barren() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", barren=("cyd",))
    desk.wait(DOUBTED_S + AN_INSTANT_S)
    assert desk.claim("bob") == Follow("ann")


def test_a_leader_that_goes_on_after_its_lease_was_over_has_it_again_if_nobody_else_has() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", lost=("ann",))
    desk.wait(DOUBTED_S + AN_INSTANT_S)
    desk.renew("ann", 1)
    assert desk.claim("cyd") == Follow("ann")


def test_a_leader_that_a_follower_lost_and_that_does_not_renew_is_replaced() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", lost=("ann",))
    desk.wait(DOUBTED_S - AN_INSTANT_S)
    assert desk.claim("bob", lost=("ann",)) == Wait(AGAIN_S)
    desk.wait(2 * AN_INSTANT_S)
    assert desk.claim("bob", lost=("ann",)) == Lead()
    assert desk.claim("cyd") == Follow("bob")


def test_doubt_that_is_repeated_does_not_put_off_the_end_of_a_lease() -> None:
    desk = Desk()
    desk.claim("ann")
    began = desk.now
    while desk.claim("bob", lost=("ann",)) != Lead():
        desk.wait(0.1)
        assert desk.now - began < DOUBTED_S + 2 * AGAIN_S


def test_the_most_advanced_of_those_that_lost_their_leader_leads() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.LOST)
    assert desk.claim("bob", offset=5, lost=("ann",)) == Wait(AGAIN_S)
    assert desk.claim("cyd", offset=9, lost=("ann",)) == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("bob", offset=5, lost=("ann",)) == Wait(AGAIN_S)
    assert desk.claim("cyd", offset=9, lost=("ann",)) == Lead()
    assert desk.claim("bob", offset=5, lost=("ann",)) == Follow("cyd")


def test_when_the_most_advanced_does_not_come_back_another_one_leads() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.LOST)
    desk.claim("cyd", offset=9, lost=("ann",))
    began = desk.now
    assert desk.contest("bob", offset=5) == [Lead()]
    assert desk.now - began <= 2 * CONTEST_S + DOUBTED_S + 3 * AGAIN_S


def test_a_leader_that_shows_up_ends_the_contest() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.claim("bob", lost=("ann",), offset=9)
    desk.renew("ann", 10)
    desk.claim("cyd")
    desk.wait(60 * AGAIN_S)
    desk.renew("ann", 11)
    desk.wait(RENEWED_S + AN_INSTANT_S)
    assert desk.claim("cyd", offset=5) == Wait(AGAIN_S), "the contenders of long ago do not count"
    desk.wait(AGAIN_S)
    assert desk.claim("cyd", offset=5) == Lead()


def test_one_that_has_the_whole_object_is_followed_for_a_while() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.DONE)
    desk.wait(DONE_S)
    assert desk.claim("bob") == Follow("ann")
    desk.wait(AN_INSTANT_S)
    assert desk.claim("bob") == Lead()


@pytest.mark.parametrize("later_s", [0.0, DONE_S + 1, OBJECT_IDLE_S + 1])
def test_one_that_had_the_whole_object_and_is_lost_is_replaced_by_the_most_advanced(later_s: float) -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.DONE)
    desk.wait(later_s)
    assert desk.claim("bob", lost=("ann",)) == Wait(AGAIN_S)
    assert desk.claim("cyd", lost=("ann",), offset=9) == Wait(AGAIN_S)
    assert desk.claim("dan") == Wait(AGAIN_S), "it may follow whoever has come so far"
    desk.wait(AGAIN_S)
    assert desk.claim("bob", lost=("ann",)) == Wait(AGAIN_S)
    assert desk.claim("cyd", lost=("ann",), offset=9) == Lead()
    assert desk.claim("bob", lost=("ann",)) == Follow("cyd")


def test_one_that_had_the_whole_object_and_is_lost_by_one_alone_is_replaced_at_the_next_claim() -> None:
    desk = Desk()
    assert desk.claim("bob", lost=("ann",)) == Wait(AGAIN_S)
    desk.wait(AGAIN_S)
    assert desk.claim("bob", lost=("ann",)) == Lead()


def test_a_small_object_is_in_the_answer_with_its_age() -> None:
    desk, small = Desk(), Small("text/plain", b"hello")
    desk.claim("ann")
    desk.release("ann", End.DONE, small=replace(small, age_s=1.0))
    desk.wait(2.0)
    assert desk.claim("bob", age_max_s=3.0) == Given(replace(small, age_s=3.0))
    desk.wait(DONE_S - 3.0 + AN_INSTANT_S)
    assert desk.claim("bob") == Lead()


def test_a_small_object_that_is_too_old_takes_no_memory() -> None:
    desk, body = Desk(), bytes(1000)
    desk.claim("ann")
    desk.release("ann", End.DONE, small=Small("text/plain", body))
    desk.wait(DONE_S)
    desk.leases.answer("bob", Claim(Scope.CLUSTER, "another"), desk.now)
    kept = sys.getrefcount(body)
    desk.wait(AN_INSTANT_S)
    desk.leases.answer("bob", Claim(Scope.CLUSTER, "another"), desk.now)
    assert sys.getrefcount(body) == kept - 1


def test_what_another_than_the_leader_releases_changes_nothing() -> None:
    desk = Desk()
    desk.claim("ann")
    for end in End:
        desk.release("bob", end, 100.0, Small("text/plain", b"no"))
        assert desk.claim("cyd") == Follow("ann")
    desk.renew("bob", 99)
    assert desk.claim("cyd") == Follow("ann")


def test_a_refusal_lets_one_that_is_known_lead_and_all_others_probe_at_once() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.REFUSED)
    assert [desk.claim(f"node{number}") for number in range(30)] == [Probe()] * 30
    assert desk.claim("eve", known=True) == Lead()
    assert desk.claim("dan") == Follow("eve")


def test_when_the_most_advanced_is_refused_one_that_is_as_far_leads_and_not_the_next_that_comes() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.LOST)
    assert Lead() in desk.contest("bob", offset=9)
    desk.release("bob", End.REFUSED)
    for _ in range(3):
        assert desk.claim("cyd", offset=5, known=True) == Wait(AGAIN_S)
        desk.wait(AGAIN_S)
    assert desk.claim("dan", offset=9, known=True) == Lead()
    assert desk.claim("cyd", offset=5, known=True) == Follow("dan")


def test_when_the_most_advanced_is_refused_and_nobody_is_as_far_another_one_leads() -> None:
    desk = Desk()
    desk.claim("ann", offset=9)
    desk.release("ann", End.REFUSED)
    assert desk.claim("bob", offset=5, known=True) == Wait(AGAIN_S)
    desk.wait(2 * CONTEST_S + DOUBTED_S + 2 * AGAIN_S - AN_INSTANT_S)
    assert desk.claim("bob", offset=5, known=True) == Wait(AGAIN_S)
    desk.wait(2 * AN_INSTANT_S)
    assert desk.claim("bob", offset=5, known=True) == Lead()


def test_a_refusal_is_forgotten() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.REFUSED)
    desk.wait(REFUSED_S)
    assert desk.claim("bob") == Lead()


@pytest.mark.parametrize(("retry_s", "closed_s"), [(7.0, 7.0), (1e6, CLOSED_S_MAX)])
@pytest.mark.parametrize("registry", [False, True])
def test_a_registry_that_has_had_enough_is_left_alone_and_then_asked_by_one(
    retry_s: float, closed_s: float, registry: bool
) -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.CLOSED, retry_s, registry=registry)
    assert desk.claim("bob") == Closed(closed_s, registry)
    desk.wait(closed_s - AN_INSTANT_S)
    assert isinstance(desk.claim("bob"), Closed)
    desk.wait(2 * AN_INSTANT_S)
    assert [desk.claim(name) for name in ("bob", "cyd")] == [Lead(), Follow("bob")]


def test_a_registry_that_does_not_answer_is_left_alone_when_two_members_found_so() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.release("ann", End.CLOSED)
    assert Lead() in desk.contest("bob"), "that it does not answer one member may be that member's fault"
    desk.release("bob", End.CLOSED)
    assert desk.claim("cyd") == Closed(PATIENCE_S, registry=False)


def test_who_waited_too_long_escapes_and_escapes_are_rationed() -> None:
    desk = Desk()
    desk.claim("ann")

    def escapes() -> int:
        desk.renew("ann")
        told = [desk.claim(f"node{number}", waited_s=PATIENCE_S) for number in range(20)]
        return sum(verdict == Lead(escape=True) for verdict in told)

    counts = []
    for _ in range(4):
        counts.append(escapes())
        for _ in range(4):
            desk.renew("ann")
            desk.wait(ESCAPES_S / 4)
    assert counts == [1, 2, 4, 8]
    assert isinstance(desk.claim("new"), Follow), "who escapes is not followed, and the leader still leads"


def test_who_waited_less_does_not_escape() -> None:
    desk = Desk()
    desk.claim("ann")
    assert desk.claim("bob", waited_s=PATIENCE_S - AN_INSTANT_S) == Follow("ann")


@pytest.mark.parametrize("how", ["lost", "absent"])
def test_one_that_cannot_follow_the_leader_escapes_sooner(how: str) -> None:
    desk = Desk()
    desk.claim("ann")
    assert desk.claim("bob", waited_s=STRANDED_S - AN_INSTANT_S, **{how: ("ann",)}) != Lead(escape=True)
    desk.renew("ann")
    assert desk.claim("bob", waited_s=STRANDED_S, **{how: ("ann",)}) == Lead(escape=True)


def test_a_coordinator_that_took_over_gives_the_leader_time_to_show_up() -> None:
    desk = Desk()
    assert desk.claim("bob", second=True) == Wait(AGAIN_S)
    desk.renew("ann", 7)
    assert desk.claim("bob", second=True) == Follow("ann")


def test_a_coordinator_that_took_over_makes_a_leader_when_none_shows_up() -> None:
    desk = Desk()
    began = desk.now
    assert desk.contest("bob", second=True) == [Lead()]
    assert desk.now - began <= GRACE_S + AGAIN_S


def test_the_time_in_which_the_one_before_it_did_not_answer_counts_unless_it_is_young_itself() -> None:
    desk = Desk()
    assert desk.claim("bob", second=True, waited_s=GRACE_S - AGAIN_S) == Wait(GRACE_S - (GRACE_S - AGAIN_S))
    assert desk.claim("bob", second=True, waited_s=GRACE_S) == Lead()
    desk = Desk(young=True)
    assert desk.claim("bob", second=True, waited_s=GRACE_S) == Wait(AGAIN_S)


def test_a_young_coordinator_gives_the_leader_time_to_show_up() -> None:
    desk = Desk(young=True)
    assert desk.claim("bob") == Wait(AGAIN_S)
    desk.wait(GRACE_S)
    assert desk.claim("bob") == Lead()


def test_a_renewal_of_a_lease_that_is_not_known_is_believed() -> None:
    desk = Desk()
    desk.renew("ann", 7)
    assert desk.claim("bob") == Follow("ann")


def test_a_second_leader_does_not_replace_one_that_holds_the_lease() -> None:
    desk = Desk()
    desk.claim("ann")
    desk.renew("bob", 7)
    assert desk.claim("cyd") == Follow("ann")


def test_what_is_remembered_has_a_limit_and_the_longest_unasked_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "OBJECTS_MAX", 3)
    desk = Desk()

    def claim(member: str, name: str) -> Verdict:
        return desk.leases.answer(member, Claim(Scope.CLUSTER, name), desk.now)

    for name in ("one", "two", "three", "one", "four"):
        claim("ann", name)
    assert len(desk.leases) == 3
    assert claim("bob", "one") == Follow("ann")
    assert claim("bob", "two") == Lead()


def test_an_object_that_nobody_asked_about_for_long_is_new_again() -> None:
    desk = Desk()
    desk.contest("ann", second=True)
    desk.release("ann", End.REFUSED)
    desk.wait(OBJECT_IDLE_S + AN_INSTANT_S)
    assert desk.claim("bob", second=True) == Wait(AGAIN_S)


def test_a_ration_doubles_and_begins_anew_after_a_rest() -> None:
    ration = Ration(1, 1.0)
    assert [ration.take(0.0), ration.take(0.5)] == [True, False]
    assert [ration.take(1.0), ration.take(1.1), ration.take(1.2)] == [True, True, False]
    assert [ration.take(100.0), ration.take(100.1)] == [True, False]
