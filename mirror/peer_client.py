"""An HTTP/1.1 client for peers, whose bodies can be moved without being read (`mirror.peer_connection`).

It speaks the little that peers need of each other: GET and HEAD, answers with a Content-Length. The head of an answer
is read here (checked by llhttp, through httptools); the body is left to `mirror.pieces`. A connection is
used again only after the exact end of a body. Whatever a peer can get wrong is an `UnavailableError`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import httptools
from starlette.datastructures import Headers

from mirror import peer_connection
from mirror.errors import UnavailableError
from mirror.http_client import read_length, reason
from mirror.peer_connection import connect, read_place
from mirror.pieces import moved

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from mirror.peer_connection import Connection, Place
    from mirror.peer_tls import PeerTls
    from mirror.pieces import Piece

HEAD_BYTES_MAX: Final = 16 * 1024
IDLE_S: Final = 30.0
"""How long a connection waits for its next use: less than `mirror.http_server.KEEP_ALIVE_S`, so that it is rarely the
peer who closes it."""
IDLE_MAX: Final = 128
"""Idle connections to all peers together; beyond, the one that waits longest is closed."""


class PeerClient:
    """Asks peers, and keeps connections to them until `aclose`. `tls` is for those that speak it."""

    def __init__(self, tls: PeerTls | None = None) -> None:
        self._tls = tls
        self._idle: deque[Connection] = deque()  # the one that waits longest comes first
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close the idle connections; the others close when their answers do."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.popleft().close()

    async def ask(self, url: str, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Send a request to the peer at `url` (`http[s]://<address>:<port>`); its answer, with the first bytes at hand.

        Raises `UnavailableError`. An idle connection may have been closed by the peer just now, so a request that
        got no answer on one goes out again on a new one.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {url.partition('//')[2]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1")
        place = read_place(url)
        connection = self._take(place)
        if connection is not None:
            try:
                return await self._exchange(connection, method, request)
            except _StaleError:
                pass
        tls = self._tls.client_context() if self._tls is not None and place[0] == "https" else None
        return await self._exchange(await connect(place, tls), method, request)

    def keep(self, connection: Connection) -> None:
        """Take back a connection that is at the exact end of an answer."""
        if self._closed:
            connection.close()
            return
        connection.used = True
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if len(self._idle) > IDLE_MAX:
            self._idle.popleft().close()
        if self._timer is None:
            self._sweep()

    def _take(self, place: Place) -> Connection | None:
        for connection in [each for each in reversed(self._idle) if each.place == place]:
            self._idle.remove(connection)
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _sweep(self) -> None:
        """Close the connections that were idle for too long, and come again when the next one is due."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - self._idle[0].idle_since >= IDLE_S:
            self._idle.popleft().close()
        due = self._idle[0].idle_since + IDLE_S if self._idle else None
        self._timer = None if due is None else loop.call_at(due, self._sweep)

    async def _exchange(self, connection: Connection, method: str, request: bytes) -> Answer:
        try:
            async with asyncio.timeout(peer_connection.SILENCE_S):
                await connection.send(request)
                return await self._read_answer(connection, method)
        except TimeoutError as error:
            connection.close()
            raise UnavailableError(f"it did not answer within {peer_connection.SILENCE_S:g} s") from error
        except OSError as error:
            connection.close()
            raise (_StaleError if connection.used else UnavailableError)(reason(error)) from error
        except BaseException:
            connection.close()
            raise

    async def _read_answer(self, connection: Connection, method: str) -> Answer:
        head, ahead = await _read_head(connection)
        if "Transfer-Encoding" in head.headers or head.status < 200:
            raise UnavailableError("its answer is of a kind that peers do not give")
        length = 0 if method == "HEAD" else read_length(head)
        if length is None:
            raise UnavailableError("it answered without a Content-Length")
        if length and not ahead:
            ahead = await connection.receive()
        if len(ahead) > length:
            raise UnavailableError("more came than its Content-Length says")
        return Answer(self, connection, head, length, ahead)


class Answer:
    """A peer's answer: its head, and a body of `length` bytes (a `mirror.source.Body`)."""

    def __init__(self, client: PeerClient, connection: Connection, head: _Head, length: int, ahead: bytes) -> None:
        self.status = head.status
        self.headers = head.headers
        self.length = length
        self._keep_alive = head.keep_alive
        self._client = client
        self._connection = connection
        self._ahead = ahead
        self._left = length - len(ahead)
        self._open = True

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What came with the head, then the rest as it comes; raises `UnavailableError` when the peer breaks off."""
        if self._ahead:
            yield self._ahead
        if self._left:
            async with aclosing(self._connection.body(self._left)) as pieces:
                async for piece in pieces:
                    yield piece
                    self._left -= moved(piece)
            if self._left:
                raise UnavailableError(f"the body broke off: {self._connection.failure}")

    async def aclose(self) -> None:
        """Keep the connection if nothing more will come of this answer, else close it."""
        if not self._open:
            return
        self._open = False
        if self._keep_alive and not self._left:
            self._client.keep(self._connection)
        else:
            self._connection.close()


class _StaleError(UnavailableError):
    """A connection that was idle turned out to be closed."""


class _Head:
    """The status and headers of an answer, as llhttp reads them."""

    def __init__(self) -> None:
        self.headers = Headers()
        self.status = 0
        self.keep_alive = False
        self._raw: list[tuple[bytes, bytes]] = []
        self._parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._raw.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.headers = Headers(raw=self._raw)
        self.status = self._parser.get_status_code()
        self.keep_alive = self._parser.should_keep_alive()

    def feed(self, data: bytes) -> None:
        """Read a head, to its exact end. Raises `UnavailableError`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise UnavailableError(f"its answer is not HTTP: {error}") from error


async def _read_head(connection: Connection) -> tuple[_Head, bytes]:
    """The head of an answer, and what came of the body with it."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise UnavailableError(f"its answer's head has more than {HEAD_BYTES_MAX} bytes")
        data += await connection.receive()
    head = _Head()
    head.feed(data[: end + 4])
    return head, data[end + 4 :]
