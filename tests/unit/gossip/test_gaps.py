"""What is kept of deltas that came too early, and what that costs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from gossip import gaps
from gossip.gaps import PER_OWNER_MAX, Gaps
from gossip.or_set import Epoch, Interval, ORSet, Snapshot
from gossip.payload import content_bytes

if TYPE_CHECKING:
    import pytest

    from gossip.or_set import Delta

EPOCH = Epoch(1, 1)


def early(version: int, owner: str = "ann") -> Interval:
    return Interval(owner, EPOCH, version - 1, version, ((version, b"key%d" % version),), ())


def test_to_keep_one_more_takes_no_look_at_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer holds no sets, so whatever it hears of the changes of thousands came too early."""
    measured: list[Delta] = []

    def measure(delta: Delta) -> int:
        measured.append(delta)
        return content_bytes(delta)

    monkeypatch.setattr(gaps, "content_bytes", measure)
    kept = Gaps(random.Random(1))
    for number in range(100):
        for version in range(1, 2 * PER_OWNER_MAX):
            kept.keep(early(version, f"owner{number}"))
    assert len(measured) == 100 * PER_OWNER_MAX, "what finds no place is not measured either"


def test_one_delta_from_each_neighbour_takes_one_place() -> None:
    kept = Gaps(random.Random(1))
    for version in (3, 2):
        for _neighbour in range(PER_OWNER_MAX):
            kept.keep(early(version))
    assert kept.release("ann") == [early(2), early(3)]
    assert kept.release("ann") == []


def test_what_is_released_or_forgotten_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "BYTES_MAX", content_bytes(early(2)))
    kept = Gaps(random.Random(1))
    kept.keep(early(2, "ann"))
    kept.keep(early(2, "bob"))
    assert kept.release("bob") == []
    assert kept.release("ann") == [early(2, "ann")]
    kept.keep(early(2, "bob"))
    kept.forget("bob")
    kept.keep(early(2, "cyd"))
    kept.check(["cyd", "ann", "bob"])
    assert kept.release("cyd") == [early(2, "cyd")]


def test_who_cannot_get_there_from_what_it_holds_asks_for_the_whole_set() -> None:
    kept, held = Gaps(random.Random(1)), ORSet("me", EPOCH, lambda _: None)
    held.apply(Snapshot("ann", EPOCH, 1, ((1, b"key"),)))
    kept.want("ann", EPOCH, 2, "bob", 0.0)
    assert kept.due(held, ["bob"], 1.0) == {"bob": [("ann", EPOCH, 1)]}
    kept.want("ann", EPOCH, 2, "bob", 1.0, whole=True)
    assert kept.due(held, ["bob"], 3.0) == {"ann": [("ann", EPOCH, 0)]}
