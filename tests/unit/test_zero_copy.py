"""Bytes that a server moves without reading them, over real sockets: files by sendfile, connections by splice."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import random
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mirror import http_server, movers, pipes, zero_copy
from mirror.extensions import SPLICE, ZERO_COPY_SEND, ClientGoneError, EndedEarlyError
from tests.serving import HOST, free_port, serving

MEGABYTE = 1024 * 1024
DATA = random.Random(3).randbytes(9 * MEGABYTE + 7)
"""More than the kernel buffers for a client that reads nothing (tcp_wmem is 4 MiB at most by default)."""
HELLO = b"hello"
PIPE = 2
"""The descriptors of a pipe: one that was used last may wait for its next use."""


def request(path: str, method: str = "GET", *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@dataclass
class Client:
    """A raw HTTP client that sees how its connection ends."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *requests: bytes) -> None:
        self.writer.write(b"".join(requests))
        await self.writer.drain()

    async def head(self) -> dict[str, str]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        return {"status": lines[0].split(" ")[1], **dict(line.split(": ", 1) for line in lines[1:] if line)}

    async def answer(self) -> bytes:
        return await self.reader.readexactly(int((await self.head())["content-length"]))

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def client(url: str, receive_bytes: int = 0) -> AsyncGenerator[Client]:
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", int(url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=raw)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@dataclass
class App:
    """Answers `/file` from a file and `/socket` from one end of a socket pair, by whatever the server offers."""

    file: Path
    feed: Callable[[socket.socket], None] = lambda source: None
    silence_s: float = 5.0
    errors: list[ClientGoneError | EndedEarlyError] = field(default_factory=list)
    running: int = 0
    keeps_up: Callable[[], bool] = lambda: False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            assert {ZERO_COPY_SEND, SPLICE} <= scope["extensions"].keys()
            self.keeps_up = scope["extensions"][SPLICE]["keeps_up"]
            await {"/file": self.send_file, "/socket": self.send_socket, "/hello": self.send_hello}[scope["path"]](send)
        except (ClientGoneError, EndedEarlyError) as error:
            self.errors.append(error)
        finally:
            self.running -= 1

    async def start(self, send: Send, length: int) -> None:
        headers = [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_hello(self, send: Send) -> None:
        await self.start(send, len(HELLO))
        await send({"type": "http.response.body", "body": HELLO})

    async def send_file(self, send: Send) -> None:
        with self.file.open("rb") as file:
            await self.start(send, len(DATA))
            await send({"type": ZERO_COPY_SEND, "file": file})

    async def send_socket(self, send: Send) -> None:
        source, end = socket.socketpair()
        feeder = asyncio.create_task(asyncio.to_thread(self.feed, end))
        source.setblocking(False)
        try:
            await self.start(send, len(DATA))
            await send({"type": SPLICE, "socket": source, "count": len(DATA), "silence_s": self.silence_s})
        finally:
            source.close()
            await feeder
            end.close()


def feed_all(end: socket.socket) -> None:
    try:
        end.sendall(DATA)
    except OSError:
        return


def feed_half(end: socket.socket) -> None:
    end.sendall(DATA[: len(DATA) // 2])
    end.close()


@pytest.fixture
def app(tmp_path: Path) -> App:
    file = tmp_path / "blob"
    file.write_bytes(DATA)
    return App(file, feed_all)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/file", "/socket"])
async def test_bytes_arrive_unchanged_and_the_connection_is_used_again(app: App, path: str) -> None:
    async with serving(app) as url, client(url) as http:
        for _ in range(3):
            await http.ask(request(path))
            assert await http.answer() == DATA
            await http.ask(request("/hello"))
            assert await http.answer() == HELLO


async def test_a_part_of_a_file_is_sent_and_the_answer_can_have_other_bytes_around_it(app: App) -> None:
    async def around(send: Send) -> None:
        await app.start(send, 5 + 1000 + 5)
        await send({"type": "http.response.body", "body": HELLO, "more_body": True})
        with app.file.open("rb") as file:
            await send({"type": ZERO_COPY_SEND, "file": file.fileno(), "offset": 77, "count": 1000, "more_body": True})
        await send({"type": "http.response.body", "body": HELLO})

    app.send_hello = around  # type: ignore[method-assign]
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/hello"))
        assert await http.answer() == HELLO + DATA[77:1077] + HELLO


async def test_a_head_moves_nothing(app: App) -> None:
    async with serving(app) as url, client(url) as http:
        for path in ("/file", "/file"):
            await http.ask(request(path, "HEAD"))
            assert (await http.head())["content-length"] == str(len(DATA))
        await http.ask(request("/hello"))
        assert await http.answer() == HELLO


async def test_pipelined_requests_are_answered_in_order_also_during_a_transfer(app: App) -> None:
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request("/file"), request("/hello"), request("/socket"))
        await until(lambda: app.running == 1)
        await http.ask(request("/hello"), request("/file"))
        for expected in (DATA, HELLO, DATA, HELLO, DATA):
            assert await http.answer() == expected


async def test_a_client_that_asks_to_close_sees_all_bytes_then_the_end(app: App) -> None:
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/file", "GET", "Connection: close"))
        assert await http.answer() == DATA
        assert await http.reader.read() == b""


@pytest.mark.parametrize("path", ["/file", "/socket"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_clients_that_leave_leave_nothing_behind(app: App, path: str, *, reset: bool) -> None:
    async with serving(app) as url:
        async with client(url) as http:  # the first connection of a loop costs it descriptors of its own
            await http.ask(request("/hello"))
            await http.answer()
        before = descriptors()
        for number in range(20):
            async with client(url, 65536) as http:
                await http.ask(request(path))
                await http.reader.readexactly(1 + number)
                if reset:
                    http.reset()
            await until(lambda: not app.running)
        await until(lambda: descriptors() <= before + PIPE)
        assert len(app.errors) == 20
        assert {type(error) for error in app.errors} == {ClientGoneError}
        assert max(error.sent for error in app.errors) < len(DATA)


@pytest.mark.parametrize("path", ["/file", "/socket"])
async def test_a_client_that_reads_only_the_beginning_costs_little_more_than_that(app: App, path: str) -> None:
    async with serving(app) as url:
        async with client(url, 65536) as http:
            await http.ask(request(path))
            await http.reader.readexactly(1000)
            await asyncio.sleep(0.3)
        await until(lambda: not app.running)
    # What asyncio's reader and the kernel's buffer on this side take is not asked for, but taken.
    assert 0 < app.errors[0].sent < zero_copy.UNSENT_BYTES_MAX + MEGABYTE


async def test_it_is_told_whether_a_client_keeps_up(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_copy, "JUST_NOW_MS", 60_000)
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request("/file"))
        length = int((await http.head())["content-length"])
        await until(lambda: app.running > 0)
        assert not app.keeps_up()
        await http.reader.readexactly(length)
        await until(app.keeps_up)
        monkeypatch.setattr(zero_copy, "JUST_NOW_MS", -1)
        assert not app.keeps_up()


@pytest.mark.parametrize("path", ["/file", "/socket"])
async def test_a_client_that_takes_nothing_for_too_long_is_dropped(
    app: App, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movers, "STALL_S", 0.3)
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request(path))
        await until(lambda: not app.running and bool(app.errors))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await http.answer()


async def test_a_slow_client_is_not_a_stalled_one(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movers, "STALL_S", 0.4)
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request("/file"))
        length = int((await http.head())["content-length"])
        for start in range(0, length, MEGABYTE // 2):
            await asyncio.sleep(0.1)
            await http.reader.readexactly(min(MEGABYTE // 2, length - start))
    assert app.errors == []


async def test_readers_that_stand_still_hold_up_nobody(app: App) -> None:
    async with serving(app) as url:
        stalled = [client(url, 65536) for _ in range(40)]
        readers = [await each.__aenter__() for each in stalled]
        for number, reader in enumerate(readers):
            await reader.ask(request("/file" if number % 2 else "/socket"))
        async with asyncio.timeout(5), client(url) as http:
            await http.ask(request("/file"))
            assert await http.answer() == DATA
        for each in stalled:
            await each.__aexit__(None, None, None)


async def test_many_at_once_get_the_right_bytes(app: App) -> None:
    async def get(url: str, path: str) -> None:
        async with client(url) as http:
            for _ in range(2):
                await http.ask(request(path))
                assert hashlib.sha256(await http.answer()).digest() == hashlib.sha256(DATA).digest()

    async with serving(app) as url, asyncio.TaskGroup() as tasks:
        for number in range(16):
            tasks.create_task(get(url, "/file" if number % 2 else "/socket"))


async def test_a_file_that_became_shorter_ends_the_answer_early_with_fin(app: App) -> None:
    with app.file.open("r+b") as file:
        file.truncate(MEGABYTE + 1)

    async def whole(send: Send) -> None:
        await app.start(send, len(DATA))
        with app.file.open("rb") as file:
            await send({"type": ZERO_COPY_SEND, "file": file, "offset": 0, "count": len(DATA)})

    app.send_hello = whole  # type: ignore[method-assign]
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/hello"))
        await http.head()
        assert await http.reader.read() == DATA[: MEGABYTE + 1]  # a reset would raise
    (error,) = app.errors
    assert isinstance(error, EndedEarlyError)
    assert error.sent == MEGABYTE + 1


async def test_a_file_deleted_meanwhile_is_sent_to_its_end(app: App) -> None:
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request("/file"))
        await until(lambda: app.running == 1)
        app.file.unlink()
        assert await http.answer() == DATA


async def test_a_source_that_breaks_off_delivers_what_it_gave_and_says_how_much(app: App) -> None:
    app.feed = feed_half
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/socket"))
        await http.head()
        assert await http.reader.read() == DATA[: len(DATA) // 2]
    (error,) = app.errors
    assert isinstance(error, EndedEarlyError)
    assert error.sent == len(DATA) // 2


async def test_a_source_that_falls_silent_has_broken_off(app: App) -> None:
    app.silence_s = 0.2
    app.feed = lambda end: end.sendall(b"x" * 1000)
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/socket"))
        await until(lambda: bool(app.errors))
    assert isinstance(app.errors[0], EndedEarlyError)
    assert app.errors[0].sent == 1000


async def test_a_client_that_pauses_is_not_the_sources_silence(app: App) -> None:
    app.silence_s = 0.2
    async with serving(app) as url, client(url, 65536) as http:
        await http.ask(request("/socket"))
        await asyncio.sleep(0.6)
        assert await http.answer() == DATA


async def test_no_more_bytes_are_taken_from_the_source_than_asked_for(app: App) -> None:
    source, end = socket.socketpair()

    async def part(send: Send) -> None:
        await app.start(send, 3)
        await send({"type": SPLICE, "socket": source, "count": 3, "silence_s": 1})

    source.setblocking(False)
    app.send_hello = part  # type: ignore[method-assign]
    with source, end:
        end.sendall(b"123456")
        async with serving(app) as url, client(url) as http:
            await http.ask(request("/hello"))
            assert await http.answer() == b"123"
        assert source.recv(10) == b"456"


async def test_without_a_pipe_the_bytes_are_read_and_sent(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PIPES_MAX", 0)
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/socket"), request("/hello"))
        assert await http.answer() == DATA
        assert await http.answer() == HELLO


@pytest.mark.parametrize("says", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["cold", "untold"])
async def test_a_window_that_may_have_to_come_from_the_disk_is_read_by_a_thread(
    app: App, monkeypatch: pytest.MonkeyPatch, says: int
) -> None:
    asked: list[int] = []
    read: list[int] = []
    read_ahead = movers._read_ahead

    def cold(descriptor: int, buffers: list[bytearray], position: int, flags: int) -> int:
        asked.append(position)
        raise OSError(says, "it is cold")

    def noted(file: int, position: int, size: int) -> None:
        read.append(position)
        read_ahead(file, position, size)

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(movers, "_read_ahead", noted)
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/file"))
        assert await http.answer() == DATA
    assert len(asked) == -(-len(DATA) // movers.WINDOW_BYTES), "each window was looked at once"
    assert read == asked


async def test_a_disk_that_does_not_answer_is_given_up(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def cold(descriptor: int, buffers: list[bytearray], position: int, flags: int) -> int:
        raise BlockingIOError

    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(descriptor: int, position: int, size: int, advice: int) -> None:
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(5)

    monkeypatch.setattr(movers, "DISK_S", 0.2)
    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(os, "posix_fadvise", hang)
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/file"))
        await until(lambda: bool(app.errors))
        assert isinstance(app.errors[0], EndedEarlyError)
        released.set()


async def test_an_answer_without_a_length_or_with_too_many_bytes_is_refused(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(send: Send) -> None:
        await app.start(send, 3)
        with app.file.open("rb") as file:
            await send({"type": ZERO_COPY_SEND, "file": file})

    app.send_hello = wrong  # type: ignore[method-assign]
    async with serving(app) as url, client(url) as http:
        await http.ask(request("/hello"))
        await http.head()
        assert await http.reader.read() == b""
    assert "longer than Content-Length" in caplog.text


async def test_a_stopping_server_lets_a_running_transfer_end(app: App) -> None:
    server = http_server.HttpServer(app, HOST, free_port(), 5)
    server.bind()
    task = asyncio.create_task(server.serve())
    async with client(f"http://{HOST}:{server.port}", 65536) as http:
        await http.ask(request("/file"))
        await until(lambda: app.running == 1)
        server.stop()
        assert await http.answer() == DATA
    await task


def test_this_uvicorn_has_what_is_used_of_it() -> None:
    assert zero_copy.MISMATCH == ""


async def test_a_uvicorn_that_differs_serves_without_zero_copy_and_says_so(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(HttpToolsProtocol, "_start_asgi_task")
        assert zero_copy.mismatch() == "_start_asgi_task(cycle, app)"
    monkeypatch.setattr(http_server, "MISMATCH", "_start_asgi_task(cycle, app)")

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        assert "extensions" not in scope
        await app.send_hello(send)

    with caplog.at_level(logging.ERROR):
        async with serving(plain) as url, client(url) as http:
            await http.ask(request("/hello"))
            assert await http.answer() == HELLO
    assert "_start_asgi_task" in caplog.text


async def test_a_client_that_left_before_the_answer_began_is_gone_and_no_error(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    left, asked = asyncio.Event(), asyncio.Event()

    async def late(send: Send) -> None:
        asked.set()
        await left.wait()
        with app.file.open("rb") as file:
            await app.start(send, len(DATA))
            await send({"type": ZERO_COPY_SEND, "file": file})

    app.send_hello = late  # type: ignore[method-assign]
    async with serving(app) as url:
        async with client(url) as http:
            await http.ask(request("/hello"))
            await asked.wait()
        await asyncio.sleep(0.1)  # the server hears that it left
        left.set()
        await until(lambda: bool(app.errors))
    assert isinstance(app.errors[0], ClientGoneError)
    assert "Exception" not in caplog.text
