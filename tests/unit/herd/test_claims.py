"""Asking coordinators: the next in rank when the first does not answer, and words in the order of their saying."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from gossip import UnansweredError
from mirror.herd import Claims, Coordinator, Pace
from mirror.herd.claims import ANSWER_S, LATE_ANSWER_S, SILENT_S, YOUNG_S
from mirror.herd.leases import AGAIN_S, RENEW_S, RENEWED_S
from mirror.herd.roster import Place, Roster
from mirror.herd.words import Claim, End, Follow, Lead, Look, Question, Release, Renewal, Scope, Wait, read_question
from tests.simulated_time import run

OBJECT = "registry.test sha256:0"
NAMES = ("ann", "bob", "cyd", "dan")
CLAIM = Claim(Scope.CLUSTER, OBJECT)


@dataclass
class Town:
    """Some members, all of them coordinators, which take `busy_s` to answer; `gone` do not answer."""

    gone: set[str] = field(default_factory=set)
    busy_s: float = 0.0
    ahead: float = float("inf")
    heard: list[tuple[str, str, Question | Look]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.paces = {name: Pace(lambda _object, _position: self.ahead, clock) for name in NAMES}
        self.coordinators = {
            name: Coordinator(lambda name: name not in self.gone, self.paces[name], clock) for name in NAMES
        }
        self.ranks = Roster(Place("ann", ""), [Place(name, "") for name in NAMES[1:]]).in_cluster(OBJECT.encode())

    def claims(self, name: str) -> Claims:
        places = [Place(other, "") for other in NAMES if other != name]
        return Claims(Voice(self, name), lambda: Roster(Place(name, ""), places))


@dataclass
class Voice:
    town: Town
    me: str

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        await asyncio.sleep(0.001)
        if name in self.town.gone or self.town.busy_s > timeout_s:
            await asyncio.sleep(timeout_s)
            raise UnansweredError(name)
        await asyncio.sleep(self.town.busy_s)
        self.town.heard.append((self.me, name, read_question(payload)))
        return self.town.coordinators[name].answer(self.me, payload)


def play(scene: Callable[[Town], Coroutine[Any, Any, None]]) -> None:
    async def in_town() -> None:
        town = Town()
        await asyncio.sleep(2 * YOUNG_S)
        await scene(town)

    run(in_town())


def test_all_nodes_ask_the_same_coordinator() -> None:
    async def scene(town: Town) -> None:
        assert [await town.claims(name).claim(CLAIM) for name in NAMES] == [
            Lead(),
            *[Follow("ann")] * 3,
        ]
        assert {coordinator for _, coordinator, _ in town.heard} == {town.ranks[0]}

    play(scene)


def test_the_next_in_rank_knows_the_leader_when_the_first_goes() -> None:
    async def scene(town: Town) -> None:
        leading, following = town.claims("ann"), town.claims("bob")
        assert await leading.claim(CLAIM) == Lead()
        leading.hold(Scope.CLUSTER, OBJECT, 0)
        await asyncio.sleep(RENEW_S)
        town.gone.add(town.ranks[0])
        began = asyncio.get_running_loop().time()
        assert await following.claim(CLAIM) == Follow("ann")
        assert asyncio.get_running_loop().time() - began <= 0.6
        await leading.aclose()

    play(scene)


def test_the_next_in_rank_makes_a_leader_when_nobody_knew_of_one() -> None:
    async def scene(town: Town) -> None:
        town.gone.add(town.ranks[0])
        claims = town.claims("bob")
        began = asyncio.get_running_loop().time()
        while (verdict := await claims.claim(CLAIM)) != Lead():
            assert isinstance(verdict, Wait)
            await asyncio.sleep(verdict.seconds)
        assert asyncio.get_running_loop().time() - began <= 0.6

    play(scene)


@pytest.mark.parametrize("gone", [1, 2])
def test_one_that_does_not_answer_is_waited_for_once_in_a_while(gone: int) -> None:
    async def scene(town: Town) -> None:
        town.gone.update(town.ranks[:gone])
        claims, loop = town.claims("dan"), asyncio.get_running_loop()
        for waits in (gone, 0):
            began = loop.time()
            await claims.claim(CLAIM)
            assert waits * ANSWER_S <= loop.time() - began < waits * ANSWER_S + 0.1
        town.gone.clear()
        await claims.claim(CLAIM)
        assert town.heard[-1][1] == town.ranks[gone]
        await asyncio.sleep(SILENT_S + 0.1)
        await claims.claim(CLAIM)
        assert town.heard[-1][1] == town.ranks[0]

    play(scene)


def test_a_node_that_reaches_no_coordinator_goes_its_own_way() -> None:
    async def scene(town: Town) -> None:
        town.gone.update(NAMES)
        began = asyncio.get_running_loop().time()
        assert await town.claims("bob").claim(CLAIM) == Lead(escape=True)
        assert asyncio.get_running_loop().time() - began <= 3 * (ANSWER_S + LATE_ANSWER_S + 0.02)

    play(scene)


def test_coordinators_that_are_busy_are_given_time_before_a_node_goes_its_own_way() -> None:
    async def scene(town: Town) -> None:
        assert await town.claims("ann").claim(CLAIM) == Lead()
        town.busy_s = 2 * ANSWER_S
        assert await town.claims("bob").claim(CLAIM) == Follow("ann")

    play(scene)


def test_a_lease_is_renewed_at_all_that_may_be_asked_until_it_ends_once() -> None:
    async def scene(town: Town) -> None:
        claims = town.claims("ann")
        lease = claims.hold(Scope.CLUSTER, OBJECT, 0)
        await asyncio.sleep(10 * RENEW_S)
        lease.progress = lambda: 7
        await asyncio.sleep(RENEWED_S)
        lease.end(End.DONE)
        lease.end(End.LOST)
        await asyncio.sleep(RENEWED_S)
        said = [(coordinator, word) for _, coordinator, word in town.heard]
        assert {coordinator for coordinator, _ in said} == set(town.ranks)
        assert [word for _, word in said[-3:]] == [Release(Scope.CLUSTER, OBJECT, End.DONE)] * 3
        assert said[-4][1] == Renewal(Scope.CLUSTER, OBJECT, 7)
        await claims.aclose()

    play(scene)


def test_a_claim_does_not_overtake_the_release_before_it() -> None:
    async def scene(town: Town) -> None:
        claims = town.claims("ann")
        await claims.claim(CLAIM)
        lease = claims.hold(Scope.CLUSTER, OBJECT, 0)
        await asyncio.sleep(0.1)
        town.heard.clear()
        lease.end(End.LOST)
        assert await claims.claim(CLAIM) == Wait(AGAIN_S), "the most advanced is looked for"
        assert [type(word) for _, coordinator, word in town.heard if coordinator == town.ranks[0]] == [Release, Claim]
        assert not claims._releasing
        await claims.aclose()

    play(scene)


def test_a_giver_says_whether_it_is_too_slow_and_one_that_is_gone_says_nothing() -> None:
    async def scene(town: Town) -> None:
        claims = town.claims("ann")
        town.paces["bob"].note(100e6)
        assert await claims.look("bob", Look(OBJECT, 0, 50e6, 0.0)) is False
        assert await claims.look("bob", Look(OBJECT, 0, 10e6, 0.0)) is True
        town.gone.add("bob")
        assert await claims.look("bob", Look(OBJECT, 0, 10e6, 0.0)) is None

    play(scene)
