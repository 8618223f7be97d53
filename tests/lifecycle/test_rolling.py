"""Twenty agents restart, are updated, or lose their nodes, one after another, while images are pulled all the time.

It prints how many pulls there were, and how many of them the runtime completed past the mirror, as it does for each
object that its node's agent does not answer for.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.agents import ROOT, Agent, eventually, start_agents
from tests.lab.node import PullError
from tests.lifecycle import versions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab, Node, Registry

NODES: Final = 20
PULLERS: Final = 4
IMAGES: Final = 3
"""For each of those who pull."""
KEEPERS: Final = 3
"""Nodes that have an image from the start and keep it."""
LAYERS: Final = [1_000_000, 3_000_000]
START_S_MAX: Final = 120
"""Twenty agents that start at once on two cores."""
AWAY_S: Final = 1.0

pytestmark = pytest.mark.timeout(1800)


@dataclass
class Count:
    """What became of the pulls."""

    pulls: int = 0
    fell_back: int = 0
    failures: list[str] = field(default_factory=list)


class Load:
    """Images that are pulled all the time, by some at once, on nodes that are there, and removed again."""

    def __init__(self, gateway: str, registry: Registry, nodes: list[Node], seed: int) -> None:
        self.count = Count()
        self.gateway = gateway
        self._registry = registry
        self._chance = random.Random(seed)
        self._images: list[dict[str, set[str]]] = []
        self._free = {node.name: node for node in nodes}

    async def publish(self, nodes: list[Node]) -> None:
        """Publish all images, and pull each on some nodes, which keep them."""
        for puller in range(PULLERS):
            keepers = {}
            for number in range(IMAGES):
                image = await self._registry.publish(f"lib/of{puller}:v{number}", LAYERS)
                keeping = self._chance.sample(nodes, KEEPERS)
                for node in keeping:
                    await node.pull(image.name)
                keepers[image.name] = {node.name for node in keeping}
            self._images.append(keepers)

    async def take(self, node: Node) -> None:
        """Keep a node for oneself, once nobody pulls on it."""
        while node.name not in self._free:
            await asyncio.sleep(0.05)
        del self._free[node.name]

    def give(self, node: Node) -> None:
        """Give it back."""
        self._free[node.name] = node

    async def pull(self, puller: int) -> None:
        """Pull for ever."""
        while True:
            image, keepers = self._chance.choice(list(self._images[puller].items()))
            node = self._chance.choice([node for name, node in self._free.items() if name not in keepers])
            await self.take(node)
            before = len(self._registry.exchanges)
            try:
                await node.pull(image)
                self.count.pulls += 1
            except PullError as error:
                self.count.failures.append(f"{image} on {node.name}: {error}")
            exchanges = self._registry.exchanges[before:]
            repository = f"/v2/lib/of{puller}/"
            self.count.fell_back += any(
                exchange.path.startswith(repository) and not exchange.client.startswith("skvaller ")
                for exchange in exchanges
            )
            await node.remove(image)
            self.give(node)


Roll = Callable[[Load, Agent], Awaitable[None]]


async def restart(_: Load, agent: Agent) -> None:
    """A rolling update: the agent is told to stop, and the new one starts, while its node goes on pulling."""
    await agent.process.stop()
    await agent.start(START_S_MAX)


async def crash(load: Load, agent: Agent) -> None:
    """A node loses its power in the middle of whatever it serves, and comes back."""
    node = agent.node
    await load.take(node)
    await node.run("ip", "link", "set", "eth0", "down")
    await agent.process.kill()
    await node.containerd.kill()
    await asyncio.sleep(AWAY_S)
    await node.run("ip", "link", "set", "eth0", "up")
    await node.run("ip", "route", "add", "default", "via", load.gateway)
    await node.start()
    await agent.start(START_S_MAX)
    load.give(node)


async def roll_all(lab: Lab, roll: Roll, code: Path = ROOT) -> tuple[list[Agent], Count]:
    """Start twenty agents of these packages, and roll one after another while images are pulled.

    Returns the agents, which have met again, and what became of the pulls.
    """
    registry = await lab.add_registry()
    nodes = await lab.add_nodes(NODES)
    load = Load(lab.gateway, registry, nodes, seed=1)
    agents = await start_agents(nodes, registry, within_s=START_S_MAX, code=code)
    await load.publish(nodes)
    pullers = [asyncio.create_task(load.pull(puller)) for puller in range(PULLERS)]
    try:
        for agent in agents:
            await roll(load, agent)
            for puller in pullers:
                assert not puller.done(), puller.exception()
    finally:
        for puller in pullers:
            puller.cancel()
        await asyncio.wait(pullers)
    await met(agents)
    return agents, load.count


async def met(agents: list[Agent]) -> None:
    """Wait until each agent sees all others. Raises `TimeoutError`."""

    async def all_met() -> bool:
        return [await agent.metric("skvaller_gossip_members_normal") for agent in agents] == [NODES - 1] * NODES

    await eventually(all_met, START_S_MAX)


def check(count: Count, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the count; no pull failed, and most of them took everything through the mirror."""
    with capsys.disabled():
        sys.stdout.write(f"\n{what}: {count.pulls} pulls, {count.fell_back} past the mirror for some object\n")
    assert count.failures == []
    assert count.pulls >= NODES
    assert count.fell_back <= count.pulls // 2


@pytest.mark.parametrize("roll", [restart, crash])
async def test_no_pull_fails_while_all_agents_or_all_nodes_go_and_come_back_in_turns(
    roll: Roll, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    _, count = await roll_all(lab, roll)
    check(count, roll.__name__, capsys)


async def test_no_pull_fails_while_agents_from_before_the_herd_are_updated_in_turns(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def update(_: Load, agent: Agent) -> None:
        assert "skvaller_herd_total" not in (await agent.fetch("metrics") or "skvaller_herd_total")
        await agent.update(ROOT, START_S_MAX)
        assert "skvaller_herd_total" in (await agent.fetch("metrics") or "")

    older = versions.before(tmp_path)
    _, count = await roll_all(lab, update, older)
    check(count, f"update from {versions.BEFORE[:7]}", capsys)


@pytest.mark.parametrize("previous", ["today", "before the herd"])
async def test_no_pull_fails_while_agents_are_updated_to_the_next_protocol_in_turns_and_one_goes_back(
    previous: str, lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directories = tmp_path / "before", tmp_path / "following"
    for directory in directories:
        directory.mkdir()
    older = ROOT if previous == "today" else versions.before(directories[0])
    newer = versions.following(directories[1])
    assert versions.protocol(newer) == versions.protocol(older) + 1

    async def update(_: Load, agent: Agent) -> None:
        # It was never spoken to in words that it does not know.
        assert await agent.metric("skvaller_gossip_dropped_total", reason="version") == 0
        await agent.update(newer, START_S_MAX)

    agents, count = await roll_all(lab, update, older)
    check(count, f"update from {previous} to the next protocol", capsys)
    await agents[0].update(older, START_S_MAX)
    await met(agents)
