"""The client that asks peers: when a connection is used again, and everything that a peer can get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from mirror import peer_client, peer_connection
from mirror.errors import UnavailableError
from mirror.peer_client import HEAD_BYTES_MAX, Answer, PeerClient
from mirror.source import read_all
from tests.serving import HOST, free_port

BODY = b"0123456789" * 10
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + BODY

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Peer:
    """A server that keeps its connections open and counts them."""

    url: str
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


@asynccontextmanager
async def peer(*parts: bytes, pause_s: float = 0.0) -> AsyncGenerator[Peer]:
    """A peer that answers each request with these parts, one packet each."""
    port = free_port()
    told = Peer(f"http://{HOST}:{port}")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        told.writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                told.requests.append(await reader.readuntil(b"\r\n\r\n"))
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(pause_s)

    server = await asyncio.start_server(serve, HOST, port)
    try:
        yield told
    finally:
        server.close()
        for writer in told.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def client() -> AsyncGenerator[PeerClient]:
    made = PeerClient()
    try:
        yield made
    finally:
        await made.aclose()


async def get(client: PeerClient, peer: Peer, method: str = "GET") -> Answer:
    return await client.ask(peer.url, method, "/v2/", {})


async def read(answer: Answer) -> bytes:
    return await read_all(answer, 10_000)


async def test_a_request_is_a_line_the_host_and_the_headers_given() -> None:
    async with peer(GOOD) as server, client() as http:
        await (await http.ask(server.url, "GET", "/v2/x?ns=y", {"Range": "bytes=0-"})).aclose()
        host = server.url.removeprefix("http://")
        assert server.requests == [f"GET /v2/x?ns=y HTTP/1.1\r\nHost: {host}\r\nRange: bytes=0-\r\n\r\n".encode()]


@pytest.mark.parametrize("parts", [[GOOD], [GOOD[:10], GOOD[10:50], GOOD[50:]], [GOOD[:42], GOOD[42:]]])
async def test_an_answer_is_read_however_it_is_cut(parts: list[bytes]) -> None:
    async with peer(*parts, pause_s=0.01) as server, client() as http:
        answer = await get(http, server)
        assert (answer.status, answer.length, answer.headers["content-length"]) == (200, 100, "100")
        assert await read(answer) == BODY


async def test_a_connection_is_used_again_after_the_exact_end_of_a_body() -> None:
    async with peer(GOOD) as server, client() as http:
        for _ in range(5):
            assert await read(await get(http, server)) == BODY
        assert server.connections == 1


async def test_a_head_has_no_body_and_its_connection_is_used_again() -> None:
    async with peer(GOOD[:-100]) as server, client() as http:
        for _ in range(3):
            answer = await get(http, server, "HEAD")
            assert answer.length == 0
            await answer.aclose()
        assert server.connections == 1


async def test_a_connection_in_use_is_nobody_elses() -> None:
    async with peer(GOOD) as server, client() as http:
        first, second = await get(http, server), await get(http, server)
        assert await read(second) == await read(first) == BODY
        assert server.connections == 2


async def test_an_answer_left_half_way_closes_its_connection() -> None:
    async with peer(GOOD[:-50], GOOD[-50:], pause_s=0.05) as server, client() as http:
        answer = await get(http, server)
        async with aclosing(answer.pieces()) as pieces:
            await anext(pieces)
        await answer.aclose()
        assert await read(await get(http, server)) == BODY
        assert server.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n",
    ],
)
async def test_a_peer_that_wants_no_second_request_gets_none(head: bytes) -> None:
    async with peer(head + BODY) as server, client() as http:
        for _ in range(2):
            assert await read(await get(http, server)) == BODY
        assert server.connections == 2


async def test_a_connection_that_the_peer_closed_meanwhile_is_replaced() -> None:
    async with peer(GOOD) as server, client() as http:
        await read(await get(http, server))
        server.writers[0].close()
        await asyncio.sleep(0.05)
        assert await read(await get(http, server)) == BODY
        assert server.connections == 2


async def test_a_request_that_meets_a_closing_connection_goes_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(GOOD) as server, client() as http:
        await read(await get(http, server))
        server.writers[0].transport.abort()
        await asyncio.sleep(0.05)
        monkeypatch.setattr(
            peer_connection.PlainConnection, "is_quiet", lambda _: True
        )  # it closes right after the look
        assert await read(await get(http, server)) == BODY
        assert server.connections == 2


async def test_a_connection_is_not_kept_for_longer_than_the_peer_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "IDLE_S", 0.05)
    async with peer(GOOD) as server, client() as http:
        await read(await get(http, server))
        await asyncio.sleep(0.2)
        assert not http._idle
        assert http._timer is None
        await read(await get(http, server))
        assert server.connections == 2


async def test_only_so_many_connections_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "IDLE_MAX", 3)
    async with peer(GOOD) as server, client() as http:
        for answer in [await get(http, server) for _ in range(5)]:
            await read(answer)
        assert len(http._idle) == 3


async def test_an_answer_that_ends_after_the_client_closed_keeps_nothing() -> None:
    async with peer(GOOD) as server:
        async with client() as http:
            answer = await get(http, server)
        assert await read(answer) == BODY
        assert not http._idle


BAD = {
    "nonsense": b"lalala\r\n\r\n",
    "a status that is none": b"HTTP/1.1 2000 OK\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "more than its length": GOOD + b"x",
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX * 2,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no first byte": GOOD[:-100],
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_is_of_no_use(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "SILENCE_S", 0.3)
    async with peer(answer) as server, client() as http:
        with pytest.raises(UnavailableError):
            await get(http, server)
        assert not http._idle


async def test_a_peer_that_is_silent_in_the_middle_of_a_body_has_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "BODY_SILENCE_S", 0.2)
    async with peer(GOOD[:-1]) as server, client() as http:
        with pytest.raises(UnavailableError, match="silent"):
            await read(await get(http, server))


async def test_a_peer_that_cannot_be_reached_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client() as http:
        with pytest.raises(UnavailableError, match="Refused"):
            await http.ask(f"http://{HOST}:{free_port()}", "GET", "/", {})

        async def never(*_: object) -> None:
            await asyncio.sleep(30)

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
        monkeypatch.setattr(peer_connection, "CONNECT_S", 0.1)
        with pytest.raises(UnavailableError, match="within"):
            await http.ask(f"http://{HOST}:1", "GET", "/", {})


@pytest.mark.parametrize("url", ["http://name:80", "http://10.0.0.1:99999", "http://[::1", "", "http://"])
async def test_what_is_no_address_and_port_is_not_asked(url: str) -> None:
    async with client() as http:
        with pytest.raises(UnavailableError, match="reached"):
            await http.ask(url, "GET", "/", {})
