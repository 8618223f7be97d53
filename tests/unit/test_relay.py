"""A blob on its way from a peer to the runtime: through this node's registry, without being read by it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from mirror import peer_client, peer_connection, zero_copy
from mirror.choice import Holder, Standing
from mirror.errors import NotFoundError, UnavailableError
from mirror.metrics import Metrics
from mirror.movers import SocketMover
from mirror.oci import Descriptor, Digest, Repository
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.pull import Pull
from mirror.registry import create_registry
from mirror.single_flight import Transfers
from mirror.source import Content, Request
from mirror.spool import Spool
from mirror.stores import Ingest, StoreEvent
from mirror.stores.oci_layout import OciLayout
from mirror.suspicion import Suspicion
from tests.herds import Listed, lone_herd, nobody_says
from tests.serving import Heard, Script, Scripted, scripted, serving

DATA = random.Random(5).randbytes(12_000_000)
DIGEST = Digest.of(DATA)
SIZE = len(DATA)
PATH = f"/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


class Nothing:
    """A store that has nothing and keeps nothing, and a registry that is down."""

    async def resolve(self, request: Request) -> Descriptor:
        raise NotFoundError("nothing here")

    async def open(self, request: Request) -> Content:
        raise NotFoundError("nothing here")

    async def watch(self) -> AsyncGenerator[list[StoreEvent], None]:
        yield []

    keeps = False
    answering_since = None

    async def ingest(self, request: Request, size: int) -> Ingest | None:
        return None

    async def origins(self, digest: Digest) -> frozenset[Repository]:
        return frozenset()

    async def referring(self, subject: Digest) -> dict[Digest, bytes]:
        return {}

    async def remember(self, request: Request, digest: Digest) -> None:
        return


class Down(Nothing):
    async def open(self, request: Request) -> Content:
        raise UnavailableError("down")


@dataclass
class Mirror:
    url: str
    peers: Peers
    metrics: Metrics


@asynccontextmanager
async def mirror_of(*urls: str) -> AsyncGenerator[Mirror]:
    """A node's client face, with peers that are asked in the order given."""
    metrics = Metrics()
    standing = Standing("0", random.Random(1), asyncio.get_running_loop().time)
    index = Listed([Holder(Target(f"peer-{number}", "1"), url, str(number)) for number, url in enumerate(urls)])
    async with Peers(index, None, standing) as peers:
        suspicion = Suspicion(time.monotonic, lambda: None, metrics.suspicion())
        transfers = Transfers(Spool(Path(), 0), Nothing(), suspicion.blame)
        herd = lone_herd(peers, Down(), index)
        pull = Pull(Nothing(), peers, Down(), herd, transfers=transfers, suspicion=suspicion, relayed=nobody_says)
        async with serving(create_registry(pull, metrics.face("client"))) as url:
            yield Mirror(url + PATH, peers, metrics)


def answering_then(cut: int, *, reset: bool = False, silent: bool = False) -> Script:
    """A peer that gives up to byte `cut` of the blob, then closes, resets or says no more."""

    async def script(heard: Heard, writer: asyncio.StreamWriter) -> None:
        start = int(heard.headers.get("range", "bytes=0-")[6:].partition("-")[0])
        status = f"206 Part\r\nContent-Range: bytes {start}-{SIZE - 1}/{SIZE}" if start else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {SIZE - start}\r\n\r\n".encode() + DATA[start:cut])
        await writer.drain()
        if reset:
            writer.transport.abort()
        if silent:
            await asyncio.sleep(30)

    return script


@asynccontextmanager
async def real_peer(tmp_path: Path) -> AsyncGenerator[str]:
    """A node's peer face, with the blob in its store."""
    directory = tmp_path / "blobs" / "sha256"
    directory.mkdir(parents=True)
    (directory / DIGEST.hex).write_bytes(DATA)
    async with serving(create_registry(OciLayout(tmp_path, 10**9), Metrics().face("peer"))) as url:
        yield url


async def pull(mirror: Mirror) -> tuple[bytes, str]:
    """The blob as a runtime gets it: in one answer. And who gave it, as the answer says."""
    async with aiohttp.ClientSession() as session, session.get(mirror.url) as response:
        assert response.status == 200
        return await response.read(), response.headers["Skvaller-Holder"]


async def test_a_blob_comes_through_unchanged_over_connections_that_are_used_again(tmp_path: Path) -> None:
    async with real_peer(tmp_path) as url, mirror_of(url) as mirror:
        for _ in range(3):
            data, holder = await pull(mirror)
            assert hashlib.sha256(data).hexdigest() == DIGEST.hex
            assert holder == "peer-0"
        assert len(mirror.peers._client._idle) == 1
    assert mirror.metrics.bytes.labels("client", "peer", "registry.test")._value.get() == 3 * SIZE


async def test_a_relayed_blob_is_not_read_by_the_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spliced: list[int] = []

    class Counting(SocketMover):
        def _moved(self, size: int) -> None:
            spliced.append(size)
            super()._moved(size)

    monkeypatch.setattr(zero_copy, "SocketMover", Counting)
    async with real_peer(tmp_path) as url, mirror_of(url) as mirror:
        await pull(mirror)
    assert sum(spliced) >= SIZE - peer_connection.READ_BYTES - peer_client.HEAD_BYTES_MAX


@pytest.mark.parametrize("cut", [SIZE // 10, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("end", [{}, {"reset": True}, {"silent": True}], ids=["closes", "resets", "stalls"])
async def test_a_peer_that_breaks_off_is_replaced_in_the_same_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, end: dict[str, bool]
) -> None:
    monkeypatch.setattr(peer_connection, "BODY_SILENCE_S", 0.5)
    async with scripted(answering_then(cut, **end)) as bad, real_peer(tmp_path) as good:
        async with mirror_of(bad.url, good) as mirror:
            data, holder = await pull(mirror)
    assert hashlib.sha256(data).hexdigest() == DIGEST.hex
    assert holder == "peer-0"
    assert len(bad.heard) == 1
    assert mirror.metrics.misses.labels("peer", "unavailable")._value.get() == 1


async def test_relays_that_are_given_up_leave_no_task_behind(tmp_path: Path) -> None:
    async def give_up(url: str, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split("/")[2].rpartition(":")[2]))
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        if number % 3:
            await reader.read(1000)
        writer.transport.abort() if number % 2 else writer.close()

    async with real_peer(tmp_path) as url, mirror_of(url) as mirror:
        await pull(mirror)
        before = len(asyncio.all_tasks())
        for _ in range(5):
            await asyncio.gather(*(give_up(mirror.url, number) for number in range(40)))
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.02)


async def test_when_nothing_is_left_the_answer_ends_early_with_fin() -> None:
    async with scripted(answering_then(SIZE // 2)) as bad, mirror_of(bad.url) as mirror:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(mirror.url.split("/")[2].rpartition(":")[2]))
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        data = await reader.read()  # a reset would raise
        writer.close()
    assert f"content-length: {SIZE}".encode() in head
    assert data == DATA[: SIZE // 2]


async def test_a_client_that_leaves_ends_the_peers_transfer() -> None:
    ended = asyncio.Event()

    async def endless(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {1000 * SIZE}\r\n\r\n".encode())
        try:
            while True:
                writer.write(DATA)
                await writer.drain()
        except ConnectionError:
            ended.set()

    async with scripted(endless) as peer, mirror_of(peer.url) as mirror:
        session = aiohttp.ClientSession(read_bufsize=1024)
        response = await session.get(mirror.url)
        await response.content.readexactly(1000)
        response.close()
        await session.close()
        async with asyncio.timeout(5):
            await ended.wait()
        assert not mirror.peers._client._idle


async def test_a_client_that_reads_slowly_slows_the_peer_down() -> None:
    given: list[int] = []

    async def counting(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {100 * SIZE}\r\n\r\n".encode())
        for _ in range(100):
            writer.write(DATA)
            await writer.drain()
            given.append(SIZE)

    async with scripted(counting) as peer, mirror_of(peer.url) as mirror:
        async with aiohttp.ClientSession(read_bufsize=1024) as session, session.get(mirror.url) as response:
            await response.content.readexactly(1000)
            await asyncio.sleep(0.3)
            before = len(given)
            await asyncio.sleep(0.3)
            assert len(given) == before < 10
            response.close()


async def test_many_relays_at_once_get_the_right_bytes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(real_peer(tmp_path))
        bad: Scripted = await stack.enter_async_context(scripted(answering_then(SIZE // 3)))
        mirror = await stack.enter_async_context(mirror_of(bad.url, url))
        for data, _ in await asyncio.gather(*(pull(mirror) for _ in range(12))):
            assert hashlib.sha256(data).hexdigest() == DIGEST.hex
