"""What a tag means, asked of the registry together; in simulated time, with real coordinators."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gossip import UnansweredError
from mirror.errors import RefusedError, SourceError
from mirror.herd import Claims, Coordinator, Pace, SharedTags
from mirror.herd.claims import YOUNG_S
from mirror.herd.leases import CONTEST_S, PATIENCE_S, RENEWED_S
from mirror.herd.quest import HOLD_S
from mirror.herd.roster import Place, Roster
from mirror.herd.source import PAUSE_S_MAX
from mirror.herd.words import Claim, read_question
from mirror.oci import Descriptor, Digest, Kind, Repository, Tag
from mirror.policy import TAG_MOMENT_S
from mirror.source import Content, Request
from mirror.tags import Meaning
from tests.simulated_time import run

NAMES = tuple(f"node{number:02}" for number in range(30))
V1 = Request(Repository("registry.test", "lib/app"), Kind.MANIFEST, Tag("v1"))
MEANT = Descriptor("m/t", Digest.of(b"meant"), 5)
CHALLENGE = (("WWW-Authenticate", 'Bearer realm="https://auth.test/token"'),)


@dataclass
class Registry:
    """Says after `answer_s` what a tag means, or that it lets nobody in, or not who does not say who it is."""

    answer_s: float = 0.1
    private: bool = False
    forbidden: bool = False
    asked: list[str | None] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(request.authorization)
        await asyncio.sleep(self.answer_s)
        if self.forbidden:
            raise RefusedError(403)
        if self.private and request.authorization is None:
            raise RefusedError(401, CHALLENGE)
        return MEANT

    async def open(self, request: Request) -> Content:
        raise NotImplementedError


class Town:
    """Members of one zone, which all ask one registry."""

    def __init__(self, registry: Registry) -> None:
        clock = asyncio.get_running_loop().time
        pace = Pace(lambda _object, _position: 0.0, clock)
        self.registry = registry
        self.claims: list[tuple[float, str]] = []
        self.crashed: set[str] = set()
        self.coordinators = {name: Coordinator(lambda _: True, pace, clock) for name in NAMES}

    def tags(self, name: str) -> SharedTags:
        roster = Roster(Place(name, ""), [Place(other, "") for other in NAMES if other != name])
        return SharedTags(self.registry, Claims(Voice(self, name), lambda: roster), random.Random(name))

    async def ask(self, name: str, request: Request = V1) -> tuple[Descriptor | SourceError, float]:
        """What a member is told, and after how long."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        try:
            meaning = await self.tags(name).meaning(request, TAG_MOMENT_S, 0)
            told: Descriptor | SourceError = meaning.descriptor
        except SourceError as error:
            told = error
        return told, loop.time() - begun_at


@dataclass
class Voice:
    town: Town
    me: str

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        await asyncio.sleep(0.001)
        if self.me in self.town.crashed:
            raise UnansweredError(name)
        if isinstance(read_question(payload), Claim):
            self.town.claims.append((asyncio.get_running_loop().time(), self.me))
        return self.town.coordinators[name].answer(self.me, payload)


def play(registry: Registry, scene: Callable[[Town], Coroutine[Any, Any, None]]) -> None:
    async def in_town() -> None:
        town = Town(registry)
        await asyncio.sleep(2 * YOUNG_S)
        await scene(town)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    run(in_town())


def test_each_node_without_credentials_gets_its_challenge_at_once() -> None:
    async def scene(town: Town) -> None:
        told = await asyncio.gather(*(town.ask(name) for name in NAMES))
        assert all(isinstance(answer, RefusedError) and answer.headers == CHALLENGE for answer, _ in told)
        assert max(seconds for _, seconds in told) < 5 * town.registry.answer_s

    play(Registry(private=True), scene)


def test_those_whose_credentials_are_refused_do_not_wait_for_each_other() -> None:
    async def scene(town: Town) -> None:
        told = await asyncio.gather(*(town.ask(name, with_token(name)) for name in NAMES))
        assert all(isinstance(answer, RefusedError) for answer, _ in told)
        assert max(seconds for _, seconds in told) < 5 * town.registry.answer_s

    play(Registry(forbidden=True), scene)


@pytest.mark.parametrize("answer_s", [0.1, 3.5, 9.0])
def test_a_registry_is_asked_once_however_long_it_takes(answer_s: float) -> None:
    async def scene(town: Town) -> None:
        told = await asyncio.gather(*(town.ask(name, with_token(name)) for name in NAMES))
        assert {answer for answer, _ in told} == {MEANT}
        assert len(town.registry.asked) == 1
        assert max(seconds for _, seconds in told) < answer_s + 1.5 * PAUSE_S_MAX + 0.1

    play(Registry(answer_s), scene)


def test_another_one_asks_when_the_leader_does_not_renew() -> None:
    async def scene(town: Town) -> None:
        leading = asyncio.create_task(town.ask("node00"))
        await asyncio.sleep(0.1)
        town.crashed.add("node00")
        town.registry.answer_s = 0.1
        told = await asyncio.gather(*(town.ask(name) for name in NAMES[1:]))
        assert {answer for answer, _ in told} == {MEANT}
        assert len(town.registry.asked) == 2
        assert max(seconds for _, seconds in told) < RENEWED_S + 2 * CONTEST_S + 3 * PAUSE_S_MAX
        leading.cancel()

    play(Registry(answer_s=60.0), scene)


def test_who_waited_too_long_asks_for_itself_a_few_at_a_time() -> None:
    async def scene(town: Town) -> None:
        leading = asyncio.create_task(town.ask("node00"))
        await asyncio.sleep(0.1)
        town.registry.answer_s = 0.1
        told = await asyncio.gather(*(town.ask(name) for name in NAMES[1:]))
        assert {answer for answer, _ in told} == {MEANT}
        assert all(PATIENCE_S <= seconds <= HOLD_S + 1 for _, seconds in told)
        assert sum(seconds < PATIENCE_S + 1 for _, seconds in told) == 1
        leading.cancel()

    play(Registry(answer_s=60.0), scene)


def test_who_comes_without_credentials_is_not_told_what_was_said_to_those_who_have_some() -> None:
    async def scene(town: Town) -> None:
        told = await asyncio.gather(town.ask("node00", with_token("ann")), town.ask("node01", with_token("bob")))
        assert [answer for answer, _ in told] == [MEANT, MEANT]
        assert isinstance((await town.ask("node02"))[0], RefusedError)
        assert town.registry.asked == ["Bearer ann", None]

    play(Registry(private=True), scene)


def test_who_waits_asks_the_coordinator_ever_less_often_and_not_all_at_the_same_moment() -> None:
    async def scene(town: Town) -> None:
        await asyncio.gather(*(town.ask(name) for name in NAMES))
        claims = Counter(member for _, member in town.claims)
        assert max(claims.values()) <= 20
        late = Counter(round(at, 2) for at, _ in town.claims if at > 2 * YOUNG_S + 1)
        assert max(late.values()) < len(NAMES) / 2

    play(Registry(answer_s=3.5), scene)


def test_what_another_node_was_told_is_told_with_its_age_for_as_long_as_policy_says() -> None:
    async def scene(town: Town) -> None:
        await town.ask("node00")
        said_at = asyncio.get_running_loop().time()
        for name, rest_s in (("node01", 0.5), ("node02", 1.5)):
            await asyncio.sleep(rest_s)
            told = await town.tags(name).meaning(V1, 3.0, 0)
            age_s = asyncio.get_running_loop().time() - said_at
            assert told.descriptor == MEANT
            assert told.age_s == pytest.approx(age_s, abs=0.01)
        assert len(town.registry.asked) == 1
        assert await town.tags("node03").meaning(V1, TAG_MOMENT_S, 0) == Meaning(MEANT, 0.0)
        assert len(town.registry.asked) == 2

    play(Registry(), scene)


def test_what_was_said_before_an_invalidation_is_not_told_to_who_knows_of_it() -> None:
    async def scene(town: Town) -> None:
        await town.ask("node00")
        for name in ("node01", "node02"):
            await town.tags(name).meaning(V1, 3.0, 7)
            assert len(town.registry.asked) == 2, "once again, for all who know"

    play(Registry(), scene)


def with_token(name: str) -> Request:
    """As a runtime asks that got a token for itself."""
    return replace(V1, authorization=f"Bearer {name}")
