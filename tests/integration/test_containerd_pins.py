"""Pinning on a real containerd that throws layers away once they are unpacked (`discard_unpacked_layers`)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mirror.errors import UnavailableError
from mirror.oci import Digest
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.containerd import ContainerdSettings, ContainerdStore, client, unpinned
from mirror.stores.containerd.client import connect
from mirror.stores.containerd.pins import LEASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.lab import Lab, Node

PLENTY = 10**9
WAIT_S = 10.0
"""How long anything may take; less than half a second is usual."""


@asynccontextmanager
async def running(node: Node, pin_bytes_max: int, *namespaces: str) -> AsyncIterator[set[Digest]]:
    """A store on a node's containerd; gives the content that it tells of, kept up to date."""
    store = ContainerdStore(ContainerdSettings(node.socket, namespaces or ("k8s.io",), pin_bytes_max=pin_bytes_max))
    told: set[Digest] = set()
    started = asyncio.Event()

    async def follow() -> None:
        async for batch in store.watch():
            for event in batch:
                if isinstance(event, ContentAdded):
                    told.add(event.digest)
                elif isinstance(event, ContentRemoved):
                    told.remove(event.digest)
            started.set()

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        if node.containerd.running:
            await asyncio.wait_for(started.wait(), 5)
        yield told
        following.cancel()


async def add_discarding_node(lab: Lab) -> Node:
    """A node whose containerd discards unpacked layers."""
    (node,) = await lab.add_nodes(1)
    node.configure(discard_unpacked_layers=True)
    await node.containerd.restart()
    await node.ready()
    return node


async def collected(node: Node, condition: Callable[[], bool]) -> None:
    """Have containerd collect its garbage until `condition` is true. Raises `TimeoutError`."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await node.collect_garbage()


async def leased(node: Node, namespace: str = "k8s.io") -> set[Digest] | None:
    """What the agent's lease holds; None when there is no lease."""
    async with connect(node.socket) as containerd:
        try:
            return await containerd.leased(namespace, LEASE)
        except UnavailableError:
            return None


async def until_leased(node: Node, wanted: set[Digest]) -> None:
    """Wait until the agent's lease holds exactly this. Raises `TimeoutError`."""
    async with asyncio.timeout(WAIT_S):
        while await leased(node) != wanted:
            await asyncio.sleep(0.02)


async def test_pinned_layers_stay_and_are_told_although_containerd_discards_them(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[1_000, 100_000, 5_000_000])
    node = await add_discarding_node(lab)
    async with running(node, PLENTY) as told:
        await node.pull(image.name)
        await until_leased(node, image.objects())
        await node.collect_garbage()
        assert node.content() == image.objects()
        assert told == image.objects()


async def test_what_was_there_before_the_agent_is_not_pinned(lab: Lab) -> None:
    registry = await lab.add_registry()
    before = await registry.publish("lib/before:v1")
    after = await registry.publish("lib/after:v1")
    (node,) = await lab.add_nodes(1)
    await node.pull(before.name)
    async with running(node, PLENTY):
        await node.pull(after.name)
        await until_leased(node, after.objects())


async def test_over_the_limit_the_oldest_are_released_and_go(lab: Lab) -> None:
    registry = await lab.add_registry()
    old = await registry.publish("lib/old:v1", layer_bytes=[3_000_000])
    new = await registry.publish("lib/new:v1", layer_bytes=[3_000_000])
    node = await add_discarding_node(lab)
    async with running(node, 4_000_000) as told:
        await node.pull(old.name)
        await until_leased(node, old.objects())
        await node.collect_garbage()
        assert node.content() == old.objects()
        await node.pull(new.name)
        async with asyncio.timeout(WAIT_S):
            while (await leased(node) or set()) & set(old.layers()):
                await asyncio.sleep(0.02)
        await node.collect_garbage()
        assert node.content() == (old.objects() - set(old.layers())) | new.objects()
        await collected(node, lambda: told == node.content())


async def test_a_layer_that_is_larger_than_the_limit_releases_no_other(lab: Lab) -> None:
    registry = await lab.add_registry()
    small = await registry.publish("lib/small:v1", layer_bytes=[300_000])
    large = await registry.publish("lib/large:v1", layer_bytes=[3_000_000])
    node = await add_discarding_node(lab)
    async with running(node, 1_000_000):
        await node.pull(small.name)
        await node.pull(large.name)
        kept = small.objects() | (large.objects() - set(large.layers()))
        await until_leased(node, kept)
        await node.collect_garbage()
        assert node.content() == kept


async def test_an_agent_that_restarts_counts_what_it_pinned_and_forgets_what_is_gone(lab: Lab) -> None:
    registry = await lab.add_registry()
    images = [await registry.publish(f"lib/app:v{number}", layer_bytes=[3_000_000]) for number in range(3)]
    first, second, third = ({*image.layers()} for image in images)
    node = await add_discarding_node(lab)
    async with running(node, PLENTY):
        for image in images:
            await node.pull(image.name)
        await until_leased(node, set().union(*(image.objects() for image in images)))
    await node.ctr("content", "rm", *(str(layer) for layer in second))
    await node.collect_garbage()
    assert first | third <= node.content()

    async with running(node, 7_000_000) as told:
        await until_leased(node, set().union(*(image.objects() for image in images)) - second)
        assert first | third <= told
    async with running(node, 4_000_000) as told:
        await collected(node, lambda: not first & told)
        assert third <= told
    await node.collect_garbage()
    assert third <= node.content()


async def test_an_agent_that_pins_no_more_frees_the_disk(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[100_000, 200_000])
    node = await add_discarding_node(lab)
    async with running(node, PLENTY):
        await node.pull(image.name)
        await until_leased(node, image.objects())
    await node.collect_garbage()
    assert node.content() == image.objects()

    async with running(node, 0) as told:
        await collected(node, lambda: node.content() == image.objects() - set(image.layers()))
        await collected(node, lambda: told == node.content())
    assert await leased(node) is None


async def test_pins_hold_and_go_on_when_containerd_restarts(lab: Lab) -> None:
    registry = await lab.add_registry()
    first = await registry.publish("lib/app:v1")
    second = await registry.publish("lib/app:v2")
    node = await add_discarding_node(lab)
    async with running(node, PLENTY) as told:
        await node.pull(first.name)
        await until_leased(node, first.objects())
        await node.containerd.kill()
        await node.start()
        await node.pull(second.name)
        await until_leased(node, first.objects() | second.objects())
        await node.collect_garbage()
        assert node.content() == first.objects() | second.objects()
        assert told == node.content()


async def test_a_containerd_that_starts_after_the_agent_has_its_layers_pinned(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_S_MAX", 0.1)
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    node = await add_discarding_node(lab)
    await node.containerd.stop()
    async with running(node, PLENTY):
        await asyncio.sleep(0.5)
        await node.start()
        await asyncio.sleep(0.3)  # more than the longest pause between two tries to reach it
        await node.pull(image.name)
        await until_leased(node, image.objects())
        await node.collect_garbage()
        assert node.content() == image.objects()


async def test_a_containerd_that_hangs_keeps_no_event_back_and_pins_when_it_goes_on(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    async with running(node, PLENTY) as told:
        await node.pull(image.name)
        await until_leased(node, image.objects())
        node.containerd.pause()
        digest = Digest.of(b"arrived")
        (node.content_dir / "arrived").write_bytes(b"arrived")
        (node.content_dir / "arrived").rename(node.content_dir / "blobs" / "sha256" / digest.hex)
        async with asyncio.timeout(1):
            while digest not in told:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        node.containerd.resume()
        await until_leased(node, image.objects() | {digest})


async def test_a_lease_that_was_removed_by_hand_is_made_anew(lab: Lab) -> None:
    registry = await lab.add_registry()
    first = await registry.publish("lib/app:v1")
    second = await registry.publish("lib/app:v2")
    node = await add_discarding_node(lab)
    async with running(node, PLENTY):
        await node.pull(first.name)
        await until_leased(node, first.objects())
        await node.ctr("leases", "rm", "--sync", LEASE)
        await until_leased(node, first.objects() - set(first.layers()))
        await node.pull(second.name)
        await until_leased(node, (first.objects() - set(first.layers())) | second.objects())


async def test_pins_of_a_removed_image_hold_its_content_and_not_its_snapshots(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[100_000, 200_000])
    (node,) = await lab.add_nodes(1)
    async with running(node, PLENTY):
        await node.pull(image.name)
        await until_leased(node, image.objects())
        assert len((await node.ctr("snapshots", "ls")).splitlines()) == 1 + len(image.layers())
        await node.remove(image.name)
        await node.collect_garbage()
        assert node.content() == image.objects()
        assert len((await node.ctr("snapshots", "ls")).splitlines()) == 1


async def test_every_namespace_pins_what_it_has(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    async with running(node, PLENTY, "k8s.io", "other"):
        await node.ctr(*("images", "pull", "--hosts-dir", str(node.certs_d), image.name), containerd_namespace="other")
        await until_leased(node, image.objects())
        assert await leased(node, "other") == image.objects()
        await node.ctr("images", "rm", "--sync", image.name, containerd_namespace="other")
        assert node.content() == image.objects()


async def test_lost_layers_are_told_in_one_warning_that_names_the_setting(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpinned, "SETTLE_S", 0.5)
    registry = await lab.add_registry()
    images = [await registry.publish(f"lib/app:v{number}") for number in range(2)]
    node = await add_discarding_node(lab)
    with caplog.at_level(logging.WARNING):
        async with running(node, 0) as told:
            for image in images:
                await node.pull(image.name)
                await collected(node, lambda image=image: not {*image.layers()} & told)  # type: ignore[misc]
                await asyncio.sleep(1)
    assert [record.message.count("containerd_pin_bytes_max") for record in caplog.records] == [1]


async def test_an_image_that_is_removed_right_after_its_pull_is_no_reason_to_warn(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpinned, "SETTLE_S", 0.5)
    registry = await lab.add_registry()
    removed = await registry.publish("lib/removed:v1", layer_bytes=[100_000, 30_000_000])
    kept = await registry.publish("lib/kept:v1")
    (node,) = await lab.add_nodes(1)
    with caplog.at_level(logging.WARNING):
        async with running(node, 0) as told:
            await node.pull(kept.name)
            await node.pull(removed.name)
            await node.remove(removed.name)
            await collected(node, lambda: told == kept.objects())
            await asyncio.sleep(1)
    assert caplog.records == []
