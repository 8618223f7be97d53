"""A connection to a peer, in the clear or under TLS: bytes out, bytes in, and a body.

In the clear the body stays in the socket and can be moved without being read. Under TLS it has to pass through this
process to be decrypted.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from mirror.errors import UnavailableError
from mirror.http_client import reason
from mirror.pieces import SocketPiece

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    from mirror.pieces import Piece

CONNECT_S: Final = 1.0
HANDSHAKE_S: Final = 2.0
"""For TLS on top of it: a round trip, and the other side's signature."""
SILENCE_S: Final = 3.0
"""How long a peer may take to answer with its first bytes. A stopped process still accepts connections (its kernel
does), so this is what finds it out."""
BODY_SILENCE_S: Final = 15.0
"""How long a body may be silent: its giver may wait for bytes itself, and if it were left so would be all below it. One
that is stopped, or holds back what it has, is left much sooner by whoever watches it (`mirror.floor`)."""
READ_BYTES: Final = 16 * 1024
"""How much is asked for while a head is read. What comes of the body with it goes through Python."""
CHUNK_BYTES: Final = 256 * 1024

Place = tuple[str, str, int]
"""Scheme (`http` or `https`), address and port."""


class Connection(Protocol):
    """What both kinds have in common."""

    place: Place
    used: bool
    """Whether it has had an answer before."""
    idle_since: float
    failure: str
    """Why the body ended early."""

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises `OSError`."""
        ...

    async def receive(self) -> bytes:
        """Some bytes, at least one. Raises `OSError`; `ConnectionResetError` at the end."""
        ...

    def body(self, length: int) -> AsyncGenerator[Piece, None]:
        """The next `length` bytes in pieces; fewer when it breaks off, and then `failure` says why."""
        ...

    def is_quiet(self) -> bool:
        """Whether it is still open, and nothing came that nobody asked for."""
        ...

    def close(self) -> None:
        """Close it at once."""
        ...


def read_place(url: str) -> Place:
    """The place of `http://<address>:<port>`, or `https`. Raises `UnavailableError`."""
    try:
        parts = urlsplit(url)
        return parts.scheme, str(ip_address(parts.hostname or "")), parts.port or 80
    except ValueError as error:
        raise UnavailableError(f"it cannot be reached at {url!r}: {error}") from error


async def connect(place: Place, tls: ssl.SSLContext | None) -> Connection:
    """Connect. Raises `UnavailableError`."""
    scheme, address, port = place
    if scheme == "https" and tls is None:
        raise UnavailableError("it speaks TLS, for which this agent has no certificate")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(plain, (address, port))
        if scheme == "http":
            return PlainConnection(place, plain)
        async with asyncio.timeout(HANDSHAKE_S):
            # The name is that of nobody: any certificate of the cluster's authority is a member's.
            reader, writer = await asyncio.open_connection(sock=plain, ssl=tls, server_hostname="peer")
            return TlsConnection(place, reader, writer)
    except TimeoutError as error:
        plain.close()
        raise UnavailableError(f"it cannot be reached within {CONNECT_S:g} s") from error
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        raise UnavailableError(reason(error)) from error
    except BaseException:
        plain.close()
        raise


class PlainConnection:
    """A plain non-blocking socket."""

    def __init__(self, place: Place, plain: socket.socket) -> None:
        self.place = place
        self.used = False
        self.idle_since = 0.0
        self.failure = ""
        self._socket = plain

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Some bytes."""
        data = await asyncio.get_running_loop().sock_recv(self._socket, READ_BYTES)
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data

    async def body(self, length: int) -> AsyncGenerator[Piece, None]:
        """All of it as one piece."""
        piece = SocketPiece(self._socket, length, BODY_SILENCE_S)
        yield piece
        self.failure = piece.failure

    def is_quiet(self) -> bool:
        """Whether there is nothing to read, not even an end."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class TlsConnection:
    """A stream under TLS."""

    def __init__(self, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.place = place
        self.used = False
        self.idle_since = 0.0
        self.failure = ""
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Some bytes."""
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data

    async def body(self, length: int) -> AsyncGenerator[Piece, None]:
        """The bytes as they come."""
        try:
            while length:
                async with asyncio.timeout(BODY_SILENCE_S):
                    chunk = await self._reader.read(min(length, CHUNK_BYTES))
                if not chunk:
                    self.failure = "it closed the connection"
                    return
                length -= len(chunk)
                yield chunk
        except TimeoutError:
            self.failure = f"it was silent for {BODY_SILENCE_S:g} s"
        except OSError as error:
            self.failure = reason(error)

    def is_quiet(self) -> bool:
        """Whether it has not ended. What came unasked is no answer, and is found out when one is read."""
        return not (self._reader.at_eof() or self._writer.is_closing() or self._reader.exception())

    def close(self) -> None:
        """Close it, without the farewell that TLS has."""
        self._writer.transport.abort()
