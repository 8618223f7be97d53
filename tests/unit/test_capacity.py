"""How many uploads at a time: few, and more where the network gives more."""

from __future__ import annotations

import pytest

from mirror.capacity import CHILDREN, HOLD_S, PERIOD_S, UPLOADS, Capacity

MB = 1_000_000


class Uplink:
    """A node whose uploads are always wanted: each takes `share` bytes a second, all together at most `limit`."""

    def __init__(self, limit: float, share: float, uploads_max: int = 64) -> None:
        self.limit, self.share = limit, share
        self.capacity = Capacity(uploads_max)
        self.now, self.sent = 1000.0, 0.0

    def run(self, seconds: float) -> list[int]:
        """The number of uploads allowed, over time."""
        seen = []
        for _ in range(int(seconds * 10)):
            self.now += 0.1
            self.sent += min(self.limit, self.share * self.capacity.uploads) / 10
            self.capacity.wanted(int(self.sent), self.now)
            seen.append(self.capacity.uploads)
        return seen


def test_it_begins_with_few() -> None:
    capacity = Capacity(64)
    assert (capacity.uploads, capacity.children) == (UPLOADS, CHILDREN) == (4, 2)
    assert Capacity(3).uploads == 3


def test_one_more_at_a_time_is_allowed_while_every_one_still_gets_its_rate() -> None:
    uplink = Uplink(limit=1e12, share=10 * MB)
    seen = uplink.run(30 * PERIOD_S)
    assert seen == sorted(seen)
    assert uplink.capacity.uploads > 20
    assert uplink.capacity.children == uplink.capacity.uploads // 2


def test_a_full_uplink_is_found_out_and_believed_for_a_while() -> None:
    uplink = Uplink(limit=10 * MB, share=10 * MB)
    seen = uplink.run(5 * HOLD_S)
    assert set(seen) == {UPLOADS, UPLOADS + 1}
    assert seen.count(UPLOADS + 1) <= 0.2 * len(seen), "trying costs the others little"


def test_it_stops_where_more_do_not_add_more() -> None:
    uplink = Uplink(limit=95 * MB, share=10 * MB)
    uplink.run(3 * HOLD_S)
    assert 9 <= uplink.capacity.uploads <= 11


@pytest.mark.parametrize("uploads_max", [1, 5])
def test_it_never_exceeds_what_the_operator_allows(uploads_max: int) -> None:
    uplink = Uplink(limit=1e12, share=MB, uploads_max=uploads_max)
    assert max(uplink.run(20 * PERIOD_S)) == uploads_max


def test_after_an_idle_time_it_begins_again() -> None:
    uplink = Uplink(limit=1e12, share=MB)
    uplink.run(10 * PERIOD_S)
    uplink.capacity.idle()
    assert uplink.capacity.uploads == UPLOADS


def test_what_was_sent_in_a_long_time_without_demand_is_no_rate() -> None:
    capacity = Capacity(64)
    capacity.wanted(0, 100.0)
    capacity.wanted(1, 1000.0)
    assert capacity.uploads == UPLOADS
