"""Who holds a Lease, and who may take it, as one candidate sees it."""

from __future__ import annotations

from typing import Final

import pytest

from mirror.election import LEASE_DURATION_S, MARGIN_S, RENEW_S, Election, Lease

SILENCE_S: Final = LEASE_DURATION_S - MARGIN_S


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
        assert not election.observe(lease("other:1", turn), now=turn * (SILENCE_S - 0.1))
    assert election.holder == "other:1"


def test_a_holder_that_does_not_renew_is_replaced_a_margin_before_its_duration_has_passed_here() -> None:
    election = Election("me:1")
    assert not election.observe(lease("other:1", 7), now=1000)
    assert not election.observe(lease("other:1", 7), now=1000 + SILENCE_S - 0.1)
    assert election.observe(lease("other:1", 7), now=1000 + SILENCE_S)


def taken_after_s(first_look_s: float, call_s: float, clock_s: float) -> float:
    """How long after its last renewal, at 0, a Lease is taken by a candidate that looks at these times.

    A call's effect on the server is in the middle of it; the candidate's clock is ahead by `clock_s`.
    """
    election = Election("me:1")
    look_s = first_look_s
    while True:
        seen = lease("other:1", 2 if look_s + call_s / 2 >= 0 else 1)
        if election.observe(seen, look_s + clock_s):
            return look_s + 3 * call_s / 2
        look_s += call_s + election.wait_s(look_s + clock_s)


@pytest.mark.parametrize("call_s", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("clock_s", [0.0, 1e6])
def test_a_holder_that_dies_after_a_renewal_is_replaced_within_the_duration_whenever_others_look(
    call_s: float, clock_s: float
) -> None:
    phases = [-(RENEW_S + call_s) * phase / 100 for phase in range(101)]
    times = [taken_after_s(phase, call_s, clock_s) for phase in phases]
    assert max(times) <= LEASE_DURATION_S
    assert min(times) >= SILENCE_S  # and the holder had its time to renew


def test_the_next_look_is_when_the_lease_runs_out_if_that_is_sooner_than_a_turn() -> None:
    election = Election("me:1")
    election.observe(lease("other:1", 7), now=0)
    assert election.wait_s(now=0) == RENEW_S
    assert election.wait_s(now=SILENCE_S - 1) == 1
    assert election.wait_s(now=SILENCE_S + 1) == 0


def test_the_holders_own_duration_counts() -> None:
    election = Election("me:1")
    election.observe(lease("other:1", 7, duration_s=60), now=0)
    assert not election.observe(lease("other:1", 7, duration_s=60), now=59 - MARGIN_S)
    assert election.observe(lease("other:1", 7, duration_s=60), now=60 - MARGIN_S)


def test_a_holder_with_a_duration_of_next_to_nothing_has_a_turn() -> None:
    election = Election("me:1")
    assert not election.observe(lease("other:1", 7, duration_s=1), now=0)
    assert not election.observe(lease("other:1", 7, duration_s=1), now=RENEW_S - 0.1)
    assert election.observe(lease("other:1", 7, duration_s=1), now=RENEW_S)


def test_the_holder_renews_whenever_it_looks() -> None:
    election = Election("me:1")
    assert election.observe(lease("me:1", 1), now=0)
    assert election.observe(lease("me:1", 2), now=1)
