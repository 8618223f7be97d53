"""containerd fetches large layers in parallel ranges, if it is told to (`concurrent_layer_fetch_buffer`, since 2.1).

Then every GET has a Range, manifests too, and each chunk of a layer is asked for as "from here to the end" and given
up when the chunk is there: clients that hang up early are the normal case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.integration.agents import observer, seen, start_agents, tag_seen
from tests.lab.fetch_containerd import version

if TYPE_CHECKING:
    from tests.lab import Lab

MEGABYTE = 1_000_000
CHUNK_BYTES = 4 * MEGABYTE


async def test_layers_fetched_in_parallel_ranges_come_from_upstream_and_then_from_the_peer(lab: Lab) -> None:
    running = await asyncio.to_thread(version)
    if tuple(int(part) for part in running.split(".")[:2]) < (2, 1):
        pytest.skip(f"containerd {running} fetches no parallel ranges; 2.1 and later do")
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", [100_000, 50 * MEGABYTE])
    nodes = await lab.add_nodes(2)
    for node in nodes:
        node.configure(concurrent_layer_fetch_buffer=CHUNK_BYTES)
        await node.containerd.restart()
        await node.ready()
    agents = await start_agents(nodes, registry)

    await nodes[0].pull(image.name)
    assert nodes[0].content() == image.objects()
    async with observer(lab) as cluster:
        for digest in image.objects():
            await seen(cluster, digest, {"n1"}, 3)
        await tag_seen(cluster, image.name, image.root.digest, 3)
    assert sum(registry.bytes_sent(layer) for layer in image.layers()) < 1.05 * image.size(), "once for all ranges"
    await registry.stop()
    await nodes[1].pull(image.name)
    assert nodes[1].content() == image.objects()

    for agent, source in zip(agents, ("upstream", "peer"), strict=True):
        labels = [{"face": "client", "source": each} for each in (source, "in_flight")]
        answers = [await agent.metric("skvaller_requests_total", status="2xx", **each) for each in labels]
        assert sum(answers) > 50 * MEGABYTE / CHUNK_BYTES, "one for each chunk, none refused"
        assert sum([await agent.metric("skvaller_incomplete_answers_total", **each) for each in labels]) > 0
        assert agent.process.running
