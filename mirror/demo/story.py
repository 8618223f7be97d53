"""The demo's story, and what it promises: each pull is timed, counted and held against what should have served it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.demo.client import Fetched, PullError, pull
from mirror.demo.scene import (
    REPOSITORY,
    TAG,
    DemoRegistry,
    SceneError,
    build_demo_image,
    known_everywhere,
    running_agents,
)
from mirror.demo.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.demo.scene import Agent

NODES: Final = ("node-a", "node-b", "node-c")


@dataclass(frozen=True, slots=True)
class Pulled:
    """One pull through one node: its objects, its time in seconds, and what it cost the registry."""

    node: str
    objects: Sequence[Fetched]
    duration_s: float
    registry_requests: int
    registry_bytes: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A promise, and whether it was kept."""

    text: str
    held: bool


async def tell(*, once: bool, view: View | None = None) -> int:
    """Run the story from the first file to the last; returns the exit code."""
    view = view or View()
    with tempfile.TemporaryDirectory(prefix="skvaller-demo-") as name:
        try:
            return await _tell(Path(name), view, once=once)
        except (PullError, SceneError) as error:
            view.say(f"The demo failed: {error}")
            return 1


async def _tell(directory: Path, view: View, *, once: bool) -> int:
    view.say(f"Building {REPOSITORY}:{TAG} from Python's standard library")
    layout = directory / "registry"
    building = asyncio.create_task(asyncio.to_thread(build_demo_image, layout))
    try:
        size = await asyncio.shield(building)
    except asyncio.CancelledError:
        await asyncio.wait([building])  # else its thread would write into the directory while that is removed
        raise
    async with DemoRegistry(layout) as registry:
        view.say(f"The registry {registry.url} has it ({size / 1e6:.0f} MB of files). Starting {len(NODES)} agents")
        async with running_agents(NODES, directory, registry.url) as agents:
            pulls = await _pull_everywhere(agents, registry, view)
            claims = check(pulls)
            view.table(pulls)
            view.claims(claims)
            kept = all(claim.held for claim in claims)
            if kept and not once:
                view.invite(agents, pulls[-1].objects[-1])
                with suppress(asyncio.CancelledError):  # Ctrl-C is the end that was asked for
                    await asyncio.Event().wait()
            return 0 if kept else 1


async def _pull_everywhere(agents: Sequence[Agent], registry: DemoRegistry, view: View) -> list[Pulled]:
    pulls: list[Pulled] = []
    pairs = 0
    for agent in agents:
        if agent is agents[-1]:
            await registry.stop()
            view.say("The registry is stopped")
        view.say(f"{agent.name} pulls")
        requests, size = registry.requests, registry.bytes
        started = time.perf_counter()
        try:
            with view.pulling() as progress:
                objects = await pull(agent.url, REPOSITORY, TAG, progress)
        except PullError:
            for each in agents:
                each.check_alive()
            raise
        ended = time.perf_counter()
        # What a tag means is noted by those alone who heard it from the registry.
        pairs += len(objects) + (1 if agent is not agents[-1] else 0)
        await known_everywhere(agents, pairs)
        pulls.append(Pulled(agent.name, objects, ended - started, registry.requests - requests, registry.bytes - size))
        view.say(f"  all agents knew of it {(time.perf_counter() - ended) * 1000:.0f} ms later")
    return pulls


def check(pulls: Sequence[Pulled]) -> list[Claim]:
    """What the three pulls show."""
    first, second, third = pulls
    size = sum(fetched.size for fetched in first.objects)
    return [
        Claim("every object had the right digest", all(fetched.right for each in pulls for fetched in each.objects)),
        Claim(f"{first.node} got everything from the registry", _servers(first) == {"upstream"}),
        Claim(f"{second.node} got everything from {first.node}", _servers(second) == {f"peer {first.node}"}),
        Claim(
            f"{third.node} got everything from {first.node} and {second.node}, with the registry stopped",
            _servers(third) == {f"peer {first.node}", f"peer {second.node}"},
        ),
        Claim(f"the registry sent each byte once: {size:,} bytes", sum(each.registry_bytes for each in pulls) == size),
    ]


def _servers(pulled: Pulled) -> set[str]:
    return {fetched.server for fetched in pulled.objects}
