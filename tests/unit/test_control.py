"""A running agent does what it is told from its own machine, by programs alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import aiohttp
import pytest
from starlette.applications import Starlette

from mirror.cli import main
from mirror.control import control_routes
from mirror.oci import Repository, Tag
from tests.serving import serving

NOW = 1_000_000.0


@dataclass
class Cluster:
    """A cluster that notes what it was told, and when."""

    mirroring: bool = True
    invalidated: list[tuple[Repository, Tag]] = field(default_factory=list)

    def switch(self, *, on: bool, now: float) -> None:
        assert now == NOW
        self.mirroring = on

    def invalidate(self, repository: Repository, tag: Tag, now: float) -> None:
        assert now == NOW
        self.invalidated.append((repository, tag))


@dataclass
class Agent:
    """An agent that notes what it was told."""

    mirroring: bool = True
    cluster: Cluster = field(default_factory=Cluster)
    url: str = ""

    def switch(self, *, on: bool) -> None:
        self.mirroring = on


@pytest.fixture
async def agent() -> AsyncGenerator[Agent]:
    agent = Agent()
    async with serving(Starlette(routes=control_routes(agent, agent.cluster, lambda: NOW))) as agent.url:
        yield agent


async def command(*arguments: str) -> int:
    """Run a command in a thread: the agent is in this process."""

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return await asyncio.to_thread(run)


async def test_the_kill_switch_is_thrown_and_told(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    for words, here, everywhere in (
        ([], True, True),
        (["off"], False, True),
        (["on"], True, True),
        (["off", "--everywhere"], True, False),
        ([], True, False),
        (["on", "--everywhere"], True, True),
    ):
        assert await command("mirroring", *words, "--agent", agent.url) == 0
        assert capsys.readouterr().out == (
            f"mirroring is switched {'on' if here else 'off'} on this node\n"
            f"mirroring is switched {'on' if everywhere else 'off'} on all nodes\n"
        )
        assert (agent.mirroring, agent.cluster.mirroring) == (here, everywhere)


async def test_a_tag_is_invalidated_by_the_name_people_use(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert await command("invalidate", "nginx:1.27", "--agent", agent.url) == 0
    assert agent.cluster.invalidated == [(Repository("docker.io", "library/nginx"), Tag("1.27"))]
    assert "docker.io/library/nginx:1.27" in capsys.readouterr().out


@pytest.mark.parametrize("image", ["nginx@sha256:" + "0" * 64, "UPPER/case", ""])
async def test_what_is_no_tag_is_refused_with_the_reason(
    agent: Agent, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("invalidate", image, "--agent", agent.url) == 1
    assert "image: " in capsys.readouterr().err
    assert agent.cluster.invalidated == []


async def test_web_pages_and_nonsense_throw_no_switch(agent: Agent) -> None:
    async with aiohttp.ClientSession() as session:
        for query, headers, status in (
            ("on=false", {"Origin": "https://evil.example"}, 403),
            ("on=perhaps", {}, 400),
            ("", {}, 400),
        ):
            async with session.post(f"{agent.url}/-/mirroring?{query}", headers=headers) as response:
                assert response.status == status
                assert "error" in await response.json()
    assert agent.mirroring
