"""Right bytes before the first one goes out: small objects from elsewhere are read whole and hashed.

An object of at most `VERIFY_FIRST_BYTES_MAX` that comes from a peer or a registry is verified before its first byte
goes to the runtime, so a corrupt source is simply replaced by another one. A larger object streams; the runtime
verifies it when it commits, as ever. Of a blob whose size neither its source nor its manifest tells, so much is read
first, for `SIZED_S` at most: it may end within that.

A small blob in flight is hashed where it is put while it comes (`mirror.transfer`), not before: else it would come to
each node of a herd only when the one before had all of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError, UnavailableError
from mirror.oci import MANIFEST_BYTES_MAX, SMALL_BYTES_MAX, Kind
from mirror.source import MemoryBody, read_all, read_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request

VERIFY_FIRST_BYTES_MAX: Final = 8 * 1000 * 1000
"""Raising it holds more back (memory per request, and time to the first byte) and verifies more."""
SIZED_S: Final = 5.0
"""How long a blob that may be small is read before it streams. Raising it verifies more of what comes slowly, and is a
part of what a client waits for an answer (`mirror.registry.ANSWER_S_MAX`)."""


def hashed_on_its_way(request: Request, size: int | None) -> bool:
    """Whether an object is hashed where it is put while it comes, and given to no runtime before.

    The smallest are not: a coordinator gives them in its answer.
    """
    return request.kind is Kind.BLOB and size is not None and SMALL_BYTES_MAX < size <= VERIFY_FIRST_BYTES_MAX


async def open_verified(open_: Callable[[Request], Awaitable[Content]], request: Request) -> Content:
    """Open by digest through `open_`; small objects come back verified, in memory, unless whoever asks hashes them.

    Raises `CorruptError` for wrong bytes, `UnavailableError` for a manifest above the size limit.
    """
    content = await open_(request)
    limit = MANIFEST_BYTES_MAX if request.kind is Kind.MANIFEST else VERIFY_FIRST_BYTES_MAX
    size = content.descriptor.size
    too_large = size is not None and size > limit
    if size is None and request.kind is Kind.BLOB:
        return await _sized_by_reading(content, request, limit)
    if content.positions == range(0) or (request.kind is Kind.BLOB and too_large):
        return content
    if request.hashes and hashed_on_its_way(request, size):
        return content
    if too_large:
        await content.body.aclose()
        raise UnavailableError(f"a manifest of {size} bytes is above the limit of {limit}")
    if content.positions is not None and len(content.positions) != size:
        await content.body.aclose()
        content = await open_(request.in_part(None))
    return _verified(content, request, await read_all(content.body, limit))


async def _sized_by_reading(content: Content, request: Request, limit: int) -> Content:
    """A blob of which nobody told the size: whether it is small is seen when it ends, or does not soon."""
    clock = asyncio.get_running_loop().time
    until = clock() + SIZED_S
    begun = bytearray()
    chunks = read_chunks(content.body)
    try:
        async for chunk in chunks:
            begun += chunk
            if len(begun) > limit or clock() >= until:
                content.body = _BegunBody(bytes(begun), chunks, content.body)
                return content
    except BaseException:
        await chunks.aclose()
        await content.body.aclose()
        raise
    await content.body.aclose()
    return _verified(content, request, bytes(begun))


def _verified(content: Content, request: Request, data: bytes) -> Content:
    if not request.digest.matches(data):
        raise CorruptError(f"{len(data)} bytes from {content.holder or content.origin} are not {request.digest}")
    positions = request.range.resolve(len(data)) if request.range else range(len(data))
    return replace(
        content,
        descriptor=replace(content.descriptor, size=len(data)),
        positions=positions,
        body=MemoryBody(data[positions.start : positions.stop]),
    )


class _BegunBody:
    """The bytes of a body that was begun to be read: those, and the rest."""

    def __init__(self, begun: bytes, rest: AsyncGenerator[bytes, None], body: Body) -> None:
        self._begun = begun
        self._rest = rest
        self._body = body

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes in order."""
        begun, self._begun = self._begun, b""
        yield begun
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        """Release the source."""
        await self._rest.aclose()
        await self._body.aclose()
