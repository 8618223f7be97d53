"""What reading an object over HTTP has in common, be the server a peer or a registry.

Everything a server can get wrong becomes an `UnavailableError` here: no answer in time, a body that ends early or
is encoded, a length or range that does not fit, a header that does not parse.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from mirror.errors import UnavailableError
from mirror.oci import OCTET_STREAM, Descriptor, Digest, InvalidReferenceError, Kind
from mirror.source import Content

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from mirror.pieces import Piece
    from mirror.source import Request

SIZE_DIGITS_MAX: Final = 18
_CONTENT_RANGE = re.compile(
    rf"bytes (\d{{1,{SIZE_DIGITS_MAX}}})-(\d{{1,{SIZE_DIGITS_MAX}}})/(\d{{1,{SIZE_DIGITS_MAX}}})"
)
_UNSATISFIED_RANGE = re.compile(rf"bytes \*/(\d{{1,{SIZE_DIGITS_MAX}}})")
_QUERY = re.compile(r"\?\S+")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")

SILENCE_S: Final = 5.0
"""How long a server may pause within a body before the rest of it is asked for anew. It can be shorter than the wait
for an answer, since nothing is lost: what came stays."""

OPENED: Final = frozenset({200, 206, 416})
"""The answers to a GET that say something of the object: its bytes, some of them, or that it ends before the range."""

CLIENT_ERRORS: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What aiohttp raises for anything wrong between it and the server (ValueError: a URL it cannot use)."""


class Head(Protocol):
    """The head of a server's answer, whichever client read it."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names in any case."""
        ...


class ResponseBody:
    """The body of an HTTP response from `skip` on, `length` bytes (None: to its end); the first chunk is at hand."""

    def __init__(self, response: aiohttp.ClientResponse, skip: int, length: int | None) -> None:
        self._response = response
        self._skip = skip
        self._length = length
        self._first = b""

    async def start(self) -> None:
        """Wait for the first bytes, as long as the session has it. Raises `UnavailableError`."""
        if self._length != 0:
            self._first = await self._read(None)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes asked for; raises `UnavailableError` when the server breaks off."""
        left = self._length
        chunk = self._first
        self._first = b""
        while chunk:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            part = chunk[skipped:] if left is None else chunk[skipped : skipped + left]
            if part:
                yield part
            if left is not None:
                left -= len(part)
                if left == 0:
                    return
            chunk = await self._read(SILENCE_S)
        if left:
            raise UnavailableError(f"the body ended {left} bytes early")

    async def _read(self, silence_s: float | None) -> bytes:
        try:
            async with asyncio.timeout(silence_s):
                return await self._response.content.readany()
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"reading the body: {reason(error)}") from error

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def open_response(request: Request, response: aiohttp.ClientResponse, origin: str) -> Content:
    """Make a content of a response to a GET by digest that `OPENED` names; the first bytes are awaited.

    Closes the response and raises `UnavailableError` when it is of no use.
    """
    try:
        descriptor, positions, skip = read_head(request, response)
        body = ResponseBody(response, skip, None if positions is None else len(positions))
        await body.start()
    except BaseException:
        response.close()
        raise
    return Content(descriptor, positions, body, origin)


def read_head(request: Request, response: Head) -> tuple[Descriptor, range | None, int]:
    """What the answer to a GET by digest (one of `OPENED`) gives; raises `UnavailableError` when it is of no use.

    The object, the positions of it that will be given, and how many bytes of the body to skip first.
    """
    descriptor, positions, skip = _read_head(request, response)
    if request.size is not None and descriptor.size not in {None, request.size}:
        raise UnavailableError(f"it has {descriptor.size} bytes of the object's {request.size}")
    return descriptor, positions, skip


def _read_head(request: Request, response: Head) -> tuple[Descriptor, range | None, int]:
    refuse_encoded(response)
    if response.status == 416:
        match = _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or request.range is None or request.range.resolve(int(match[1])):
            raise UnavailableError(f"it refused {request.range} without a reason")
        return Descriptor(OCTET_STREAM, request.digest, int(match[1])), range(0), 0
    media_type = read_media_type(request, response)
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or request.range is None:
            raise UnavailableError("a partial answer without a usable Content-Range")
        first, last, size = (int(number) for number in match.groups())
        positions = request.range.resolve(size)
        if positions != range(first, last + 1):
            raise UnavailableError(f"bytes {first}-{last} of {size} came instead of {request.range}")
        return Descriptor(media_type, request.digest, size), positions, 0
    length = read_length(response)
    if length is None:  # it comes in chunks, say: then the object has the size that its manifest gives
        length = request.size
    descriptor = Descriptor(media_type, request.digest, length)
    if request.range is None:
        return descriptor, None if length is None else range(length), 0
    if length is None:
        raise UnavailableError("a range was asked for, and an answer of unknown length came")
    # The server ignored the range (RFC 9110 section 14.2 allows it): skip what was not asked for.
    positions = request.range.resolve(length)
    return descriptor, positions, positions.start if positions else 0


def read_descriptor(request: Request, response: Head) -> Descriptor | None:
    """What a 200 to a HEAD says; None when it leaves out the digest. Raises `UnavailableError`."""
    text = response.headers.get("Docker-Content-Digest")
    if isinstance(request.reference, Digest):
        digest = request.reference
    elif text is None:
        return None
    else:
        try:
            digest = Digest.parse(text)
        except InvalidReferenceError as error:
            raise UnavailableError(f"the answer's digest is unusable: {error}") from error
    return Descriptor(read_media_type(request, response), digest, read_length(response))


def read_media_type(request: Request, response: Head) -> str:
    """The media type of a manifest; blobs are bytes, whatever a server calls them."""
    if request.kind is Kind.BLOB:
        return OCTET_STREAM
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise UnavailableError("a manifest without a usable media type")
    return media_type


def read_length(response: Head) -> int | None:
    """The Content-Length, if there is a usable one."""
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= SIZE_DIGITS_MAX):
        raise UnavailableError("the Content-Length is not a number")
    return int(text)


def refuse_encoded(response: Head) -> None:
    """Encoded bytes are not the bytes that the digest is of."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnavailableError(f"the body is encoded as {encoding[:32]!r}, although it was asked for as it is")


async def read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body of an answer that is no object. Raises one of `CLIENT_ERRORS`, also when it is too large."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > bytes_max:
            raise ValueError(f"an answer of more than {bytes_max} bytes")
    return bytes(data)


def reason(error: BaseException) -> str:
    """An error in one line, also where the library's own text is empty (a timeout's is).

    Its URLs come without their queries: those of links to storage are signed, and let in whoever has them. Bytes of a
    header that are no text are escaped.
    """
    text = _QUERY.sub("?...", str(error)).encode(errors="backslashreplace").decode()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def timeout(connect_s: float, read_s: float) -> aiohttp.ClientTimeout:
    """Deadlines for connecting, name look-up included, and for each wait for bytes; a transfer as a whole has none."""
    return aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=read_s)
