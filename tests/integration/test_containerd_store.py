"""The containerd store on a real containerd: what it tells, how soon, and that it survives containerd's restarts."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.oci import Digest, Kind, Repository, Tag
from mirror.source import Request, read_all
from mirror.stores import ContentAdded, ContentRemoved, StoreEvent, TagRemoved, TagSet
from mirror.stores.containerd import ContainerdSettings, ContainerdStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.lab import Lab, Node

FRESH_S = 1.0
"""Within which every change must be told; a promise of the design."""

APP = Repository("registry.test", "lib/app")
V1 = Tag("v1")


class Watcher:
    """Everything that a store tells, with the time of each event."""

    def __init__(self, store: ContainerdStore) -> None:
        self.store = store
        self.events: list[StoreEvent] = []
        self.times: list[float] = []
        self._told = asyncio.Condition()

    async def follow(self) -> None:
        """Listen until cancelled."""
        async for batch in self.store.watch():
            async with self._told:
                self.events += batch
                self.times += [time.monotonic()] * len(batch)
                self._told.notify_all()

    async def until(self, condition: Callable[[], bool], within_s: float = FRESH_S) -> None:
        """Wait until what was told makes `condition` true. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s), self._told:
            await self._told.wait_for(condition)

    @property
    def content(self) -> set[Digest]:
        """What the store has, going by its events alone; each must be told once when it comes and when it goes."""
        content: set[Digest] = set()
        for event in self.events:
            if isinstance(event, ContentAdded):
                assert event.digest not in content
                content.add(event.digest)
            elif isinstance(event, ContentRemoved):
                content.remove(event.digest)
        return content

    @property
    def tags(self) -> dict[tuple[Repository, Tag], Digest]:
        """Which tags the store knows, going by its events alone."""
        tags: dict[tuple[Repository, Tag], Digest] = {}
        for event in self.events:
            if isinstance(event, TagSet):
                tags[event.repository, event.tag] = event.digest
            elif isinstance(event, TagRemoved):
                del tags[event.repository, event.tag]
        return tags

    def time_of(self, event: StoreEvent) -> float:
        """When an event was told, in monotonic seconds."""
        return self.times[self.events.index(event)]


@asynccontextmanager
async def watching(node: Node, *namespaces: str) -> AsyncIterator[Watcher]:
    """A store on a node's containerd, followed in the background."""
    watcher = Watcher(ContainerdStore(ContainerdSettings(node.socket, namespaces or ("k8s.io",))))
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watcher.follow())
        yield watcher
        following.cancel()


async def test_layers_are_told_before_the_image_and_bytes_are_served(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[1_000, 50_000_000])
    (node,) = await lab.add_nodes(1)
    async with watching(node) as watcher:
        await node.pull(image.name, via="ctr")
        await watcher.until(lambda: watcher.content == image.objects() and bool(watcher.tags))
        assert watcher.tags == {(APP, V1): image.root.digest}
        tagged = next(event for event in watcher.events if isinstance(event, TagSet))
        for layer in image.layers():
            assert watcher.time_of(ContentAdded(layer)) < watcher.time_of(tagged)

        by_tag = await watcher.store.resolve(Request(APP, Kind.MANIFEST, V1))
        assert by_tag == image.root
        for layer, size in image.layers().items():
            content = await watcher.store.open(Request(APP, Kind.BLOB, layer))
            assert content.descriptor.size == size
            assert hashlib.sha256(await read_all(content.body, size)).hexdigest() == layer.hex


async def test_every_object_is_told_within_a_second_of_its_commit(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[5_000_000] * 6)
    (node,) = await lab.add_nodes(1)
    async with watching(node) as watcher:
        await node.pull(image.name, via="cri")
        await watcher.until(lambda: watcher.content == image.objects())
        now, monotonic = time.time(), time.monotonic()
        for digest in image.objects():
            # The file's last change of state is its rename, or what containerd does to it at once afterwards.
            committed = (node.content_dir / "blobs" / digest.algorithm / digest.hex).stat().st_ctime
            told = now - (monotonic - watcher.time_of(ContentAdded(digest)))
            assert told - committed < FRESH_S


async def test_an_image_that_is_removed_is_told_within_a_second_of_its_collection(lab: Lab) -> None:
    registry = await lab.add_registry()
    first = await registry.publish("lib/app:v1", layer_bytes=[100_000, 200_000])
    second = await registry.publish("lib/other:v1", layer_bytes=[300_000])
    (node,) = await lab.add_nodes(1)
    await node.pull(first.name)
    await node.pull(second.name)
    async with watching(node) as watcher:
        await watcher.until(lambda: watcher.content == first.objects() | second.objects())
        await node.remove(first.name)
        assert node.content() == second.objects()
        await watcher.until(lambda: (APP, V1) not in watcher.tags)
        await watcher.until(lambda: watcher.content == second.objects())


async def test_a_single_object_that_is_deleted_is_told(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[100_000, 200_000])
    (node,) = await lab.add_nodes(1)
    await node.pull(image.name)
    async with watching(node) as watcher:
        await watcher.until(lambda: watcher.content == image.objects())
        layer = next(iter(image.layers()))
        await node.ctr("content", "rm", str(layer))
        await watcher.until(lambda: watcher.content == image.objects() - {layer})


async def test_the_watch_goes_on_when_containerd_restarts(lab: Lab) -> None:
    registry = await lab.add_registry()
    first = await registry.publish("lib/app:v1")
    second = await registry.publish("lib/app:v2")
    (node,) = await lab.add_nodes(1)
    await node.pull(first.name)
    async with watching(node) as watcher:
        await watcher.until(lambda: watcher.content == first.objects() and bool(watcher.tags))
        await node.containerd.stop()
        told = len(watcher.events)
        layer, size = next(iter(first.layers().items()))
        content = await watcher.store.open(Request(APP, Kind.BLOB, layer))
        assert len(await read_all(content.body, size)) == size
        await asyncio.sleep(0.5)
        assert watcher.events[told:] == []

        await node.start()
        await node.pull(second.name)
        await watcher.until(lambda: watcher.content == first.objects() | second.objects())
        await watcher.until(lambda: len(watcher.tags) == 2, within_s=5)
        await node.remove(second.name)
        await watcher.until(lambda: len(watcher.tags) == 1)


async def test_a_containerd_that_starts_after_the_agent_is_found(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    await node.containerd.stop()
    async with watching(node) as watcher:
        await asyncio.sleep(0.3)
        assert watcher.events == []
        await node.start()
        await node.pull(image.name)
        await watcher.until(lambda: watcher.content == image.objects() and bool(watcher.tags), within_s=5)


async def test_a_containerd_that_hangs_keeps_no_content_back(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    await node.pull(image.name)
    async with watching(node) as watcher:
        await watcher.until(lambda: watcher.content == image.objects())
        node.containerd.pause()
        manifest = await watcher.store.open(Request(APP, Kind.MANIFEST, V1))
        assert manifest.descriptor == image.root
        node.containerd.resume()


async def test_a_tag_that_two_namespaces_know_goes_with_the_second(lab: Lab) -> None:
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1")
    (node,) = await lab.add_nodes(1)
    async with watching(node, "k8s.io", "other") as watcher:
        for namespace in ("k8s.io", "other", "hidden"):
            await node.ctr(
                *("images", "pull", "--hosts-dir", str(node.certs_d), image.name), containerd_namespace=namespace
            )
        await watcher.until(lambda: watcher.tags == {(APP, V1): image.root.digest})
        await node.ctr("images", "rm", image.name, containerd_namespace="k8s.io")
        await asyncio.sleep(0.5)
        assert watcher.tags == {(APP, V1): image.root.digest}
        await node.ctr("images", "rm", image.name, containerd_namespace="other")
        await watcher.until(lambda: watcher.tags == {})
        assert {event.digest for event in watcher.events if isinstance(event, TagSet)} == {image.root.digest}


async def test_a_tag_that_moves_is_told(lab: Lab) -> None:
    registry = await lab.add_registry()
    old = await registry.publish("lib/app:v1", layer_bytes=[1_000])
    (node,) = await lab.add_nodes(1)
    async with watching(node) as watcher:
        await node.pull(old.name, via="ctr")
        await watcher.until(lambda: watcher.tags == {(APP, V1): old.root.digest})
        new = await registry.publish("lib/app:v1", layer_bytes=[2_000])
        await node.pull(new.name, via="ctr")
        await watcher.until(lambda: watcher.tags == {(APP, V1): new.root.digest})


async def test_layers_thrown_away_after_unpacking_are_told(lab: Lab) -> None:
    """`discard_unpacked_layers`, as some distributions of Kubernetes set it."""
    registry = await lab.add_registry()
    image = await registry.publish("lib/app:v1", layer_bytes=[100_000, 200_000])
    (node,) = await lab.add_nodes(1)
    node.configure(discard_unpacked_layers=True)
    await node.containerd.restart()
    await node.ready()
    async with watching(node) as watcher:
        await node.pull(image.name)
        await node.collect_garbage()
        await watcher.until(lambda: watcher.content == image.objects() - set(image.layers()))
        assert all(ContentAdded(layer) in watcher.events for layer in image.layers())
