"""Who coordinates what: all nodes say the same, and a member that goes takes nothing with it but its own."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mirror.herd.roster import RANKS, Place, Roster

KEYS = [f"registry.test sha256:{number:064x}".encode() for number in range(2000)]
places = st.lists(st.builds(Place, st.text(max_size=8), st.sampled_from("abc")), min_size=1, max_size=20, unique=True)


def roster(me: Place, members: list[Place]) -> Roster:
    return Roster(me, [place for place in members if place != me])


def nodes(count: int, zones: str = "a") -> list[Place]:
    return [Place(f"node-{number}", zones[number % len(zones)]) for number in range(count)]


@given(places, st.binary(max_size=40), st.randoms())
def test_all_nodes_name_the_same_coordinators_in_whatever_order_they_know_each_other(
    members: list[Place], key: bytes, random: object
) -> None:
    known = [roster(me, members[::-1] if number % 2 else members) for number, me in enumerate(members)]
    assert len({tuple(each.in_cluster(key)) for each in known}) == 1
    for zone in "abc":
        inside = {tuple(each.in_zone(key)) for each in known if each.me.zone == zone}
        assert len(inside) <= 1


@given(places, st.binary(max_size=40))
def test_coordinators_are_members_of_their_zone_each_named_once(members: list[Place], key: bytes) -> None:
    here = roster(members[0], members)
    named = here.in_zone(key)
    inside = {place.name for place in members if place.zone == members[0].zone}
    assert set(named) <= inside
    assert len(named) == min(RANKS, sum(place.zone == members[0].zone for place in members))


def test_a_member_that_goes_moves_only_what_it_coordinated_and_that_to_the_next_in_rank() -> None:
    members = nodes(50)
    before = roster(members[0], members)
    gone = members[7]
    after = roster(members[0], [place for place in members if place != gone])
    moved = 0
    for key in KEYS:
        first, second, *_ = before.in_cluster(key)
        moved += first == gone.name
        assert after.in_cluster(key)[0] == (second if first == gone.name else first)
    assert moved


def test_nobody_coordinates_more_than_twice_its_share() -> None:
    """2,000 objects over 20 members are 100 each, with a standard deviation of 10 if the hash is even."""
    members = nodes(20)
    first = Counter(roster(members[0], members).in_cluster(key)[0] for key in KEYS)
    assert len(first) == len(members)
    assert max(first.values()) <= 1.5 * len(KEYS) / len(members)
    assert min(first.values()) >= 0.5 * len(KEYS) / len(members)


def test_what_a_member_coordinated_is_shared_by_all_when_it_goes() -> None:
    members = nodes(20)
    here = roster(members[0], members)
    second = Counter(here.in_cluster(key)[1] for key in KEYS if here.in_cluster(key)[0] == members[3].name)
    assert len(second) >= 15, "about 100 objects go to 19 others"


def test_a_node_alone_coordinates_everything_itself() -> None:
    alone = Roster(Place("me", ""), ())
    assert alone.in_zone(b"key") == alone.in_cluster(b"key") == ["me"]
    assert (alone.size, alone.zoned) == (1, False)


def test_there_are_zones_when_a_member_is_in_another() -> None:
    members = nodes(6, "ab")
    assert roster(members[0], members).zoned
    assert not roster(members[0], members[::2]).zoned


def test_ranking_a_thousand_members_takes_about_a_millisecond() -> None:
    members = nodes(1000)
    here = roster(members[0], members)
    began = time.perf_counter()
    for key in KEYS[:50]:
        here.in_cluster(key)
    each_ms = (time.perf_counter() - began) / 50 * 1000
    print(f"ranking 1,000 members took {each_ms:.2f} ms")  # noqa: T201 - a figure to look at
    assert each_ms < 20, "whatever the machine does besides"
