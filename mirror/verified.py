"""Right bytes before the first one goes out: small objects from elsewhere are read whole and hashed.

An object of at most `VERIFY_FIRST_BYTES_MAX` that comes from a peer or a registry is verified before its first byte
goes to the runtime, so a corrupt source is simply replaced by another one. A larger object streams; the runtime
verifies it when it commits, as ever.

A small blob in flight is hashed where it is put while it comes (`mirror.transfer`), not before: else it would come to
each node of a herd only when the one before had all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError, UnavailableError
from mirror.oci import MANIFEST_BYTES_MAX, SMALL_BYTES_MAX, Kind
from mirror.source import MemoryBody, read_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.source import Content, Request

VERIFY_FIRST_BYTES_MAX: Final = 8 * 1000 * 1000
"""Raising it holds more back (memory per request, and time to the first byte) and verifies more."""


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
    if content.positions == range(0) or (request.kind is Kind.BLOB and (size is None or size > limit)):
        return content
    if request.hashes and hashed_on_its_way(request, size):
        return content
    if size is not None and size > limit:
        await content.body.aclose()
        raise UnavailableError(f"a manifest of {size} bytes is above the limit of {limit}")
    if content.positions is not None and len(content.positions) != size:
        await content.body.aclose()
        content = await open_(request.in_part(None))
    data = await read_all(content.body, limit)
    if not request.digest.matches(data):
        raise CorruptError(f"{len(data)} bytes from {content.holder or content.origin} are not {request.digest}")
    positions = request.range.resolve(len(data)) if request.range else range(len(data))
    return replace(
        content,
        descriptor=replace(content.descriptor, size=len(data)),
        positions=positions,
        body=MemoryBody(data[positions.start : positions.stop]),
    )
