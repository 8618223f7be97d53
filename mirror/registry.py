"""The HTTP edge: a read-only OCI registry, as a Starlette app, in front of any `Source`.

The same app is the client's face (its source is the whole policy of a pull), the peers' face (its source is this
node's store) and, in the demo, the upstream registry. What a runtime is told when things go wrong matters as much
as the bytes: see `mirror.errors`, and `ContentResponse` for what happens after the first byte.

Source: OCI distribution-spec 1.1, "Pulling manifests", "Pulling blobs", "Error Codes"; `?ns=` is containerd's way
to name the registry that a mirror stands for (containerd docs/hosts.md, "registry host namespace").
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from mirror.errors import Code, NotFoundError, RefusedError, RequestError, SourceError, UnavailableError
from mirror.extensions import SPLICE, ZERO_COPY_SEND, ClientGoneError, EndedEarlyError
from mirror.http_request import entity_tag, read_listing, read_request
from mirror.oci import Kind
from mirror.pieces import FilePiece, SocketPiece, read_piece
from mirror.trail import READER_HEADER, Answer, read_member

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.middleware import Middleware
    from starlette.requests import Request as HttpRequest
    from starlette.types import Receive, Scope, Send

    from mirror.listings import Lists
    from mirror.oci import ByteRange, Descriptor
    from mirror.pieces import Piece
    from mirror.source import Content, Source
    from mirror.trail import Step

log = logging.getLogger(__name__)

SOURCE_HEADER: Final = "Skvaller-Source"
"""Tells where the bytes of an answer come from: `store`, `peer` or `upstream`."""
HOLDER_HEADER: Final = "Skvaller-Holder"
"""Names the member that gave them, when they come from a peer."""

ANSWER_S_MAX: Final = 25.0
"""All waits before a status line together: containerd 2.3 gives up on an answer after 30 s, others never do."""

JSON: Final = "application/json"


class Observer(Protocol):
    """Is told what becomes of requests (`mirror.trail`)."""

    def noted(self, step: Step) -> None:
        """A step was taken for a request."""
        ...

    def answered(self, answer: Answer) -> None:
        """A status line goes out. Is there content, then `ended` follows."""
        ...

    def ended(self, answer: Answer) -> None:
        """The content has been sent, or source or client broke off."""
        ...


def create_registry(
    source: Source,
    observer: Observer,
    middleware: Sequence[Middleware] = (),
    *,
    lists: Lists | None = None,
    itself: str = "",
) -> Starlette:
    """A read-only registry that answers from `source`, and from `lists` where content is to be discovered.

    A mirror stands for many registries, and each request says which. An app that is one registry itself is given
    its name, which then goes without saying.
    """
    registry = Registry(source, observer, itself)
    discovery = []
    if lists is not None:
        listing = partial(registry.listing, lists)
        discovery = [
            Route("/v2/{name:path}/tags/list", listing, methods=["GET"]),
            Route("/v2/{name:path}/referrers/{subject}", listing, methods=["GET"]),
        ]
    return Starlette(
        routes=[
            *discovery,
            Route("/v2/{name:path}/blobs/{reference}", registry.blob, methods=["GET"]),
            Route("/v2/{name:path}/manifests/{reference}", registry.manifest, methods=["GET"]),
            Route("/v2/", registry.version, methods=["GET"]),
        ],
        exception_handlers={HTTPException: registry.http_error},
        middleware=list(middleware),
    )


class Registry:
    """The endpoints of the registry."""

    def __init__(self, source: Source, observer: Observer, itself: str) -> None:
        self._source = source
        self._observer = observer
        self._itself = itself

    async def version(self, http: HttpRequest) -> Response:
        """`/v2/`: this is a registry, and no credentials are needed to say so."""
        return Response(b"{}", media_type=JSON, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def manifest(self, http: HttpRequest) -> Response:
        """A manifest by tag or digest."""
        return await self._answer(http, Code.MANIFEST_UNKNOWN, partial(self._object, Kind.MANIFEST))

    async def blob(self, http: HttpRequest) -> Response:
        """A blob by digest."""
        return await self._answer(http, Code.BLOB_UNKNOWN, partial(self._object, Kind.BLOB))

    async def listing(self, lists: Lists, http: HttpRequest) -> Response:
        """The tags of a repository, or what refers to a manifest."""
        return await self._answer(http, Code.NAME_UNKNOWN, partial(self._listing, lists))

    async def http_error(self, http: HttpRequest, error: Exception) -> Response:
        """What the router refuses, in OCI's words: pushes are unsupported, other paths unknown."""
        assert isinstance(error, HTTPException)
        answer = Answer(time.monotonic(), http.method)
        if error.status_code == 405:
            return self._error(answer, Code.UNSUPPORTED, "this mirror is read-only: GET and HEAD")
        return self._error(answer, Code.NAME_UNKNOWN, "no such endpoint")

    async def _answer(
        self, http: HttpRequest, unknown: Code, give: Callable[[HttpRequest, Answer], Awaitable[Response]]
    ) -> Response:
        answer = Answer(time.monotonic(), http.method, read_member(http.headers.get(READER_HEADER)))
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await give(http, answer)
        except RequestError as error:
            return self._error(answer, error.code, str(error))
        except RefusedError as error:
            return self._refusal(answer, error)
        except NotFoundError as error:
            return self._error(answer, unknown, str(error))
        except (SourceError, TimeoutError) as error:
            message = str(error) or f"no source answered within {ANSWER_S_MAX:.0f} s"
            log.warning("no source for %s: %s", http.url.path, message)
            return self._error(answer, Code.UNAVAILABLE, message)

    async def _object(self, kind: Kind, http: HttpRequest, answer: Answer) -> Response:
        request = answer.request = read_request(http, kind, self._itself, self._observer.noted)
        if http.method == "HEAD":
            return self._description(answer, await self._source.resolve(request))
        return await self._content(answer, await self._source.open(request), request.range)

    async def _listing(self, lists: Lists, http: HttpRequest, answer: Answer) -> Response:
        listing = await lists.list(read_listing(http, self._itself))
        self._answered(answer, 200)
        named = [(name, value) for name, value in http.query_params.multi_items() if name == "ns"]
        return Response(listing.body, headers=listing.headers(http.url.path, named))

    def _description(self, answer: Answer, descriptor: Descriptor) -> Response:
        self._answered(answer, 200)
        response = Response(headers=describe(descriptor))
        if descriptor.size is None:
            del response.headers["content-length"]
        return response

    async def _content(self, answer: Answer, content: Content, asked: ByteRange | None) -> Response:
        positions, size = content.positions, content.descriptor.size
        if positions is None or positions or not size:
            return ContentResponse(answer, content, asked, self._observer)
        await content.body.aclose()
        return self._error(
            answer,
            Code.RANGE_INVALID,
            f"the object has {size} bytes",
            {"Content-Range": f"bytes */{size}"},
        )

    def _refusal(self, answer: Answer, error: RefusedError) -> Response:
        self._answered(answer, error.status, str(error))
        response = Response(error.body, status_code=error.status)
        for name, value in error.headers:
            response.headers.append(name, value)
        return response

    def _error(self, answer: Answer, code: Code, message: str, headers: dict[str, str] | None = None) -> Response:
        self._answered(answer, code.status, message)
        body = orjson.dumps({"errors": [{"code": code.value, "message": message}]})
        return Response(body, status_code=code.status, media_type=JSON, headers=headers)

    def _answered(self, answer: Answer, status: int, message: str = "") -> None:
        """Tell of an answer without content."""
        answer.status, answer.message, answer.first_byte_s = status, message, time.monotonic() - answer.began_at
        self._observer.answered(answer)


def describe(descriptor: Descriptor) -> dict[str, str]:
    """The headers that say which object an answer is about."""
    headers = {
        "Content-Type": descriptor.media_type,
        "Docker-Content-Digest": str(descriptor.digest),
        "ETag": entity_tag(descriptor.digest),
        "Accept-Ranges": "bytes",
    }
    if descriptor.size is not None:
        headers["Content-Length"] = str(descriptor.size)
    return headers


def _is_part(content: Content, asked: ByteRange | None) -> bool:
    """Whether the answer is the part that was asked for (206), which may be the whole.

    To `bytes=0-` a whole object with a 200 would be right too, but then containerd asks for no parts in parallel.
    """
    size = content.descriptor.size
    if content.partial or asked is None or not size:
        return content.partial
    return content.positions == asked.resolve(size)


class ContentResponse(Response):
    """Streams a content. Pure ASGI: the bytes pass through no other layer.

    After the status line there is no way to say that something went wrong except to stop short: the response
    then ends without its last bytes, the server closes the connection with FIN, and the runtime asks again from
    its offset. (A reset, or a complete body with wrong bytes, would fail its pull.)
    """

    def __init__(self, answer: Answer, content: Content, asked: ByteRange | None, observer: Observer) -> None:
        self._answer = answer
        self._content = content
        self._observer = observer
        positions, size = content.positions, content.descriptor.size
        part = _is_part(content, asked)
        headers = describe(content.descriptor)
        headers[SOURCE_HEADER] = content.origin
        if content.holder:
            headers[HOLDER_HEADER] = content.holder
        if positions is not None:
            headers["Content-Length"] = str(len(positions))
        if part and positions is not None:
            headers["Content-Range"] = f"bytes {positions.start}-{positions.stop - 1}/{size}"
        super().__init__(status_code=206 if part else 200, headers=headers)
        self._length_known = positions is not None
        if positions is None:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then piece by piece at the client's pace; stop when it goes away."""
        sender = _Sender(scope, receive, send, length_known=self._length_known)
        answer = self._answer
        answer.status, answer.content, answer.progress = self.status_code, self._content, sender.progress
        answer.first_byte_s = time.monotonic() - answer.began_at
        self._observer.answered(answer)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._content.body.pieces()) as pieces:
                async for piece in pieces:
                    await sender.send(piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            answer.complete = True
        except UnavailableError as error:
            log.warning("%s broke off after %d bytes: %s", self._content.descriptor.digest, sender.sent, error)
        except ClientGoneError:
            pass
        finally:
            sender.close()
            await self._content.body.aclose()
            answer.duration_s = time.monotonic() - answer.began_at
            self._observer.ended(answer)


class _Sender:
    """Sends pieces in the best way that the server offers, and says in each how far that went; `sent` is the sum.

    Raises `ClientGoneError` when there is nobody to send to. (ASGI's plain `send` does not tell, `receive` does.)
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, length_known: bool) -> None:
        self._extensions = scope.get("extensions", {}) if length_known else {}
        self._receive = receive
        self._send = send
        self._gone: asyncio.Task[None] | None = None
        self.sent = 0

    async def send(self, piece: Piece) -> None:
        """Send one piece, as far as its source goes."""
        if isinstance(piece, FilePiece) and ZERO_COPY_SEND in self._extensions:
            await self._move(piece, type=ZERO_COPY_SEND, file=piece.descriptor, offset=piece.start, count=piece.length)
        elif isinstance(piece, SocketPiece) and SPLICE in self._extensions:
            await self._move(piece, type=SPLICE, socket=piece.socket, count=piece.length, silence_s=piece.silence_s)
        else:
            await self._send_chunks(piece)

    def progress(self) -> int:
        """How many bytes went out, those of the message under way included."""
        moving = self._extensions.get(SPLICE)
        return self.sent + (moving["moved"]() if moving else 0)

    def close(self) -> None:
        """Watch the client no longer."""
        if self._gone is not None:
            self._gone.cancel()

    async def _move(self, piece: FilePiece | SocketPiece, **message: Any) -> None:
        try:
            await self._send({**message, "more_body": True})
            piece.sent = piece.length
        except EndedEarlyError as error:
            piece.sent, piece.failure = error.sent, str(error)
        except ClientGoneError as error:
            piece.sent = error.sent
            raise
        finally:
            self.sent += piece.sent

    async def _send_chunks(self, piece: Piece) -> None:
        if self._gone is None:
            self._gone = asyncio.create_task(_disconnected(self._receive))
        async with aclosing(read_piece(piece)) as chunks:
            async for chunk in chunks:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                if self._gone.done():
                    raise ClientGoneError("the client closed the connection", 0)
                self.sent += len(chunk)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
