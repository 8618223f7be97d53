"""The HTTP edge: a read-only OCI registry, as a Starlette app, in front of any `Source`.

The same app is the client's face (its source is the whole policy of a pull), the peers' face (its source is this
node's store) and, in the demo, the upstream registry. What a runtime is told when things go wrong matters as much
as the bytes: see `mirror.errors`, and `mirror.content_response` for what happens after the first byte.

Source: OCI distribution-spec 1.1, "Pulling manifests", "Pulling blobs", "Error Codes"; `?ns=` is containerd's way
to name the registry that a mirror stands for (containerd docs/hosts.md, "registry host namespace").
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from mirror.content_response import ContentResponse, describe
from mirror.errors import Code, NotFoundError, NotYetError, RefusedError, RequestError, SourceError
from mirror.http_request import has_already, read_headers, read_listing, read_path, read_request
from mirror.in_time import in_time
from mirror.oci import Kind
from mirror.trail import READER_HEADER, Answer, read_member

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from mirror.http_request import AskedObject
    from mirror.listings import Lists
    from mirror.oci import ByteRange, Descriptor
    from mirror.source import Content, Source
    from mirror.trail import Observer

log = logging.getLogger(__name__)

ANSWER_S_MAX: Final = 25.0
"""All waits before a status line together: containerd 2.3 gives up on an answer after 30 s, others never do."""

JSON: Final = "application/json"
_READER: Final = READER_HEADER.lower()
_READING: Final = frozenset({"GET", "HEAD"})


def create_registry(
    source: Source,
    observer: Observer,
    middleware: Sequence[Middleware] = (),
    *,
    lists: Lists | None = None,
    itself: str = "",
    greet: Callable[[str | None], Awaitable[None]] | None = None,
) -> Starlette:
    """A read-only registry that answers from `source`, and from `lists` where content is to be discovered.

    A mirror stands for many registries, and each request says which. An app that is one registry itself, or stands for
    one alone, is given its name, which then goes without saying. `greet` gets the credentials (the header) of whoever
    asks whether this is a registry, and raises `RefusedError` for those who have to say first who they are.
    """
    registry = Registry(source, observer, itself, greet)
    discovery = []
    if lists is not None:
        listing = partial(registry.listing, lists)
        discovery = [
            Route("/v2/{name:path}/tags/list", listing, methods=["GET"]),
            Route("/v2/{name:path}/referrers/{subject}", listing, methods=["GET"]),
        ]
    app = Starlette(
        routes=[*discovery, Route("/v2/", registry.version, methods=["GET"])],
        exception_handlers={HTTPException: registry.http_error},
        middleware=[*middleware, Middleware(_Objects, registry)],
    )
    app.router.redirect_slashes = False  # the specification knows no such redirects, and they repeat the Host header
    return app


class Registry:
    """The endpoints of the registry."""

    def __init__(
        self, source: Source, observer: Observer, itself: str, greet: Callable[[str | None], Awaitable[None]] | None
    ) -> None:
        self._source = source
        self._observer = observer
        self._itself = itself
        self._greet = greet

    async def version(self, http: HttpRequest) -> Response:
        """`/v2/`: this is a registry. Where many are meant, no credentials are needed to say so."""
        if self._greet is not None:
            try:
                await self._greet(http.headers.get("authorization"))
            except RefusedError as refusal:
                return self._refusal(Answer(time.monotonic(), http.method), refusal)
        return Response(b"{}", media_type=JSON, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def object(self, scope: Scope, asked: AskedObject) -> Response:
        """A manifest by tag or digest, or a blob by digest."""
        unknown = Code.BLOB_UNKNOWN if asked.kind is Kind.BLOB else Code.MANIFEST_UNKNOWN
        return await self._answer(scope, unknown, partial(self._object, scope, asked))

    async def listing(self, lists: Lists, http: HttpRequest) -> Response:
        """The tags of a repository, or what refers to a manifest."""
        return await self._answer(http.scope, Code.NAME_UNKNOWN, partial(self._listing, lists, http))

    async def http_error(self, http: HttpRequest, error: Exception) -> Response:
        """What the router refuses, in OCI's words: pushes are unsupported, other paths unknown."""
        assert isinstance(error, HTTPException)
        answer = Answer(time.monotonic(), http.method)
        if error.status_code == 405 or http.method not in {"GET", "HEAD"}:
            return self._error(answer, Code.UNSUPPORTED, "this mirror is read-only: GET and HEAD")
        return self._error(answer, Code.NAME_UNKNOWN, "no such endpoint")

    async def _answer(
        self,
        scope: Scope,
        unknown: Code,
        give: Callable[[dict[str, str], Answer], Coroutine[Any, Any, Response]],
    ) -> Response:
        headers = read_headers(scope)
        answer = Answer(time.monotonic(), scope["method"], read_member(headers.get(_READER)))
        try:
            return await in_time(ANSWER_S_MAX, give(headers, answer))
        except RequestError as error:
            return self._error(answer, error.code, str(error))
        except RefusedError as error:
            return self._refusal(answer, error)
        except NotFoundError as error:
            return self._error(answer, unknown, str(error))
        except NotYetError as error:
            return self._error(answer, Code.UNAVAILABLE, str(error), {"Retry-After": "1"})
        except (SourceError, TimeoutError) as error:
            message = str(error) or f"no source answered within {ANSWER_S_MAX:.0f} s"
            log.warning("no source for %s: %s", scope["path"], message)
            return self._error(answer, Code.UNAVAILABLE, message)

    async def _object(self, scope: Scope, asked: AskedObject, headers: dict[str, str], answer: Answer) -> Response:
        request = read_request(asked, scope["query_string"], headers, self._itself, self._observer.noted)
        answer.request = request
        if answer.method == "HEAD" or "if-none-match" in headers:
            descriptor = await self._source.resolve(request)
            if has_already(headers, descriptor.digest):
                return self._not_modified(answer, descriptor)
            if answer.method == "HEAD":
                return self._description(answer, descriptor)
            request = request.by_digest(descriptor.digest)
        return await self._content(answer, await self._source.open(request), request.range)

    async def _listing(self, lists: Lists, http: HttpRequest, headers: dict[str, str], answer: Answer) -> Response:
        listing = await lists.list(read_listing(http, headers, self._itself))
        self._answered(answer, 200)
        named = [(name, value) for name, value in http.query_params.multi_items() if name == "ns"]
        return _relayed(200, listing.headers(http.url.path, named).items(), listing.body)

    def _description(self, answer: Answer, descriptor: Descriptor) -> Response:
        self._answered(answer, 200)
        return _without_content(200, descriptor, descriptor.size)

    def _not_modified(self, answer: Answer, descriptor: Descriptor) -> Response:
        """The client has it already (RFC 9110 section 15.4.5)."""
        self._answered(answer, 304)
        return _without_content(304, descriptor, None)

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
        return _relayed(error.status, error.headers, error.body)

    def _error(self, answer: Answer, code: Code, message: str, headers: dict[str, str] | None = None) -> Response:
        message = message.encode(errors="backslashreplace").decode()  # a registry's bytes may be in it that are no text
        self._answered(answer, code.status, message)
        body = orjson.dumps({"errors": [{"code": code.value, "message": message}]})
        return Response(body, status_code=code.status, media_type=JSON, headers=headers)

    def _answered(self, answer: Answer, status: int, message: str = "") -> None:
        """Tell of an answer without content."""
        answer.status, answer.message, answer.first_byte_s = status, message, time.monotonic() - answer.began_at
        self._observer.answered(answer)


def _without_content(status: int, descriptor: Descriptor, length: int | None) -> Response:
    response = Response(status_code=status)
    response.raw_headers = describe(descriptor, length)
    return response


def _relayed(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
    """An answer of a registry, with its headers byte for byte: aiohttp reads them as UTF-8, and keeps what is not."""
    response = Response(body, status)
    response.raw_headers += [(name.lower().encode(), value.encode(errors="surrogateescape")) for name, value in headers]
    return response


class _Objects:
    """Answers for manifests and blobs, before Starlette's router: its way to an endpoint costs as much as theirs on."""

    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app = app
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = read_path(scope["path"]) if scope.get("method") in _READING else None
        if asked is None:
            await self._app(scope, receive, send)
        else:
            response = await self._registry.object(scope, asked)
            await response(scope, receive, send)
