"""Who gives too little: beside what others give, and of what it has."""

from __future__ import annotations

from mirror.floor import FLOOR_BYTES_S
from mirror.herd import Pace
from mirror.herd.pace import AHEAD_BYTES, FAIR_S, SLOW_S
from mirror.herd.words import Look

MEGABYTE = 1e6
WHOLE = float("inf")


class Giver:
    """A node that gives, `ahead` of its taker by so much, and itself was given `pace` bytes a second."""

    def __init__(self, ahead: float, pace: float = 0.0) -> None:
        self.now = 100.0
        self.pace = Pace(lambda _object, _position: ahead, lambda: self.now)
        if pace:
            self.pace.note(pace)

    def is_left(self, rate: float, pace: float = 0.0) -> bool:
        return self.pace.too_slow(Look("registry.test sha256:1", 7, rate, pace))


def test_a_giver_that_was_given_much_more_itself_is_left() -> None:
    assert Giver(WHOLE, pace=60 * MEGABYTE).is_left(10 * MEGABYTE)
    assert not Giver(WHOLE, pace=60 * MEGABYTE).is_left(20 * MEGABYTE)


def test_a_giver_is_left_when_others_gave_its_taker_much_more() -> None:
    assert Giver(WHOLE, pace=10 * MEGABYTE).is_left(10 * MEGABYTE, pace=60 * MEGABYTE)


def test_a_giver_that_only_waits_itself_is_not_left() -> None:
    assert not Giver(MEGABYTE, pace=60 * MEGABYTE).is_left(10 * MEGABYTE)
    assert not Giver(0.0, pace=60 * MEGABYTE).is_left(0.0)


def test_what_is_in_buffers_on_its_way_is_not_held_back() -> None:
    assert not Giver(AHEAD_BYTES, pace=60 * MEGABYTE).is_left(0.0)
    assert Giver(AHEAD_BYTES + 1, pace=60 * MEGABYTE).is_left(0.0)


def test_in_a_slow_network_nobody_is_left() -> None:
    assert not Giver(WHOLE, pace=MEGABYTE).is_left(MEGABYTE / 2, pace=MEGABYTE)
    assert not Giver(WHOLE, pace=FLOOR_BYTES_S / 2).is_left(FLOOR_BYTES_S / 4)


def test_where_nothing_is_known_of_others_the_floor_rate_decides() -> None:
    assert Giver(WHOLE).is_left(FLOOR_BYTES_S - 1)
    assert not Giver(WHOLE).is_left(FLOOR_BYTES_S)


def test_who_was_left_is_slow_for_a_while() -> None:
    giver = Giver(WHOLE, pace=60 * MEGABYTE)
    assert not giver.is_left(60 * MEGABYTE)
    assert not giver.pace.is_slow()
    giver.now += FAIR_S + 1
    assert giver.is_left(MEGABYTE)
    assert giver.pace.is_slow()
    giver.now += SLOW_S
    assert not giver.pace.is_slow()


def test_one_of_which_others_get_enough_is_left_by_who_does_not_and_is_not_slow() -> None:
    giver = Giver(WHOLE, pace=60 * MEGABYTE)
    for _ in range(5):
        giver.now += FAIR_S / 2
        assert not giver.is_left(20 * MEGABYTE)
        assert giver.is_left(MEGABYTE)
        assert not giver.pace.is_slow()


def test_the_last_rates_count_most() -> None:
    giver = Giver(WHOLE, pace=64 * MEGABYTE)
    for _ in range(6):
        giver.pace.note(0.0)
    assert giver.pace.bytes_s == MEGABYTE
