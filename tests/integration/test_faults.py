"""What can go wrong with a source in the middle of a pull, and that the pull ends well in spite of it.

In each case a real containerd pulls through its agent with CRI's PullImage, and ends with the right image in the same
call. A bad upstream is a server between the agent and the registry (the runtime itself knows the registry's own
address, to which it falls back). A bad peer is a member of the cluster that claims the layers. Both are processes on
machines of their own.

Beside the runtime a plain client asks the same agent for the same layers: what it is given is right, and ends by EOF.
Where a source goes wrong it asks after the runtime, whose request is the one that meets the fault; what is in flight
then, the two share.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from mirror.oci import Digest
from tests.integration.agents import CLIENT_PORT, ROOT, ROUTER_PORT, Agent, eventually
from tests.integration.bad_machine import BadMachine
from tests.integration.bad_server import FAULTS, NAME
from tests.integration.witness import Ending
from tests.lab import Image, Lab, Node, PullError, Registry

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

MEGABYTE = 1_000_000
SMALL, LARGE = 1 * MEGABYTE, 12 * MEGABYTE
SPOOL_BYTES = 4 * MEGABYTE
"""The file system under the third node's spool: less than a layer."""
VISIBLE_S = 5.0
RETRY_S = 1.0
"""containerd keeps the wrong bytes until its garbage collection, up to a second later; a kubelet waits for ten."""
HUNG_S = 5.0
"""Longer than its watchdog lets an agent's loop be silent; but one that was stopped as a whole did not hang."""
SLOW = "40mbit"
"""A rate at which a layer takes seconds, so that something can happen meanwhile."""


@dataclass
class Scene:
    lab: Lab
    registry: Registry
    nodes: list[Node]
    agents: list[Agent]
    upstream: BadMachine
    peer: BadMachine

    async def publish(self, name: str) -> Image:
        """An image with a small layer and a large one."""
        return await self.registry.publish(f"lib/{name}:v1", [SMALL, LARGE])

    async def claim(self, *digests: Digest) -> None:
        """Let the bad peer say that it has these, and wait until the agents have heard."""
        self.peer.claim(*digests)
        pages = [f"-/api/find?what={digest}" for digest in digests]

        async def heard() -> bool:
            return all([f'"{NAME}"' in await agent.probe(page) for agent in self.agents for page in pages])

        await eventually(heard, VISIBLE_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab.open())
        registry = await lab.add_registry("registry.test")
        nodes = await lab.add_nodes(3)
        machines = await lab.add_machines(2)
        upstream = BadMachine(machines[0], registry)
        peer = BadMachine(machines[1], registry, f"{nodes[0].address}:{ROUTER_PORT}")
        spool = nodes[2].directory / "spool"
        spool.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPOOL_BYTES}", "tmpfs", spool], check=True)
        seeds = ",".join(f"{node.address}:{ROUTER_PORT}" for node in nodes)
        through = ("--registries", f"registry.test={upstream.url}")
        agents = [Agent(node, seeds, [registry], through) for node in nodes[:2]]
        agents.append(Agent(nodes[2], seeds, [registry], (*through, "--spool-dir", str(spool))))
        await asyncio.gather(*(agent.start() for agent in agents))
        for agent in agents:
            await agent.configure_containerd()
        await asyncio.gather(upstream.start(), peer.start())

        async def all_met() -> bool:
            return [await agent.metric("skvaller_gossip_members_normal") for agent in agents] == [3] * 3

        await eventually(all_met, 20)
        yield Scene(lab, registry, nodes, agents, upstream, peer)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(cluster: Scene) -> AsyncGenerator[Scene]:
    """The cluster, well-behaved and with all its agents."""
    yield cluster
    for server in (cluster.upstream, cluster.peer):
        server.heal()
        if not server.process.running:
            await server.start()
    for agent in cluster.agents:
        agent.process.resume()
        if not agent.process.running:
            await agent.start()


THROTTLED = "throttled to a hundredth"
"""Not for the upstream: nobody else has the object, so a slow registry is stayed with."""
CASES = [case for case in FAULTS if case not in {"Content-Length too short", "flipped byte"}]
CUT = {*(case for case in CASES if case.startswith("killed")), "reset", "stalled", "truncated"}
"""By these a bad upstream ends the answer to a client that was given a part."""


async def endings(node: Node, image: Image, source: BadMachine | None = None) -> list[Ending]:
    """What a plain client gets of the layers; with a source, it asks for each when that was asked by the runtime."""
    place = (str(CLIENT_PORT), image.name.rpartition(":")[0], image.layout, source.asked_file if source else "")
    program = (sys.executable, "-m", "tests.integration.witness", *place, *map(str, image.layers()))
    lines = await node.run(*program, environment={"PYTHONPATH": str(ROOT)})
    return [Ending(**json.loads(line)) for line in lines.splitlines()]


def large(image: Image) -> Digest:
    """The layer that is not verified before its first byte goes out."""
    return max(image.layers(), key=lambda digest: image.layers()[digest])


def small(image: Image) -> Digest:
    """The layer that is."""
    return min(image.layers(), key=lambda digest: image.layers()[digest])


@pytest.mark.parametrize("case", [case for case in CASES if case != THROTTLED])
async def test_a_pull_outlives_a_bad_upstream(scene: Scene, case: str) -> None:
    image = await scene.publish(f"u{CASES.index(case)}")
    given = await outlived(scene, image, scene.upstream, case, 60)
    assert all(each.whole or (case != "redirects elsewhere" and (each.cut or each.refused)) for each in given), given
    assert [each.digest for each in given if each.cut] == [str(large(image))] * (case in CUT), given


@pytest.mark.parametrize("case", CASES)
async def test_a_pull_outlives_a_bad_peer(scene: Scene, case: str) -> None:
    image = await scene.publish(f"p{CASES.index(case)}")
    await scene.claim(*image.layers())
    given = await outlived(scene, image, scene.peer, case, 25)
    assert all(each.whole for each in given), given


async def outlived(scene: Scene, image: Image, source: BadMachine, case: str, within_s: float) -> list[Ending]:
    """The first node pulls while the source does this to both layers; what another client got of them."""
    source.spoil(image, case)
    took_s, given = await asyncio.gather(scene.nodes[0].pull(image.name), endings(scene.nodes[0], image, source))
    assert took_s < within_s
    assert image.objects() <= scene.nodes[0].content()
    assert source.asked
    assert source.process.running is not case.startswith("killed")
    return given


async def test_a_small_layer_with_a_flipped_byte_is_replaced_and_no_pull_fails(scene: Scene) -> None:
    for server, name in ((scene.upstream, "fu"), (scene.peer, "fp")):
        image = await scene.publish(name)
        server.spoil(image, "flipped byte", small(image))
        if server is scene.peer:
            await scene.claim(small(image))
        await scene.nodes[0].pull(image.name)
        assert image.objects() <= scene.nodes[0].content()
        assert server.asked
        server.heal()


async def test_a_large_layer_of_a_wrong_size_is_replaced_and_no_pull_fails(scene: Scene) -> None:
    for server, name in ((scene.upstream, "short-upstream"), (scene.peer, "short-peer")):
        image = await scene.publish(name)
        server.spoil(image, "Content-Length too short", large(image))
        if server is scene.peer:
            await scene.claim(large(image))
        await scene.nodes[0].pull(image.name)
        assert image.objects() <= scene.nodes[0].content()
        assert server.asked
        server.heal()


async def test_wrong_bytes_in_a_large_layer_fail_one_pull_and_their_giver_is_not_asked_again(scene: Scene) -> None:
    image = await scene.publish("wrong")
    before = await scene.agents[0].metric("skvaller_blamed_deliveries_total")
    scene.peer.spoil(image, "flipped byte", large(image))
    await scene.claim(large(image))
    with pytest.raises(PullError):
        await scene.nodes[0].pull(image.name)
    assert large(image) not in scene.nodes[0].content()
    await asyncio.sleep(RETRY_S)
    asked = len(scene.peer.asked)
    await scene.nodes[0].pull(image.name)
    assert image.objects() <= scene.nodes[0].content()
    assert len(scene.peer.asked) == asked

    async def blamed() -> bool:
        return await scene.agents[0].metric("skvaller_blamed_deliveries_total") == before + 1

    await eventually(blamed, VISIBLE_S)
    assert f"bad gave wrong bytes for {large(image)}" in scene.agents[0].process.log()


async def test_a_large_layer_that_upstream_gives_with_a_flipped_byte_is_never_committed(scene: Scene) -> None:
    image = await scene.publish("flip-upstream")
    scene.upstream.spoil(image, "flipped byte", large(image))
    with pytest.raises(PullError):
        await scene.nodes[0].pull(image.name)
    assert large(image) not in scene.nodes[0].content()
    scene.upstream.heal()
    await asyncio.sleep(RETRY_S)
    await scene.nodes[0].pull(image.name)
    assert image.objects() <= scene.nodes[0].content()


async def test_a_spool_on_a_full_disk_costs_no_pull(scene: Scene) -> None:
    image = await scene.publish("full")
    _, given = await asyncio.gather(scene.nodes[2].pull(image.name), endings(scene.nodes[2], image))
    assert image.objects() <= scene.nodes[2].content()
    assert "the spool does not take more" in scene.agents[2].process.log()
    assert all(each.whole for each in given), given


@asynccontextmanager
async def slow_link(node: Node) -> AsyncGenerator[None]:
    """What the node sends goes out at the rate `SLOW`."""
    shape = ("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", SLOW, "burst", "64kb", "latency", "200ms")
    await node.run(*shape)
    try:
        yield
    finally:
        await node.run("tc", "qdisc", "del", "dev", "eth0", "root")


@asynccontextmanager
async def pulling_from_a_slow_holder(
    scene: Scene, name: str, *, dies: bool = False
) -> AsyncGenerator[tuple[Image, asyncio.Task[float]]]:
    """The first node pulls what the second has; the pull is under way, and far from its end.

    The other client is given all of it, unless its agent `dies`.
    """
    one, two = scene.nodes[:2]
    image = await scene.publish(name)
    await two.pull(image.name)
    await asyncio.sleep(1)
    scene.registry.forget()
    async with slow_link(two):
        pull = asyncio.create_task(one.pull(image.name))
        await asyncio.sleep(0.5)
        beside = asyncio.create_task(endings(one, image))
        await asyncio.sleep(0.5)
        assert not pull.done()
        yield image, pull
        assert image.objects() <= one.content()
        given = await beside
        # The kernel, which closes the connections of the dead, may reset them: then only the bytes are to be right.
        assert all(each.right if dies else each.whole for each in given), given


async def test_a_layer_that_is_garbage_collected_while_it_is_read_is_read_to_its_end(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "collected") as (image, pull):
        await scene.nodes[1].remove(image.name)
        assert large(image) not in scene.nodes[1].content()
        assert not pull.done()
        await pull
        assert scene.registry.bytes_sent(large(image)) == 0


async def test_a_holder_that_is_told_to_stop_gives_what_it_has_begun(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "stopped") as (_, pull):
        stopping = asyncio.create_task(scene.agents[1].process.stop())
        await pull
        await stopping


async def test_a_holder_that_hangs_is_left(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "hung") as (_, pull):
        scene.agents[1].process.pause()
        assert await pull < 25


async def test_a_holder_that_is_killed_is_left(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "killed") as (_, pull):
        await scene.agents[1].process.kill()
        await pull


async def test_an_agent_that_is_told_to_stop_lets_its_own_runtime_end_its_pull(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "own-stopped") as (_, pull):
        stopping = asyncio.create_task(scene.agents[0].process.stop())
        await pull
        await stopping


async def test_an_agent_that_hangs_for_some_seconds_lets_its_own_runtime_end_its_pull(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "own-hung") as (_, pull):
        scene.agents[0].process.pause()
        await asyncio.sleep(HUNG_S)
        assert not pull.done()
        scene.agents[0].process.resume()
        await pull
        assert scene.agents[0].process.running


async def test_an_agent_that_is_killed_leaves_its_runtime_to_the_registry(scene: Scene) -> None:
    async with pulling_from_a_slow_holder(scene, "own-killed", dies=True) as (_, pull):
        await scene.agents[0].process.kill()
        await pull
