"""Each object is fetched once at a time: the first request opens its source, the others share the transfer.

Only success is shared. A registry's no (401, 403, 404, 429) belongs to the request that got it, and the next one that
waits asks with its own credentials. A registry that does not answer is the same for all who wait.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mirror.errors import CorruptError, NotFoundError, NotYetError, OverQuotaError, UnavailableError
from mirror.herd.words import object_name
from mirror.oci import ByteRange, Digest
from mirror.resuming import resuming
from mirror.transfer import Transfer
from mirror.verified import VERIFY_FIRST_BYTES_MAX, hashed_on_its_way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mirror.oci import Descriptor, Kind
    from mirror.source import Content, Request, Source
    from mirror.spool import Spool
    from mirror.stores import Ingest, Store

PENDING_S: Final = 2.0
"""How long a peer waits for the first bytes of a transfer before it is told that they are still to come; less than
`mirror.peer_connection.SILENCE_S`."""

Key = tuple[str, "Kind", Digest]


class Transfers:
    """The transfers of a node. `corrupt` is told of a digest, and of who gave and relayed bytes that do not have it."""

    def __init__(self, spool: Spool, store: Store, corrupt: Callable[[Digest, list[str], list[str]], None]) -> None:
        self._spool = spool
        self._store = store
        self._corrupt = corrupt
        self._transfers: dict[Key, Transfer] = {}
        self._openings: dict[Key, _Opening] = {}
        self._running: set[Transfer] = set()

    async def __aenter__(self) -> Transfers:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for transfer in list(self._running):
            await transfer.aclose()

    def __len__(self) -> int:
        """How many objects can be shared now."""
        return len(self._transfers)

    def __iter__(self) -> Iterator[tuple[str, Transfer]]:
        """Those, each with the registry whose object it is."""
        return ((key[0], transfer) for key, transfer in self._transfers.items())

    def lineage(self, digest: Digest) -> set[str]:
        """The members through whom an object comes that is in flight here."""
        return {
            name
            for (_, _, each), transfer in self._transfers.items()
            if each == digest
            for name in transfer.content.lineage
        }

    def ahead(self, name: str, position: int) -> float:
        """How many bytes came beyond a position of an object, named as `registry digest`; no end when it is whole."""
        for (registry, _, digest), transfer in self._transfers.items():
            if object_name(registry, digest) == name and transfer.written < transfer.size:
                return transfer.written - position
        return float("inf")

    async def join(self, request: Request, *, verified: bool = True) -> Content | None:
        """What a transfer under way gives of the object, when it gives that soon; see `Transfer.open`."""
        transfer = self._transfers.get(_key(request))
        return None if transfer is None else await transfer.open(request, verified=verified)

    async def follow(self, request: Request) -> Content | None:
        """What a transfer gives that is under way or about to begin; waits for its first bytes, right or not."""
        opening = self._openings.get(_key(request))
        if opening is not None:
            await opening.over.wait()
        return await self.join(request, verified=False)

    def descriptor(self, request: Request) -> Descriptor | None:
        """What is known of an object in flight."""
        transfer = self._transfers.get(_key(request))
        return None if transfer is None else transfer.content.descriptor

    async def open(self, request: Request, source: Source, alone: Source, *, verify: bool) -> Content:
        """Share the transfer of the object, or open one from `source`. It is hashed if it is small, or to `verify`.

        A transfer goes on from `source` when that breaks off, while it can; a body that is given out does not. A
        request for a part does not make a transfer of the whole, unless it is to be verified. What cannot be a
        transfer is opened from `alone` for this request, or refused if it is to be verified. Raises as the sources do.
        """
        key = _key(request)
        while opening := self._openings.get(key):
            await opening.over.wait()
            if opening.failure:
                raise UnavailableError(opening.failure)
        transfer = self._transfers.get(key)
        content: Content | None = None
        if transfer is not None and transfer.verifies >= verify:
            if transfer.paused:
                await self._continue(transfer, request, source)
            content = await transfer.open(request, verified=True)
        elif verify or _is_whole(request):
            content = await self._begin(request, source, verify=verify)
        if content is None and verify:
            raise UnavailableError(f"{request.digest} cannot be verified now, and is not given as it is")
        return content or await alone.open(request)

    async def _continue(self, transfer: Transfer, request: Request, source: Source) -> None:
        """Let a transfer that lost its sources go on with what this request's client is given.

        The others that wait for the object wait for this. Raises as `source` does.
        """
        async with self._opening(request):
            rest = replace(request.in_part(ByteRange.starting_at(transfer.written)), hashes=True)
            content = await source.open(rest)
            if content.positions != range(transfer.written, transfer.size) or not transfer.paused:
                await content.body.aclose()
            else:
                transfer.go_on(resuming(source, rest, content))

    async def _begin(self, request: Request, source: Source, *, verify: bool) -> Content | None:
        whole = replace(request.in_part(None), hashes=not verify)
        async with self._opening(request):
            content = await source.open(whole)
            verify |= hashed_on_its_way(whole, content.descriptor.size)
            file = await self._file(whole, content, verify=verify)
            if file is not None:
                key = _key(request)
                self._transfers[key] = self._transfer(key, resuming(source, whole, content), file)
        if file is not None:
            return await self.join(request)
        content.unshared()
        if not verify:
            return content
        await content.body.aclose()
        return None

    @asynccontextmanager
    async def _opening(self, request: Request) -> AsyncIterator[None]:
        """While a source is opened for an object, others that want it wait; they share what is wrong with it."""
        key = _key(request)
        opening = self._openings[key] = _Opening()
        try:
            yield
        except OverQuotaError:
            raise
        except UnavailableError as error:
            opening.failure = str(error)
            raise
        finally:
            del self._openings[key]
            opening.over.set()

    async def _file(self, request: Request, content: Content, *, verify: bool) -> Ingest | None:
        """Where to put a content: into the store if it keeps such things, else into the spool; None for neither."""
        size = content.descriptor.size
        if not content.positions or size is None:
            return None
        file = await self._store.ingest(request, size)
        return file or self._spool.take(request.digest, size, verify=verify)

    def _transfer(self, key: Key, content: Content, file: Ingest) -> Transfer:
        transfer = Transfer(content, file, lambda transfer: self._changed(key, transfer))
        self._running.add(transfer)
        return transfer

    def _changed(self, key: Key, transfer: Transfer) -> None:
        if transfer.closed:
            self._running.discard(transfer)
        if not (transfer.joinable or transfer.paused) and self._transfers.get(key) is transfer:
            del self._transfers[key]
            givers, relays = transfer.content.givers, transfer.content.relays
            # A relay hashes the small ones as well, and knows who gave them.
            if isinstance(transfer.failure, CorruptError) and not (relays and transfer.size <= VERIFY_FIRST_BYTES_MAX):
                self._corrupt(key[2], givers, relays)


class Shared:
    """A source whose objects are opened once for all who want them; what cannot be shared comes from `alone`."""

    def __init__(self, transfers: Transfers, source: Source, alone: Source) -> None:
        self._transfers = transfers
        self._source = source
        self._alone = alone

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """Open a transfer, or share the one under way."""
        return await self._transfers.open(request, self._source, self._alone, verify=False)


class InFlight:
    """What is in flight here, as a source for peers: for requests in the name of the same registry."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    async def resolve(self, request: Request) -> Descriptor:
        """Describe an object in flight."""
        descriptor = self._transfers.descriptor(request) if isinstance(request.reference, Digest) else None
        if descriptor is None:
            raise NotFoundError(f"{request.reference} is not in flight")
        return descriptor

    async def open(self, request: Request) -> Content:
        """Follow a transfer; it breaks off where the transfer does.

        Raises `NotYetError` after `PENDING_S` when the transfer has no bytes so far: the peer then knows that this node
        is alive, and asks again.
        """
        if not isinstance(request.reference, Digest):
            raise NotFoundError(f"{request.reference} is not in flight")
        content = None
        try:
            async with asyncio.timeout(PENDING_S):
                content = await self._transfers.follow(request)
        except TimeoutError:
            raise NotYetError(f"{request.digest} has no bytes yet") from None
        if content is None:
            raise NotFoundError(f"{request.digest} is not in flight")
        return content


class _Opening:
    """A source that is being opened for the first of several requests; `failure` is for all of them."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.failure = ""


def _key(request: Request) -> Key:
    return request.repository.registry, request.kind, request.digest


def _is_whole(request: Request) -> bool:
    return request.range is None or (request.range.first == 0 and request.range.last is request.range.suffix is None)
