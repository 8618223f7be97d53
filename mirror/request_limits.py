"""The limits of one connection to a face: how large a request may be, and how long it may take to arrive.

And how long a client may take nothing of what was written to it: uvicorn waits for it without end, also when it closes.
httptools takes a head of any size at any pace, and uvicorn a connection that never says anything. This class stands
between them and `mirror.zero_copy`. What is over a limit is told to its client where that is still possible, and the
connection is closed; an observer counts it. A face that is full closes the connection that has been idle the longest,
so that those who only hold connections do not keep out who has a request.

Source: RFC 9110 sections 15.5.14 (413) and 15.5.15 (414), RFC 6585 section 5 (431).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mirror.movers import STALL_S

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

URL_BYTES_MAX: Final = 8 * 1024
"""A path has at most 255 characters of name and 135 of digest; the page of a list adds what its registry likes."""
HEAD_BYTES_MAX: Final = 64 * 1024
"""Request line and headers together. Tokens of registries reach 16 KiB."""
HEADERS_MAX: Final = 100
BODY_BYTES_MAX: Final = 1024 * 1024
"""Nobody needs to send a body. A client that pushes something small can still read why that was refused."""
PIPELINED_MAX: Final = 16
"""Requests of one connection that wait for the answer to the one before."""
REQUEST_S_MAX: Final = 10.0
"""How long a request may take to arrive, and the first one to begin."""
CONNECTIONS_MAX: Final = 2048
"""Of one face. An idle one costs a descriptor and some 10 KiB."""


class ConnectionObserver(Protocol):
    """Is told who was turned away, for metrics."""

    def refused(self, reason: str) -> None:
        """A request or a connection was refused; `reason` is one word."""
        ...


class LimitedProtocol(HttpToolsProtocol):
    """One connection of a client, within the limits."""

    def __init__(self, observer: ConnectionObserver | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._observer = observer
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._unparsed = 0
        self._body_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._quiet_since = 0.0
        self._unsent = 0
        self._taken_at = 0.0
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if need be in the place of an idle one."""
        super().connection_made(transport)
        self._quiet_since = self.loop.time()
        self._set_deadline()
        self._looking = self.loop.call_later(STALL_S / 4, self._look)
        if len(self.connections) > CONNECTIONS_MAX:
            others = [each for each in self.connections if isinstance(each, LimitedProtocol) and each is not self]
            idle = [each for each in others if not each.is_answering]
            min(idle, key=lambda each: each.quiet_since, default=self).give_way()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._clear_deadline()
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived whose answer is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    @property
    def quiet_since(self) -> float:
        """When (the loop's time) the last answer was complete, or else the connection began."""
        return self._quiet_since

    def give_way(self) -> None:
        """Close, for another connection; at once when it was closed before and its client does not read to the end."""
        self._count("connections")
        self.connections.discard(self)
        if self.transport.is_closing():
            self.transport.abort()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.transport.is_closing():
            return
        self._unparsed += len(data)
        super().data_received(data)
        # A request that came whole, as nearly all do, needs no deadline.
        if self._deadline is None and (not self.is_answering or self.cycle.more_body):
            self._set_deadline()
        # A head is measured when it is complete. This one goes on and on.
        if self._unparsed > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head"
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Measure the head before anything is done about it."""
        size, has_body = len(self.url), False
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            has_body |= name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        if len(self.url) > URL_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "url")
        if len(self.headers) > HEADERS_MAX or size > HEAD_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head")
        if has_body and self.parser.get_method() in {b"GET", b"HEAD"}:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body")
        if len(self.pipeline) >= PIPELINED_MAX:
            self._refuse(HTTPStatus.BAD_REQUEST, "pipeline")
        self._unparsed = self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Measure what comes of a body; nobody reads it."""
        self._unparsed = 0
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request came in time."""
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """From now on the connection is idle, unless more was asked."""
        self._quiet_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the request and close; uvicorn calls it whatever that is."""
        status, word = self._refusal or (HTTPStatus.BAD_REQUEST, "malformed")
        self._count(word)
        if not self._has_answered():  # else it would stand in the middle of the answer, or be a second one
            body = status.phrase.encode()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()

    def _has_answered(self) -> bool:
        """Whether the answer to what comes now has begun: it may be complete before the request is."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete)

    def _refuse(self, status: HTTPStatus, word: str) -> None:
        """Leave the parser, which then fails, whereupon `send_400_response` is called."""
        self._refusal = status, word
        raise _OverLimitError

    def _count(self, word: str) -> None:
        if self._observer is not None:
            self._observer.refused(word)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_S_MAX, self._late)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def resume_writing(self) -> None:
        """The client took something, though as much may wait for it again when it is looked at."""
        self._unsent = 0
        super().resume_writing()

    def _look(self) -> None:
        """Abort when what waits in the transport has not become less for too long. What is moved waits elsewhere."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._taken_at = unsent, now
        elif now - self._taken_at >= STALL_S:
            self.transport.abort()
            return
        self._looking = self.loop.call_later(STALL_S / 4, self._look)

    def _late(self) -> None:
        self._count("slow")
        self.transport.close()


class _OverLimitError(Exception):
    """Ends the parsing of a request."""
