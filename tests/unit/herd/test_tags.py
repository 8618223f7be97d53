"""What a tag means, asked of the registry together; in simulated time, with real coordinators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from mirror.challenge import Challenge
from mirror.errors import RefusedError, SourceError
from mirror.herd import Claims, Coordinator, Pace, SharedTags
from mirror.herd.claims import YOUNG_S
from mirror.herd.roster import Place, Roster
from mirror.herd.words import Claim, read_question
from mirror.oci import Descriptor, Digest, Kind, Repository, Tag
from mirror.source import Request
from tests.simulated_time import run

NAMES = tuple(f"node{number:02}" for number in range(30))
V1 = Request(Repository("registry.test", "lib/app"), Kind.MANIFEST, Tag("v1"))
CHALLENGE = (("WWW-Authenticate", 'Bearer realm="https://auth.test/token"'),)


@dataclass
class Registry:
    """Says after `answer_s` what a tag means, and refuses those without credentials if it is `private`."""

    answer_s: float = 0.1
    private: bool = False
    asked: list[str | None] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        self.asked.append(request.authorization)
        await asyncio.sleep(self.answer_s)
        if self.private and request.authorization is None:
            raise RefusedError(401, CHALLENGE)
        return Descriptor("m/t", Digest.of(b"meant"), 5)

    async def attest(self, request: Request) -> Descriptor:
        raise NotImplementedError

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        raise NotImplementedError


class Town:
    """Members of one zone, which all ask one registry."""

    def __init__(self, registry: Registry) -> None:
        clock = asyncio.get_running_loop().time
        pace = Pace(lambda _object, _position: 0.0, clock)
        self.registry = registry
        self.claims: list[tuple[float, str]] = []
        self.coordinators = {name: Coordinator(lambda _: True, pace, clock) for name in NAMES}

    def tags(self, name: str) -> SharedTags:
        roster = Roster(Place(name, ""), [Place(other, "") for other in NAMES if other != name])
        return SharedTags(self.registry, Claims(Voice(self, name), lambda: roster))

    async def ask(self, name: str, request: Request = V1) -> tuple[Descriptor | SourceError, float]:
        """What a member is told, and after how long."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        try:
            told: Descriptor | SourceError = await self.tags(name).resolve(request)
        except SourceError as error:
            told = error
        return told, loop.time() - begun_at


@dataclass
class Voice:
    town: Town
    me: str

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        await asyncio.sleep(0.001)
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
