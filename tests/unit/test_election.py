"""Who holds a Lease, and who may take it, as one candidate sees it."""

from __future__ import annotations

from mirror.election import LEASE_DURATION_S, RENEW_S, Election, Lease


def lease(holder: str, version: int, duration_s: float = LEASE_DURATION_S) -> Lease:
    return Lease(holder, str(version), duration_s)


def test_a_lease_without_a_holder_is_taken_at_once() -> None:
    election = Election("me:1")
    assert election.observe(lease("", 1), now=100)
    election.observe(lease("me:1", 2), now=100)
    assert election.mine
    assert election.wait_s(now=100) == RENEW_S


def test_a_holder_that_renews_is_left_alone_for_ever() -> None:
    election = Election("me:1")
    for turn in range(100):
        assert not election.observe(lease("other:1", turn), now=turn * (LEASE_DURATION_S - 0.1))
    assert election.holder == "other:1"


def test_a_holder_that_does_not_renew_is_replaced_when_its_duration_has_passed_here_and_not_before() -> None:
    election = Election("me:1")
    assert not election.observe(lease("other:1", 7), now=1000)
    assert not election.observe(lease("other:1", 7), now=1000 + LEASE_DURATION_S - 0.1)
    assert election.observe(lease("other:1", 7), now=1000 + LEASE_DURATION_S)


def test_the_next_look_is_when_the_lease_runs_out_if_that_is_sooner_than_a_turn() -> None:
    election = Election("me:1")
    election.observe(lease("other:1", 7), now=0)
    assert election.wait_s(now=0) == RENEW_S
    assert election.wait_s(now=LEASE_DURATION_S - 1) == 1
    assert election.wait_s(now=LEASE_DURATION_S + 1) == 0


def test_the_holders_own_duration_counts() -> None:
    election = Election("me:1")
    election.observe(lease("other:1", 7, duration_s=60), now=0)
    assert not election.observe(lease("other:1", 7, duration_s=60), now=59)
    assert election.observe(lease("other:1", 7, duration_s=60), now=60)


def test_the_holder_renews_whenever_it_looks() -> None:
    election = Election("me:1")
    assert election.observe(lease("me:1", 1), now=0)
    assert election.observe(lease("me:1", 2), now=1)
