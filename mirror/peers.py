"""The peers: nodes of the cluster that hold an object, found in the gossiped index and asked over HTTP.

The index names the holders; nobody is asked who has what. `mirror.choice` says in which order they are tried.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from yarl import URL

from mirror.errors import CorruptError, NotFoundError, UnavailableError
from mirror.http_client import CLIENT_ERRORS, OPENED, open_response, read_descriptor, reason, timeout
from mirror.peer_mac import HEADER
from mirror.verified import open_verified

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mirror.choice import Holder, Standing
    from mirror.oci import Descriptor, Digest
    from mirror.peer_mac import PeerMac
    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 1.0
READ_TIMEOUT_S: Final = 3.0
"""The longest silence of a peer before another one is asked. A stopped process still accepts connections (its kernel
does), so this is what finds it out."""
TRIES_MAX: Final = 4
"""How many holders are asked for one object: with the timeouts it bounds the wait before upstream to 16 s."""


class Index(Protocol):
    """Who holds what."""

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...


class PeersObserver(Protocol):
    """Is told when a peer was left for another source, for metrics."""

    def failed(self, reason: str) -> None:
        """`reason` is one word."""
        ...


class Peers:
    """Content from other nodes (a `Source`), by digest only."""

    def __init__(self, index: Index, mac: PeerMac | None, standing: Standing, observer: PeersObserver) -> None:
        self._index = index
        self._mac = mac
        self._standing = standing
        self._observer = observer
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Peers:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def resolve(self, request: Request) -> Descriptor:
        """Ask holders in turn what the digest is."""
        failure: UnavailableError | None = None
        for holder in self._candidates(request.digest):
            try:
                response = await self._ask("HEAD", holder, request)
                try:
                    descriptor = read_descriptor(request, response)
                finally:
                    response.release()
                assert descriptor is not None, "a request by digest is never without one"
            except NotFoundError:
                self._observer.failed("stale")
            except UnavailableError as error:
                failure = self._note(holder, request, error)
            else:
                return descriptor
        raise failure or NotFoundError(f"no peer has {request.digest}")

    async def open(self, request: Request) -> Content:
        """Open the digest at the first holder that gives it; small objects come back verified."""
        failure: UnavailableError | None = None
        for holder in self._candidates(request.digest):
            try:
                return await self._open_at(holder, request)
            except NotFoundError:
                self._observer.failed("stale")
            except UnavailableError as error:
                failure = self._note(holder, request, error)
        raise failure or NotFoundError(f"no peer has {request.digest}")

    async def _open_at(self, holder: Holder, request: Request) -> Content:
        async def open_part(part: Request) -> Content:
            response = await self._ask("GET", holder, part)
            return await open_response(part, response, "peer", holder.target.name)

        content = await open_verified(open_part, request)
        content.body = _PeerBody(content.body, holder, self._standing, lambda error: self._note(holder, request, error))
        return content

    async def _ask(self, method: str, holder: Holder, request: Request) -> aiohttp.ClientResponse:
        assert self._session is not None, "peers are used inside `async with`"
        repository = request.repository
        path = f"/v2/{repository.name}/{request.kind.value}/{request.digest}?ns={repository.registry}"
        byte_range = str(request.range) if request.range is not None and method == "GET" else ""
        headers = {"Range": byte_range} if byte_range else {}
        if self._mac is not None:
            headers[HEADER] = self._mac.sign(holder.target, method, path, byte_range)
        try:
            response = await self._session.request(
                method, URL(holder.url + path, encoded=True), headers=headers, allow_redirects=False
            )
        except CLIENT_ERRORS as error:
            raise UnavailableError(reason(error)) from error
        if response.status in OPENED:
            return response
        response.close()
        if response.status == 404:
            raise NotFoundError(f"{holder.target.name} no longer has {request.digest}")
        raise UnavailableError(f"it answered {response.status}")

    def _candidates(self, digest: Digest) -> list[Holder]:
        return list(islice(self._standing.ranked(self._index.holders(digest)), TRIES_MAX))

    def _note(self, holder: Holder, request: Request, error: UnavailableError) -> UnavailableError:
        """Remember a failure; returns it with the holder's name."""
        name = holder.target.name
        self._standing.fail(holder, error)
        self._observer.failed("corrupt" if isinstance(error, CorruptError) else "unavailable")
        log.warning("peer %s cannot give %s: %s", name, request.digest, error)
        return UnavailableError(f"peer {name}: {error}")


class _PeerBody:
    """Counts a transfer against its holder while it lasts, and tells when the holder breaks off."""

    def __init__(
        self, body: Body, holder: Holder, standing: Standing, note: Callable[[UnavailableError], UnavailableError]
    ) -> None:
        self._body = body
        self._holder = holder
        self._standing = standing
        self._note = note
        self._open = True
        standing.begin(holder)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        try:
            async with aclosing(self._body.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        except UnavailableError as error:
            raise self._note(error) from error

    async def aclose(self) -> None:
        """Release the connection."""
        if self._open:
            self._open = False
            self._standing.end(self._holder)
            await self._body.aclose()
