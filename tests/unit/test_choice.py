"""The order in which holders are asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mirror.choice import AVOID_CORRUPT_S, AVOID_S, LOAD_FRESH_S, SWEEP_S, Holder, Standing
from mirror.errors import CorruptError, UnavailableError
from mirror.load import Load
from mirror.peer_mac import Target


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def holder(name: str, zone: str = "here", *, suspect: bool = False) -> Holder:
    return Holder(Target(name, "1.1"), f"http://{name}", zone, suspect=suspect)


def names(standing: Standing, *holders: Holder) -> list[str]:
    return [each.target.name for each in standing.ranked(holders)]


def test_every_holder_is_named_once(clock: Clock) -> None:
    holders = [holder(f"n{number}") for number in range(9)]
    assert sorted(names(Standing("here", random.Random(1), clock), *holders)) == [f"n{number}" for number in range(9)]


def test_the_same_zone_comes_first_and_suspects_last(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    far, near, suspect = holder("far", "there"), holder("near"), holder("suspect", suspect=True)
    for _ in range(20):
        assert names(standing, suspect, far, near) == ["near", "far", "suspect"]


def test_a_holder_that_failed_is_asked_last_for_a_while_but_never_left_out(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    failed = holder("failed")
    standing.fail(failed, UnavailableError("gone"))
    for _ in range(20):
        assert names(standing, failed, holder("far", "there")) == ["far", "failed"]
    assert names(standing, failed) == ["failed"]
    clock.now += AVOID_S + 1
    assert names(standing, holder("far", "there"), failed) == ["failed", "far"]


def test_one_that_gave_wrong_bytes_is_avoided_for_longer_whatever_comes_after(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    standing.fail(holder("bad"), CorruptError("wrong bytes"))
    standing.fail(holder("bad"), UnavailableError("gone"))
    clock.now += AVOID_CORRUPT_S - 1
    assert names(standing, holder("bad"), holder("far", "there")) == ["far", "bad"]


def test_the_less_busy_of_two_at_random_spreads_transfers_evenly(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    holders = [holder(f"n{number}") for number in range(10)]
    given: Counter[str] = Counter()
    for _ in range(500):
        choice = next(standing.ranked(holders))
        standing.begin(choice)
        given[choice.target.name] += 1
    assert max(given.values()) - min(given.values()) <= 4, given


def test_a_transfer_that_ended_counts_no_more(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    one, two = holder("one"), holder("two")
    for _ in range(5):
        standing.begin(one)
    assert {names(standing, one, two)[0] for _ in range(20)} == {"two"}
    for _ in range(5):
        standing.end(one)
    standing.begin(two)
    assert {names(standing, one, two)[0] for _ in range(20)} == {"one"}


def test_the_less_loaded_comes_first_by_what_peers_told_of_themselves(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    one, two = holder("one"), holder("two")
    standing.hear(one, Load(30, 64))
    standing.hear(two, Load(5, 8))
    for _ in range(20):
        assert names(standing, two, one) == ["one", "two"]


def test_ones_own_transfers_count_once_although_the_peer_tells_them_too(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    one, two = holder("one"), holder("two")
    for _ in range(3):
        standing.begin(one)
    standing.hear(one, Load(3, 8))
    standing.hear(two, Load(4, 8))
    for _ in range(20):
        assert names(standing, two, one) == ["one", "two"]
    for _ in range(2):
        standing.begin(one)
    for _ in range(20):
        assert names(standing, two, one) == ["two", "one"]


def test_a_full_peer_comes_after_one_that_is_far_away_until_that_is_old_news(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    full, far = holder("full"), holder("far", "there")
    standing.hear(full, Load(8, 8))
    assert names(standing, full, far) == ["far", "full"]
    clock.now += LOAD_FRESH_S + 1
    assert names(standing, full, far) == ["full", "far"]


def test_names_that_are_used_no_more_are_forgotten(clock: Clock) -> None:
    standing = Standing("here", random.Random(1), clock)
    busy = holder("busy")
    standing.begin(busy)
    standing.hear(busy, Load(3, 16))
    for number in range(100):
        gone = holder(f"gone{number}")
        standing.begin(gone)
        standing.end(gone)
        standing.hear(gone, Load(1, 8))
        standing.fail(gone, UnavailableError("it went"))
    clock.now += SWEEP_S
    standing.fail(holder("last"), UnavailableError("it went"))
    assert [*standing._busy, *standing._told, *standing._avoided] == ["busy", "busy", "last"]
