"""Nodes that want the same new image at the same moment, with real containerds and a real registry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from mirror.herd.roster import Place, Roster
from tests.integration.agents import Agent, start_agents
from tests.lab import Image, Lab, Login, Node, Registry
from tests.lab.process import run

MEGABYTE = 1_000_000
NODES = 5
ALICE = Login("alice", "correct horse")
DOWNLINK_MBIT = 80


@dataclass
class Herd:
    registry: Registry
    nodes: list[Node]
    agents: list[Agent]

    async def pull(self, image: Image, name: str = "") -> None:
        """Pull on all nodes at the same time; every one ends with the right image."""
        auth = (ALICE.username, ALICE.password) if self.registry.login else None
        await asyncio.gather(*(node.pull(name or image.name, auth=auth) for node in self.nodes))
        assert [node.content() for node in self.nodes] == [image.objects()] * len(self.nodes)

    def copies(self, image: Image, client: str = "") -> float:
        """How many copies of the image left the registry, to all or to the clients of that name."""
        sent = {str(digest) for digest in image.objects()}
        bytes_sent = sum(
            exchange.body_bytes
            for exchange in self.registry.exchanges
            if exchange.path.rpartition("/")[2] in sent and exchange.client.startswith(client)
        )
        return bytes_sent / image.size()

    async def slow_down(self) -> None:
        """Let bytes come to the nodes no faster than over a slow network, so that a pull takes seconds."""
        limit = ("rate", f"{DOWNLINK_MBIT}mbit", "burst", "200kb", "latency", "50ms")
        for node in self.nodes:
            await run("tc", "qdisc", "add", "dev", node.link, "root", "tbf", *limit)

    async def leader(self, but: Sequence[Agent] = ()) -> Agent:
        """The first agent that leads a large object."""
        async with asyncio.timeout(20):
            while True:
                for agent in self.agents:
                    if agent not in but and await agent.metric("skvaller_upstream_bytes_total") > MEGABYTE:
                        return agent
                await asyncio.sleep(0.05)


@pytest.fixture(params=[None, ALICE], ids=["public", "bearer"])
async def herd(request: pytest.FixtureRequest, lab: Lab) -> Herd:
    registry = await lab.add_registry("registry.test", request.param)
    nodes = await lab.add_nodes(NODES)
    return Herd(registry, nodes, await start_agents(nodes, registry))


async def test_a_herd_costs_upstream_one_copy(herd: Herd) -> None:
    image = await herd.registry.publish("lib/app:v1", [30 * MEGABYTE, 20 * MEGABYTE, 10 * MEGABYTE, MEGABYTE])
    await herd.pull(image)
    assert herd.copies(image) <= 1.05
    gets = [herd.registry.requests_for(digest) for digest in image.layers()]
    assert sum(gets) <= 1.1 * len(gets) if herd.registry.login is None else sum(gets) <= NODES * len(gets)
    heads = [each for each in herd.registry.exchanges if each.method == "HEAD" and each.path.endswith("/manifests/v1")]
    assert len([each for each in heads if each.status == 200]) <= 2, (
        "the tag was explained once, or by two who came late"
    )


async def test_a_herd_that_knows_the_digest_costs_one_copy_as_well(herd: Herd) -> None:
    image = await herd.registry.publish("lib/app:v1", [20 * MEGABYTE])
    await herd.pull(image, name=image.pinned)
    assert herd.copies(image) <= 1.05
    served = [each for each in herd.registry.exchanges if str(image.root.digest) in each.path and each.status == 200]
    assert len(served) == 1, "it was asked for once, by whichever method"


async def test_a_herd_that_hashes_all_costs_one_copy_as_well(lab: Lab) -> None:
    registry = await lab.add_registry("registry.test")
    nodes = await lab.add_nodes(NODES)
    herd = Herd(registry, nodes, await start_agents(nodes, registry, extra=("--verify", "always")))
    image = await registry.publish("lib/app:v1", [30 * MEGABYTE, 20 * MEGABYTE, MEGABYTE])
    await herd.pull(image)
    assert herd.copies(image) <= 1.05


async def test_a_herd_in_two_zones_takes_one_copy_across(lab: Lab) -> None:
    registry = await lab.add_registry()
    nodes = await lab.add_nodes(6)
    herd = Herd(registry, nodes, await start_agents(nodes, registry, zones=2, within_s=30))
    await herd.slow_down()
    image = await registry.publish("lib/app:v1", [20 * MEGABYTE, 12 * MEGABYTE, 9 * MEGABYTE])
    await herd.pull(image)
    assert herd.copies(image) <= 1.05
    across = [await agent.metric("skvaller_peer_bytes_total", zone="other") for agent in herd.agents]
    assert 0.9 <= sum(across) / image.size() <= 1.2
    within = [await agent.metric("skvaller_peer_bytes_total", zone="same") for agent in herd.agents]
    assert 3.9 <= sum(within) / image.size() <= 4.3


@pytest.mark.parametrize("herd", [None], indirect=True, ids=["public"])
@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "4"}), (503, {"Retry-After": "4"}), (500, {})])
async def test_a_registry_that_has_had_enough_is_asked_little_and_then_again(
    herd: Herd, status: int, headers: dict[str, str]
) -> None:
    image = await herd.registry.publish("lib/app:v1", [5 * MEGABYTE])
    async with asyncio.TaskGroup() as tasks:
        with herd.registry.refusing(status, headers):
            tasks.create_task(herd.pull(image))
            await asyncio.sleep(3.5)
            asked = [each for each in herd.registry.exchanges if each.client.startswith("skvaller")]
            assert 1 <= len(asked) <= 3, "within the time for which it wants to be left alone"
    assert herd.copies(image) <= 1.05
    assert herd.copies(image, "containerd") == 0, "the runtimes were held until it answered"


@pytest.mark.parametrize("herd", [ALICE], indirect=True, ids=["bearer"])
async def test_when_a_leader_is_killed_the_others_go_on_from_what_they_have(herd: Herd) -> None:
    image = await herd.registry.publish("lib/app:v1", [60 * MEGABYTE])
    await herd.slow_down()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(herd.pull(image))
        first = await herd.leader()
        await asyncio.sleep(1)
        await first.process.kill()
        second = await herd.leader(but=[first])
        await asyncio.sleep(1)
        await second.process.kill()
    assert herd.copies(image, "skvaller") <= 1.5
    assert herd.copies(image) <= herd.copies(image, "skvaller") + 2, "only the runtimes of those killed went on alone"


@pytest.mark.parametrize("herd", [None], indirect=True, ids=["public"])
async def test_when_the_coordinator_is_killed_no_pull_fails_or_waits(herd: Herd) -> None:
    image = await herd.registry.publish("lib/app:v1", [60 * MEGABYTE])
    await herd.slow_down()
    roster = Roster(Place("n1", ""), [Place(node.name, "") for node in herd.nodes[1:]])
    coordinator, _, _ = roster.in_cluster(f"{herd.registry.name} {next(iter(image.layers()))}".encode())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(herd.pull(image))
        await herd.leader()
        await next(agent for agent in herd.agents if agent.node.name == coordinator).process.kill()
    assert herd.copies(image, "skvaller") <= 1.5
