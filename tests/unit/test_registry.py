"""What the HTTP edge does when its source is slow or breaks off, or says what is no text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from mirror import registry as registry_module
from mirror.errors import UnavailableError
from mirror.load import read_names
from mirror.metrics import Metrics
from mirror.oci import OCTET_STREAM, Descriptor, Digest
from mirror.pieces import Piece
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.source import Content, Request
from mirror.upstream import Upstream
from tests.serving import Scripted, answering, scripted, serving

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
    def __init__(self, body: Body | None, size: int | None = SIZE, holder: str = "b") -> None:
        self.body = body
        self.size = size
        self.holder = holder

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, request.digest, self.size)

    async def open(self, request: Request) -> Content:
        if self.body is None:
            await asyncio.sleep(30)
        assert self.body is not None
        positions = None if self.size is None else range(self.size)
        return Content(Descriptor(OCTET_STREAM, request.digest, self.size), positions, self.body, "peer", self.holder)


@asynccontextmanager
async def mirror_of(server: Scripted) -> AsyncGenerator[aiohttp.ClientSession]:
    """A client of a mirror of a registry."""
    async with Upstream(Registries({"registry.test": (Endpoint(server.url),)})) as upstream:
        app = create_registry(upstream, Metrics().face("client"), lists=upstream)
        async with serving(app) as base, aiohttp.ClientSession(base) as session:
            yield session


def url(base: str) -> str:
    return f"{base}/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


async def test_no_source_in_time_is_503_so_that_the_runtime_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "ANSWER_S_MAX", 0.2)
    app = create_registry(Source(None), Metrics().face("client"))
    async with serving(app) as base, aiohttp.ClientSession() as session, session.get(url(base)) as response:
        assert response.status == 503
        assert (await response.json())["errors"][0]["code"] == "UNAVAILABLE"


CHALLENGES = {
    "ascii": b'Bearer realm="https://auth.test/token"',
    "utf-8 that is latin-1 too": 'Basic realm="für"'.encode(),
    "utf-8 beyond latin-1": 'Basic realm="Zażółć"'.encode(),
    "latin-1": 'Basic realm="für"'.encode("latin-1"),
    "no text at all": bytes(byte for byte in range(0x20, 0x100) if byte != 0x7F),
}


@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=CHALLENGES.keys())
@pytest.mark.parametrize("path", ["blobs/" + str(DIGEST), "manifests/v1", "tags/list"])
async def test_a_challenge_is_relayed_byte_for_byte(challenge: bytes, path: str) -> None:
    refusal = [f"WWW-Authenticate: {challenge.decode('latin-1').strip()}", "Content-Length: 0"]
    async with scripted(answering("401 Unauthorized", refusal)) as server, mirror_of(server) as session:
        async with session.get(f"/v2/lib/app/{path}?ns=registry.test") as response:
            assert response.status == 401
            values = [value for name, value in response.raw_headers if name.lower() == b"www-authenticate"]
    assert values == [challenge.strip()]


@pytest.mark.parametrize("header", ["Location: http://[\xff", "Location: http://\xff\xff:x/"])
@pytest.mark.parametrize("path", ["blobs/" + str(DIGEST), "manifests/v1", "tags/list"])
async def test_a_redirect_that_is_no_text_is_503(header: str, path: str) -> None:
    async with scripted(answering("302 Found", [header, "Content-Length: 0"])) as server, mirror_of(server) as session:
        async with session.get(f"/v2/lib/app/{path}?ns=registry.test") as response:
            assert response.status == 503
            assert (await response.json())["errors"][0]["code"] == "UNAVAILABLE"


async def test_a_list_whose_headers_are_no_text_is_passed_on() -> None:
    headers = [
        "Content-Type: application/json; charset=\xff",
        "OCI-Filters-Applied: \xff",
        'Link: </v2/lib/app/tags/list?last=\xff>; rel="next"',
        "Content-Length: 2",
    ]
    async with scripted(answering("200 OK", headers, b"{}")) as server, mirror_of(server) as session:
        async with session.get("/v2/lib/app/tags/list?ns=registry.test") as response:
            assert response.status == 200
            given = dict(response.raw_headers)
    assert given[b"content-type"].endswith(b"=\xff")
    assert given[b"oci-filters-applied"] == b"\xff"
    assert given[b"link"] == b'</v2/lib/app/tags/list?last=%FF&ns=registry.test>; rel="next"'


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


async def test_a_holder_may_have_any_name() -> None:
    body = Body(breaks=True)
    app = create_registry(Source(body, None, "nod ett, \u0159\u2603"), Metrics().face("client"))
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.get(url(base)) as response:
            assert response.status == 200
            assert read_names(response.headers["Skvaller-Holder"], 1) == ("nod ett, \u0159\u2603",)
    assert body.closed.is_set()


async def test_an_object_of_unknown_size_is_sent_without_a_length() -> None:
    app = create_registry(Source(Body(breaks=True), None), Metrics().face("client"))
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.head(url(base)) as head:
            assert "Content-Length" not in head.headers
        async with session.get(url(base)) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
