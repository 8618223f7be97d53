"""The registries as a source whose bytes are counted, and whose every "no" is noted in the request's trail."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mirror.authorization import Attesting
from mirror.errors import CorruptError, OverQuotaError, RefusedError, SourceError
from mirror.pieces import moved
from mirror.source import Source
from mirror.trail import What

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from mirror.challenge import Challenge
    from mirror.oci import Descriptor
    from mirror.pieces import Piece
    from mirror.source import Body, Content, Request


class AllRegistries(Attesting, Source, Protocol):
    """All that is asked of registries for a pull."""


class Metered:
    """The registries as they are; `fetched` is told of one of them, and how many bytes came from it."""

    def __init__(self, source: AllRegistries, fetched: Callable[[str, int], None]) -> None:
        self._source = source
        self._fetched = fetched

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        with _noted(request):
            return await self._source.resolve(request)

    async def attest(self, request: Request) -> Descriptor:
        """As the source does."""
        with _noted(request):
            return await self._source.attest(request)

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        """As the source does."""
        return await self._source.token_for_anybody(registry, challenge)

    async def open(self, request: Request) -> Content:
        """As the source does."""
        with _noted(request):
            content = await self._source.open(request)
        content.body = _MeteredBody(content.body, partial(self._fetched, request.repository.registry))
        return content


class _MeteredBody:
    def __init__(self, body: Body, fetched: Callable[[int], None]) -> None:
        self._body = body
        self._fetched = fetched

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                yield piece
                self._fetched(moved(piece))

    async def aclose(self) -> None:
        """Release the connection."""
        await self._body.aclose()


@contextmanager
def _noted(request: Request) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        request.trail.note(_reason(error), "upstream")
        raise


def _reason(error: SourceError) -> What:
    match error:
        case RefusedError(status=404):
            return What.ABSENT
        case RefusedError():
            return What.REFUSED
        case OverQuotaError():
            return What.OVER_QUOTA
        case CorruptError():
            return What.CORRUPT
        case _:
            return What.UNAVAILABLE
