"""What two real agents tell of one pull: the same id in both logs, and each its part of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from mirror.demo.client import pull
from mirror.demo.scene import REPOSITORY, TAG, DemoRegistry, build_demo_image, known_everywhere, running_agents
from mirror.trail import ID_HEADER
from tests.unwatched import Unwatched

PATIENCE_S = 20.0


async def line_with(log: Path, *words: str) -> str:
    """The first line of a log that has all of these words, once it is written."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for line in log.read_text().splitlines():
                if all(word in line for word in words):
                    return line
            await asyncio.sleep(0.1)


async def test_an_id_follows_a_pull_from_the_node_that_asks_to_the_one_that_gives(tmp_path: Path) -> None:
    await asyncio.to_thread(build_demo_image, tmp_path / "registry")
    async with (
        DemoRegistry(tmp_path / "registry") as registry,
        running_agents(["node-a", "node-b"], tmp_path, registry.url) as (one, two),
    ):
        objects = await pull(one.url, REPOSITORY, TAG, Unwatched())
        await known_everywhere([two], len(objects))
        layer = max(objects, key=lambda each: each.size)
        path = f"/v2/{REPOSITORY.name}/blobs/{layer.digest}?ns={REPOSITORY.registry}"
        async with aiohttp.ClientSession(two.url, headers={ID_HEADER: "pull-7"}) as session:
            async with session.get(path) as response:
                assert len(await response.read()) == layer.size
        took = await line_with(tmp_path / "node-b.log", "[pull-7]")
        gave = await line_with(tmp_path / "node-a.log", "[pull-7]")
    assert f"{layer.size:,} bytes from peer node-a" in took
    assert "not in the store" in took
    assert f"{layer.size:,} bytes to node-b from store" in gave
