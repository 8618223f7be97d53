"""The rings: whom a member listens to."""

from __future__ import annotations

import random
from collections import deque

import pytest

from gossip import overlay
from gossip.overlay import mesh, neighbours, points, rings
from tests.steps import outcome


def graph(names: list[str]) -> dict[str, list[str]]:
    return {name: outcome(neighbours(name, [other for other in names if other != name])) for name in names}


def reached(links: dict[str, list[str]], start: str) -> dict[str, int]:
    """Who is reached from there, in how many steps."""
    steps, line = {start: 0}, deque([start])
    while line:
        name = line.popleft()
        for other in links[name]:
            if other in links and other not in steps:
                steps[other] = steps[name] + 1
                line.append(other)
    return steps


def names(count: int) -> list[str]:
    return [f"node{number}" for number in range(count)]


@pytest.mark.parametrize("count", range(1, 10))
def test_few_members_are_all_neighbours(count: int) -> None:
    assert mesh(count)
    for name, found in graph(names(count)).items():
        assert found == sorted(set(names(count)) - {name})


@pytest.mark.parametrize(("count", "expected"), [(200, 4), (201, 5), (3000, 5), (3001, 6), (10_000, 6)])
def test_the_number_of_rings_grows_slowly(count: int, expected: int) -> None:
    assert rings(count) == expected


@pytest.mark.parametrize("count", [10, 50, 200, 500])
def test_being_neighbours_is_mutual_and_each_has_about_two_a_ring(count: int) -> None:
    links = graph(names(count))
    for name, found in links.items():
        assert name not in found
        assert all(name in links[other] for other in found)
        assert rings(count) <= len(found) <= 2 * rings(count)


def test_neighbours_stand_before_and_after_a_member_on_each_ring() -> None:
    everybody = names(50)
    for name, found in graph(everybody).items():
        expected: set[str] = set()
        for ring in range(rings(50)):
            order = sorted(everybody, key=lambda other, ring=ring: points(other)[ring])  # type: ignore[misc]
            place = order.index(name)
            expected |= {order[place - 1], order[(place + 1) % len(order)]}
        assert found == sorted(expected)


def test_neighbours_do_not_depend_on_the_order_in_which_members_are_known() -> None:
    others = names(300)
    shuffled = random.Random(1).sample(others, len(others))
    assert outcome(neighbours("me", others)) == outcome(neighbours("me", shuffled))


def test_everybody_is_reached_in_a_few_steps_also_when_a_third_just_died() -> None:
    links = graph(names(500))
    steps = reached(links, "node0")
    assert len(steps) == 500
    assert max(steps.values()) <= 5
    dead = set(random.Random(1).sample(names(500)[1:], 166))
    alive = {name: found for name, found in links.items() if name not in dead}
    assert len(reached(alive, "node0")) == len(alive)


def test_a_newcomer_changes_the_neighbours_of_few() -> None:
    before, after = graph(names(300)), graph(names(301))
    changed = [name for name in before if before[name] != after[name]]
    assert set(changed) == set(after["node300"]) | {n for n in changed if set(before[n]) - set(after[n])}
    assert len(changed) <= 2 * rings(301)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 57, 300])
def test_the_neighbours_of_all_at_once_are_those_of_each(count: int) -> None:
    assert overlay.graph(names(count)) == graph(names(count))
