"""What the HTTP edge does when its source is slow or breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from mirror import registry as registry_module
from mirror.errors import UnavailableError
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest
from mirror.pieces import Piece
from mirror.registry import create_registry
from mirror.source import Content, Request
from tests.serving import serving

DIGEST = Digest.of(b"x")
SIZE = 1_000_000


class Body:
    """Gives half of what it promised, then breaks off, or goes on for as long as somebody reads."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.closed = asyncio.Event()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        while True:
            yield b"x" * (SIZE // 2)
            if self.breaks:
                raise UnavailableError("broke off")
            await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        self.closed.set()


class Source:
    def __init__(self, body: Body | None, size: int | None = SIZE) -> None:
        self.body = body
        self.size = size

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, request.digest, self.size)

    async def open(self, request: Request) -> Content:
        if self.body is None:
            await asyncio.sleep(30)
        assert self.body is not None
        positions = None if self.size is None else range(self.size)
        return Content(Descriptor(OCTET_STREAM, request.digest, self.size), positions, self.body, "peer", "b")


def url(base: str) -> str:
    return f"{base}/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


async def test_no_source_in_time_is_503_so_that_the_runtime_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "ANSWER_S_MAX", 0.2)
    app = create_registry(Source(None), Metrics().face("client"))
    async with serving(app) as base, aiohttp.ClientSession() as session, session.get(url(base)) as response:
        assert response.status == 503
        assert (await response.json())["errors"][0]["code"] == "UNAVAILABLE"


async def test_a_body_that_breaks_off_ends_with_fin_and_never_with_a_reset() -> None:
    metrics = Metrics()
    body = Body(breaks=True)
    async with serving(create_registry(Source(body), metrics.face("client"))) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.write(f"GET {url(base).removeprefix(base)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        data = await reader.read(-1)  # a reset would raise
        writer.close()
    assert head.startswith(b"HTTP/1.1 200")
    assert f"content-length: {SIZE}".encode() in head.lower()
    assert len(data) == SIZE // 2
    assert body.closed.is_set()
    assert metrics.incomplete.labels("client", "peer")._value.get() == 1


async def test_a_client_that_leaves_ends_the_transfer() -> None:
    body = Body(breaks=False)
    async with serving(create_registry(Source(body, None), Metrics().face("client"))) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.write(f"GET {url(base).removeprefix(base)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1000)
        writer.transport.abort()
        async with asyncio.timeout(5):
            await body.closed.wait()


async def test_an_object_of_unknown_size_is_sent_without_a_length() -> None:
    app = create_registry(Source(Body(breaks=True), None), Metrics().face("client"))
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.head(url(base)) as head:
            assert "Content-Length" not in head.headers
        async with session.get(url(base)) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
