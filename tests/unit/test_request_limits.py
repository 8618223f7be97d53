"""A face takes requests of a bounded size, that arrive in a bounded time, on a bounded number of connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from mirror import http_server, request_limits
from mirror.request_limits import BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, PIPELINED_MAX, URL_BYTES_MAX
from tests.serving import pouring, serving


class Refusals(Counter[str]):
    """Counts refusals by reason."""

    def refused(self, reason: str) -> None:
        self[reason] += 1


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says no to what is no GET, and "ok" otherwise."""
    status = 200 if scope["method"] == "GET" else 405
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def face() -> AsyncGenerator[tuple[str, Refusals]]:
    refusals = Refusals()
    async with serving(app, observer=refusals) as url:
        yield url, refusals


class Client:
    """A connection, on which any bytes can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncGenerator[Client]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def status(self) -> int:
        """The status of the next answer, whose body is read too; 0 when the connection is closed instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self.reader.readexactly(length)
        return int(head.split()[1])

    async def closed(self, within_s: float = 5) -> bool:
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


def get(path: str = "/", headers: Iterable[str] = (), method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


FITTING = {
    "a long URL": get("/" + "a" * (URL_BYTES_MAX - 1)),
    "many headers": get(headers=[f"x-{number}: y" for number in range(HEADERS_MAX - 1)]),
    "a large token": get(headers=[f"Authorization: Bearer {'t' * 16 * 1024}"]),
    "a body of no bytes": get(headers=["Content-Length: 0"]),
}


@pytest.mark.parametrize("request_", FITTING.values(), ids=FITTING.keys())
async def test_what_is_within_the_limits_is_answered_again_and_again(request_: bytes) -> None:
    async with face() as (url, refusals), Client.to(url) as client:
        for _ in range(3):
            client.writer.write(request_)
            assert await client.status() == 200
    assert not refusals


TOO_LARGE = {
    "url": (get("/" + "a" * URL_BYTES_MAX), 414),
    "query": (get("/?" + "a" * URL_BYTES_MAX), 414),
    "one header": (get(headers=[f"x: {'y' * HEAD_BYTES_MAX}"]), 431),
    "all headers": (get(headers=[f"x-{number}: {'y' * 1000}" for number in range(70)]), 431),
    "number of headers": (get(headers=[f"x-{number}: y" for number in range(HEADERS_MAX)]), 431),
    "a header without an end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 2 * HEAD_BYTES_MAX, 431),
    "a URL without an end": (b"GET /" + b"y" * 2 * HEAD_BYTES_MAX, 431),
    "a GET with a body": (get(headers=["Content-Length: 5"]) + b"hello", 413),
    "a GET with a body in chunks": (get(headers=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n", 413),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "two lengths": (get(headers=["Content-Length: 0", "Content-Length: 1"]), 400),
    "a length and chunks": (get(headers=["Content-Length: 5", "Transfer-Encoding: chunked"], method="POST"), 400),
    "a header split by a line end": (b"GET / HTTP/1.1\r\nx: a\n b\r\nHost\r\n: y\r\n\r\n", 400),
    "a path in bytes that are no ASCII": (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
}


@pytest.mark.parametrize(("request_", "status"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_what_is_over_a_limit_or_malformed_is_told_counted_and_cut_off(request_: bytes, status: int) -> None:
    async with face() as (url, refusals), Client.to(url) as client:
        client.writer.write(request_)
        answer = await client.status()
        assert answer == status or (answer == 0 and len(request_) > HEAD_BYTES_MAX), "a reset may overtake the answer"
        assert await client.closed()
        assert sum(refusals.values()) == 1


async def test_a_push_is_answered_and_its_body_read_up_to_a_limit() -> None:
    async with face() as (url, refusals):
        async with Client.to(url) as client:
            client.writer.write(get(headers=["Content-Length: 100000"], method="PUT") + bytes(100_000))
            assert await client.status() == 405
            client.writer.write(get())
            assert await client.status() == 200
            assert not refusals
        async with Client.to(url) as client:
            client.writer.write(get(headers=[f"Content-Length: {10**12}"], method="PUT"))
            assert await client.status() == 405
            for _ in range(BODY_BYTES_MAX // 65536 + 1):
                client.writer.write(bytes(65536))
            assert await client.closed()
    assert refusals == {"body": 1}


async def test_a_head_in_small_pieces_is_answered_and_one_that_takes_too_long_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_limits, "REQUEST_S_MAX", 0.4)
    async with face() as (url, refusals):
        async with Client.to(url) as client:
            for byte in get():
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert await client.status() == 200
        for lead, drops in ((b"", b"\r\n"), (b"GET / HTTP/1.1\r\nx: ", b"y")):
            async with Client.to(url) as client:
                client.writer.write(lead)
                async with asyncio.timeout(2):
                    while not client.reader.at_eof():  # something now and then, as a slow loris does
                        client.writer.write(drops)
                        await asyncio.sleep(0.05)
    assert refusals == {"slow": 2}


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "REQUEST_S_MAX", 0.2)
    async with face() as (url, refusals), Client.to(url) as client:
        assert await client.closed()
    assert refusals == {"slow": 1}


async def test_a_connection_that_is_idle_after_an_answer_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "REQUEST_S_MAX", 0.1)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 1)
    async with face() as (url, refusals), Client.to(url) as client:
        client.writer.write(get())
        assert await client.status() == 200
        await asyncio.sleep(0.4)
        client.writer.write(get())
        assert await client.status() == 200, "the limit of a request is none of idleness"
        assert await client.closed()
    assert not refusals


async def test_a_full_face_closes_the_connection_that_is_idle_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "CONNECTIONS_MAX", 2)
    async with face() as (url, refusals):
        async with Client.to(url) as first, Client.to(url) as second:
            for client in (first, second, first):
                client.writer.write(get())
                assert await client.status() == 200
                await asyncio.sleep(0.01)  # more than the clock of any event loop is coarse
            async with Client.to(url) as third:
                third.writer.write(get())
                assert await third.status() == 200
                assert await second.closed()
                first.writer.write(get())
                assert await first.status() == 200
    assert refusals == {"connections": 1}


async def test_a_face_full_of_answers_closes_the_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "CONNECTIONS_MAX", 1)
    going_on = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await going_on.wait()
        await app(scope, receive, send)

    refusals = Refusals()
    async with serving(slow, observer=refusals) as url, Client.to(url) as first:
        first.writer.write(get())
        await asyncio.sleep(0.1)
        async with Client.to(url) as second:
            assert await second.closed()
        going_on.set()
        assert await first.status() == 200
    assert refusals == {"connections": 1}


async def test_pipelined_requests_are_answered_in_order_up_to_a_limit() -> None:
    async with face() as (url, refusals):
        async with Client.to(url) as client:
            client.writer.write(get() * PIPELINED_MAX)
            assert [await client.status() for _ in range(PIPELINED_MAX)] == [200] * PIPELINED_MAX
        async with Client.to(url) as client:
            client.writer.write(get() * 1000)
            await client.reader.read()
    assert refusals == {"pipeline": 1}


async def test_what_is_wrong_with_a_later_request_does_not_get_into_the_answer_before() -> None:
    started = asyncio.Event()

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"a" * 10, "more_body": True})
        started.set()
        await asyncio.sleep(1)

    async with serving(long) as url, Client.to(url) as client:
        client.writer.write(get())
        await started.wait()
        client.writer.write(b"\x00\x00\r\n\r\n")
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"a" * 10


BODY = bytes(16_000_000)


async def whole(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Gives the body in one message, which the connection does not take at once."""
    length = str(len(BODY)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": BODY})


async def test_a_client_that_does_not_take_its_answer_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "STALL_S", 0.2)
    async with serving(whole) as url, Client.to(url) as client:
        client.writer.write(get())
        await asyncio.sleep(0.6)
        received = 0
        with suppress(ConnectionError):
            while chunk := await client.reader.read(1_000_000):
                received += len(chunk)
        assert received < len(BODY)


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "STALL_S", 0.4)
    async with serving(whole) as url, Client.to(url) as client:
        client.writer.write(get())
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await client.reader.readexactly(1_000_000)
            await asyncio.sleep(0.05)


async def test_an_app_does_not_wait_without_end_for_a_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_limits, "STALL_S", 0.2)
    ended = asyncio.Event()

    async with serving(pouring(ended)) as url, Client.to(url) as client:
        client.writer.write(get())
        async with asyncio.timeout(5):
            await ended.wait()
