"""Pins: the bookkeeping, and what is asked of a containerd that is a stand-in here, so that it can fail at will."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from mirror.app import create_store
from mirror.oci import OCI_INDEX, Digest
from mirror.settings import load
from mirror.stores import ContentAdded, ContentRemoved
from mirror.stores.containerd import ContainerdSettings, ContainerdStore, client, unpinned
from mirror.stores.containerd.api.leases_pb2 import (
    AddResourceRequest,
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResourceRequest,
    ListResourcesRequest,
    ListResourcesResponse,
    Resource,
)
from mirror.stores.containerd.client import Absence
from mirror.stores.containerd.content import ContentDirectory
from mirror.stores.containerd.pins import LEASE, Newest, Pin, Pins
from mirror.stores.containerd.unpinned import Unpinned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from google.protobuf.message import Message

NAMESPACES = ("k8s.io", "other")
WITHIN_S = 5.0


class Leases:
    """A containerd that knows leases and nothing else. `held` is by namespace; `failing` calls go wrong first."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {}
        self.failing = 0

    @asynccontextmanager
    async def listen(self, socket: Path) -> AsyncIterator[Leases]:
        """Answer at `socket`."""
        calls: dict[str, tuple[Callable[[str, Message], Message], type[Message]]] = {
            "Create": (self._create, CreateRequest),
            "Delete": (self._delete, DeleteRequest),
            "AddResource": (self._add, AddResourceRequest),
            "DeleteResource": (self._remove, DeleteResourceRequest),
            "ListResources": (self._list, ListResourcesRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answering(answer), request.FromString, lambda response: response.SerializeToString()
            )
            for name, (answer, request) in calls.items()
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("containerd.services.leases.v1.Leases", handlers)]
        )
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def _answering(self, answer: Callable[[str, Message], Message]) -> Callable[..., object]:
        async def call(request: Message, context: Any) -> Message:
            if self.failing:
                self.failing -= 1
                await context.abort(grpc.StatusCode.INTERNAL, "it went wrong")
            try:
                return answer(dict(context.invocation_metadata())["containerd-namespace"], request)
            except KeyError:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such lease")
            except FileExistsError:
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is such a lease")
            raise AssertionError

        return call

    def _create(self, namespace: str, _: Message) -> Message:
        if namespace in self.held:
            raise FileExistsError
        self.held[namespace] = set()
        return CreateResponse()

    def _delete(self, namespace: str, _: Message) -> Message:
        del self.held[namespace]
        return Empty()

    def _add(self, namespace: str, request: Message) -> Message:
        assert isinstance(request, AddResourceRequest)
        assert (request.id, request.resource.type) == (LEASE, "content")
        self.held[namespace].add(request.resource.id)
        return Empty()

    def _remove(self, namespace: str, request: Message) -> Message:
        assert isinstance(request, DeleteResourceRequest)
        self.held[namespace].remove(request.resource.id)
        return Empty()

    def _list(self, namespace: str, _: Message) -> Message:
        return ListResourcesResponse(resources=[Resource(id=digest, type="content") for digest in self.held[namespace]])


def add(root: Path, data: bytes, committed_at: float | None = None) -> Digest:
    """Put an object into a content directory."""
    digest = Digest.of(data)
    (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    path = root / "blobs" / "sha256" / digest.hex
    path.write_bytes(data)
    if committed_at is not None:
        os.utime(path, (committed_at, committed_at))
    return digest


def remove(root: Path, digest: Digest) -> None:
    """Delete an object from a content directory."""
    (root / "blobs" / "sha256" / digest.hex).unlink()


@asynccontextmanager
async def kept(keeper: Pins | Unpinned) -> AsyncIterator[None]:
    """While this is open, the work is done; if it failed, the test does."""
    keeping = asyncio.create_task(keeper.keep())
    yield
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true. Raises `TimeoutError`."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


def pins_on(root: Path, bytes_max: int = 1000) -> Pins:
    """Pins of the content in `root` by the containerd at `root / "sock"`."""
    socket = root / "sock"
    return Pins(socket, NAMESPACES, bytes_max, ContentDirectory(root, 60), Absence(socket))


def unpinned_on(root: Path) -> Unpinned:
    """No pins of the content in `root`."""
    socket = root / "sock"
    return Unpinned(socket, NAMESPACES, ContentDirectory(root, 60), Absence(socket))


def in_both(*digests: Digest) -> dict[str, set[str]]:
    """What is held when every namespace holds these."""
    return {namespace: {str(digest) for digest in digests} for namespace in NAMESPACES}


# The bookkeeping.


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(0, 40))
def test_of_objects_that_come_by_age_the_longest_tail_within_the_limit_is_held(sizes: list[int], limit: int) -> None:
    newest = Newest(limit)
    pins = [Pin(Digest.of(str(number).encode()), size, number) for number, size in enumerate(sizes)]
    for pin in pins:
        newest.add([pin])
        newest.check()
    within = [pin for pin in pins if pin.size <= limit]
    while sum(pin.size for pin in within) > limit:
        del within[0]
    assert newest.digests() == {pin.digest for pin in within}
    at_once = Newest(limit)
    at_once.add(reversed(pins))
    assert at_once.digests() == newest.digests()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 20), st.integers(0, 5))), st.integers(0, 40))
def test_whatever_comes_and_goes_the_limit_holds(steps: list[tuple[bool, int, int, int]], limit: int) -> None:
    newest = Newest(limit)
    for comes, number, size, committed_at in steps:
        digest = Digest.of(str(number).encode())
        if comes:
            newest.add([Pin(digest, size, committed_at)])
        else:
            newest.discard(digest)
            assert digest not in newest.digests()
        newest.check()


def test_an_object_that_fills_the_limit_is_held_and_a_larger_one_releases_nothing() -> None:
    newest = Newest(10)
    newest.add([Pin(Digest.of(b"fits"), 10, 1)])
    newest.add([Pin(Digest.of(b"too large"), 11, 2)])
    assert newest.digests() == {Digest.of(b"fits")}


def test_an_older_object_that_is_counted_late_is_the_first_to_go() -> None:
    newest = Newest(10)
    newest.add([Pin(Digest.of(b"new"), 6, 2)])
    newest.add([Pin(Digest.of(b"old"), 6, 1)])
    assert newest.digests() == {Digest.of(b"new")}


# The lease.


async def test_what_arrives_is_held_in_every_namespace_until_it_vanishes(tmp_path: Path) -> None:
    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path)
        async with kept(pins):
            first, second = add(tmp_path, b"first"), add(tmp_path, b"second")
            pins.note([ContentAdded(first), ContentAdded(second)])
            await eventually(lambda: leases.held == in_both(first, second))
            remove(tmp_path, first)
            pins.note([ContentRemoved(first)])
            await eventually(lambda: leases.held == in_both(second))


async def test_beyond_the_limit_the_oldest_is_released(tmp_path: Path) -> None:
    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path, bytes_max=10)
        async with kept(pins):
            digests = [
                add(tmp_path, data, committed_at=number) for number, data in enumerate([b"aaaa", b"bbbb", b"cc"])
            ]
            pins.note([ContentAdded(digest) for digest in digests])
            await eventually(lambda: leases.held == in_both(*digests))
            last = add(tmp_path, b"d")
            pins.note([ContentAdded(last)])
            await eventually(lambda: leases.held == in_both(*digests[1:], last))


async def test_what_vanished_before_it_could_be_looked_at_is_not_held(tmp_path: Path) -> None:
    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path)
        gone, there = Digest.of(b"gone"), add(tmp_path, b"there")
        pins.note([ContentAdded(gone), ContentAdded(there), ContentRemoved(gone)])
        async with kept(pins):
            await eventually(lambda: leases.held == in_both(there))


async def test_an_object_that_the_disk_does_not_tell_of_keeps_no_other_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoiled, sound = add(tmp_path, b"spoiled"), add(tmp_path, b"sound")
    stat = os.stat

    def stat_or_fail(path: Path) -> os.stat_result:
        if path.name == spoiled.hex:
            raise OSError(errno.EIO, "the disk is broken")
        return stat(path)

    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path)
        async with kept(pins):
            await eventually(lambda: leases.held == in_both())
            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", stat_or_fail)
                pins.note([ContentAdded(spoiled), ContentAdded(sound)])
                await eventually(lambda: leases.held == in_both(sound))
    assert caplog.records == []


async def test_what_an_earlier_run_held_is_counted_by_age_and_released_when_its_file_is_gone(tmp_path: Path) -> None:
    old, older = add(tmp_path, b"old.", committed_at=2), add(tmp_path, b"older", committed_at=1)
    async with Leases().listen(tmp_path / "sock") as leases:
        leases.held = in_both(old, older, Digest.of(b"gone"))
        del leases.held["other"]
        pins = pins_on(tmp_path, bytes_max=10)
        async with kept(pins):
            await eventually(lambda: leases.held == in_both(old, older))
            new = add(tmp_path, b"newer")
            pins.note([ContentAdded(new)])
            await eventually(lambda: leases.held == in_both(old, new))


@pytest.mark.parametrize("failing", [1, 2, 5, 9])
async def test_calls_that_fail_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: int
) -> None:
    monkeypatch.setattr(client, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(client, "RETRY_S_MAX", 0.02)
    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path)
        async with kept(pins):
            before = add(tmp_path, b"before")
            pins.note([ContentAdded(before)])
            await eventually(lambda: leases.held == in_both(before))
            leases.failing = failing
            digest = add(tmp_path, b"a")
            pins.note([ContentAdded(digest)])
            await eventually(lambda: leases.held == in_both(before, digest))
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]
    assert "it went wrong" in caplog.text


async def test_a_lease_that_somebody_deleted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_S_MAX", 0.02)
    async with Leases().listen(tmp_path / "sock") as leases:
        pins = pins_on(tmp_path)
        async with kept(pins):
            digests = [add(tmp_path, b"a"), add(tmp_path, b"b")]
            pins.note([ContentAdded(digests[0])])
            await eventually(lambda: leases.held == in_both(digests[0]))
            leases.held.clear()
            pins.note([ContentAdded(digests[1])])
            await eventually(lambda: leases.held == in_both(*digests))


async def test_without_a_containerd_what_comes_is_told_all_the_same_and_one_warning_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    settings = ContainerdSettings(tmp_path / "sock", content_dir=tmp_path, pin_bytes_max=1000)
    async with aclosing(ContainerdStore(settings).watch()) as batches:
        assert await anext(batches) == []
        (tmp_path / "new").write_bytes(b"a")
        (tmp_path / "new").rename(tmp_path / "blobs" / "sha256" / Digest.of(b"a").hex)
        assert await asyncio.wait_for(anext(batches), 1) == [ContentAdded(Digest.of(b"a"))]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(batches), 0.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(("size", "held"), [("1K", True), ("3", False), ("0", False)])
async def test_the_setting_decides_how_much_is_held(tmp_path: Path, size: str, held: bool) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    flags = {"store": "containerd", "containerd_namespaces": ",".join(NAMESPACES), "containerd_pin_bytes_max": size}
    flags |= {"containerd_socket": str(tmp_path / "sock"), "containerd_content_dir": str(tmp_path)}
    digest = Digest.of(b"four")
    async with Leases().listen(tmp_path / "sock") as leases:
        async with aclosing(create_store(load(flags, {}, None)).watch()) as batches:
            assert await anext(batches) == []
            (tmp_path / "new").write_bytes(b"four")
            (tmp_path / "new").rename(tmp_path / "blobs" / "sha256" / digest.hex)
            assert await asyncio.wait_for(anext(batches), 1) == [ContentAdded(digest)]
            following = asyncio.ensure_future(anext(batches))
            if held:
                await eventually(lambda: leases.held == in_both(digest))
            else:
                await asyncio.sleep(0.2)
                assert not any(leases.held.values())
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("pin_bytes_max", [0, 1000])
async def test_a_mistake_in_the_work_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pin_bytes_max: int
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Pins, "keep", fail)
    monkeypatch.setattr(Unpinned, "keep", fail)
    settings = ContainerdSettings(tmp_path / "sock", content_dir=tmp_path, pin_bytes_max=pin_bytes_max)
    async with aclosing(ContainerdStore(settings).watch()) as batches:
        await anext(batches)
        with pytest.raises(RuntimeError, match="a mistake"):
            await asyncio.wait_for(anext(batches), 1)


# Nothing pinned.


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How many warnings said that layers are lost; they are given soon."""
    monkeypatch.setattr(unpinned, "SETTLE_S", 0.05)
    return lambda: sum("containerd_pin_bytes_max" in record.message for record in caplog.records)


def manifest_of(*layers: Digest, **others: str) -> bytes:
    """A manifest that names these layers."""
    return json.dumps({"config": {}, "layers": [{"digest": str(layer)} for layer in layers], **others}).encode()


@pytest.mark.parametrize("there", [(), ("other",), NAMESPACES])
async def test_what_an_earlier_run_held_is_released_in_every_namespace(tmp_path: Path, there: tuple[str, ...]) -> None:
    async with Leases().listen(tmp_path / "sock") as leases:
        leases.held = {namespace: {"sha256:"} for namespace in (*there, "foreign")}
        async with kept(unpinned_on(tmp_path)):
            await eventually(lambda: leases.held.keys() == {"foreign"})


async def test_layers_that_vanish_while_their_manifest_stays_are_told_once(
    tmp_path: Path, lost: Callable[[], int]
) -> None:
    async with Leases().listen(tmp_path / "sock"):
        keeper = unpinned_on(tmp_path)
        async with kept(keeper):
            for name in (b"first", b"second"):
                layer = Digest.of(name)
                manifest = add(tmp_path, manifest_of(layer))
                keeper.note([ContentAdded(manifest), ContentAdded(layer)])
                keeper.note([ContentRemoved(layer)])
                await eventually(lambda: lost() == 1)
                await asyncio.sleep(0.1)
    assert lost() == 1


async def test_layers_that_vanish_with_their_manifest_are_no_reason_to_warn(
    tmp_path: Path, lost: Callable[[], int]
) -> None:
    async with Leases().listen(tmp_path / "sock"):
        keeper = unpinned_on(tmp_path)
        async with kept(keeper):
            layer = Digest.of(b"layer")
            manifest = add(tmp_path, manifest_of(layer))
            other = add(tmp_path, manifest_of(Digest.of(b"another layer")))
            index = add(tmp_path, manifest_of(layer, mediaType=OCI_INDEX))
            keeper.note([ContentAdded(digest) for digest in (other, index, manifest, layer)])
            keeper.note([ContentRemoved(layer)])
            await asyncio.sleep(0.02)  # a garbage collection deletes one file after the other
            remove(tmp_path, manifest)
            keeper.note([ContentRemoved(manifest)])
            await asyncio.sleep(0.3)
    assert lost() == 0


async def test_what_was_there_at_the_start_may_vanish_without_a_warning(
    tmp_path: Path, lost: Callable[[], int]
) -> None:
    async with Leases().listen(tmp_path / "sock"):
        keeper = unpinned_on(tmp_path)
        async with kept(keeper):
            layer = Digest.of(b"layer")
            keeper.note([ContentAdded(add(tmp_path, manifest_of(layer)))])
            keeper.note([ContentRemoved(layer)])
            await asyncio.sleep(0.2)
    assert lost() == 0
