"""The life of a pull: which source answers, in which order, and what happens when one breaks off.

- By digest: this node's store, then a peer, then the registry. What is in flight here already is shared.
- What few peers have or none is a transfer (`mirror.transfer`), which this node and others read while it comes
  (`mirror.herd`), and so is what the store keeps as it passes through, and what is verified before its first byte goes
  out: in memory it would be there once for each request. Everything else is a plain relay: complete holders exist, so
  whoever comes next needs no copy of it here.
- An object that breaks off goes on at the same offset from the next source, within the same answer; so does one of
  the store, which is not asked for it again for a while.
- What is in doubt (`mirror.suspicion`) or always to be verified is hashed on its way, and its end held back.

`Pull` is itself a `Source`, made of others. All is by digest: what a tag means is explained before (`mirror.tags`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

from mirror.errors import NotFoundError, SourceError, UnavailableError
from mirror.herd import Unshared
from mirror.oci import Kind
from mirror.pieces import moved
from mirror.resuming import resuming
from mirror.single_flight import Shared
from mirror.source import FirstOf
from mirror.trail import What
from mirror.verified import VERIFY_FIRST_BYTES_MAX, hashed_on_its_way

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from typing import Any

    from mirror.herd import Herd
    from mirror.oci import Descriptor, Digest
    from mirror.pieces import Piece
    from mirror.single_flight import Transfers
    from mirror.source import Content, Request, Source
    from mirror.stores import Holdings
    from mirror.suspicion import Suspicion

UNREADABLE_S: Final = 60.0
"""How long the store is not asked for an object after its file broke off: the client that comes again gets the rest
from elsewhere. More spares it a bad disk; less comes back sooner to one that only was slow."""
UNREADABLE_MAX: Final = 1024
"""Of how many objects that is known; the one that broke off first goes first."""

log = logging.getLogger(__name__)


class Pull:
    """Store, then peers, then upstream. `verify_all`: hash also what the runtime verifies when it commits.

    `relayed` asks members through whom a registry's object came who gave it, and whether all of them said.
    """

    def __init__(
        self,
        store: Holdings,
        peers: Source,
        upstream: Source,
        herd: Herd,
        *,
        transfers: Transfers,
        suspicion: Suspicion,
        relayed: Callable[[str, Digest, set[str]], Coroutine[Any, Any, tuple[set[str], bool]]],
        verify_all: bool = False,
    ) -> None:
        self._store = store
        self._elsewhere = FirstOf([peers, upstream])
        self._herd = herd
        self._unshared = Unshared(herd)
        self._beside_store = _BesideStore(self._unshared)
        self._shared = Shared(transfers, herd, self._unshared)
        self._elsewhere_shared = FirstOf([peers, self._shared])
        self._holders_first = FirstOf([peers, herd])
        self._holders_first_unshared = FirstOf([peers, self._unshared])
        self._nearby = FirstOf([store, peers])
        self._anywhere = FirstOf([self._nearby, upstream])
        self._transfers = transfers
        self._suspicion = suspicion
        self._relayed = relayed
        self._asking: dict[Digest, asyncio.Task[tuple[set[str], bool]]] = {}
        self._verify_all = verify_all

    async def resolve(self, request: Request) -> Descriptor:
        """Describe an object: by the first source that has it.

        A manifest that nobody has is fetched at once, for all who want it: whoever asks what it is wants it next.
        """
        if request.kind is not Kind.MANIFEST:
            return await self._anywhere.resolve(request)
        try:
            return await self._nearby.resolve(request)
        except (NotFoundError, UnavailableError):
            content = await self._shared.open(request.in_part(None))
            await content.body.aclose()
            return content.descriptor

    async def open(self, request: Request) -> Content:
        """Open an object; see the module's docstring for the order of sources."""
        if (stored := await self._from_store(request)) is not None:
            return stored
        # What podman and its kin take they keep elsewhere, so it says nothing that this node's store does not get it.
        is_seen = not request.all_or_nothing
        from_start = request.range is None or request.range.first == 0
        doubted = is_seen and self._suspicion.doubted(request.digest, from_start=from_start)
        if doubted:
            await self._ask_relays(request)
        content = await self._fetch(request, doubted=doubted)
        size = content.descriptor.size
        if is_seen and content.positions and size is not None and size > VERIFY_FIRST_BYTES_MAX:
            verified = doubted or self._verify_all
            content.body = _WatchedBody(content, content.positions, size, self._suspicion, verified=verified)
        return content

    async def _from_store(self, request: Request) -> Content | None:
        if self._beside_store.lacks(request.digest):
            request.trail.note(What.UNAVAILABLE, "store")
            return None
        try:
            return resuming(self._beside_store, request, await self._store.open(request))
        except NotFoundError:
            request.trail.note(What.ABSENT, "store")
        except SourceError as error:
            request.trail.note(What.UNAVAILABLE, "store")
            log.warning("the store cannot give %s: %s", request.digest, error)
        return None

    async def _ask_relays(self, request: Request) -> None:
        """Ask who gave what is in doubt, once; all who want it wait for that."""
        digest, registry = request.digest, request.repository.registry
        while True:
            asking = self._asking.get(digest)
            if asking is None and (relays := self._suspicion.to_ask(digest)):
                asking = self._asking[digest] = asyncio.create_task(self._relayed(registry, digest, relays))
                asking.add_done_callback(partial(self._told, digest))
            if asking is None:
                return
            await asyncio.wait([asking])

    def _told(self, digest: Digest, asking: asyncio.Task[tuple[set[str], bool]]) -> None:
        del self._asking[digest]
        if not asking.cancelled():
            givers, all_said = asking.result()
            self._suspicion.told(digest, givers, all_said=all_said)

    async def _fetch(self, request: Request, *, doubted: bool) -> Content:
        if doubted:
            # What is in doubt may be in flight elsewhere too: only complete holders and the registry are asked.
            return await self._transfers.open(request, self._elsewhere, self._elsewhere, verify=True)
        if self._verify_all:
            return await self._transfers.open(request, self._herd, self._unshared, verify=True)
        if self._store.keeps or self._herd.crowded(request.digest):
            content = await self._shared.open(request)
        elif hashed_on_its_way(request, request.size):
            content = await self._transfers.open(
                request, self._holders_first, self._holders_first_unshared, verify=False
            )
        else:
            content = await self._transfers.join(request) or await self._elsewhere_shared.open(request)
        return resuming(self._unshared, request, content)


class _BesideStore:
    """The source that goes on where a file of the store breaks off; so it knows which files those are."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unreadable: OrderedDict[Digest, float] = OrderedDict()

    def lacks(self, digest: Digest) -> bool:
        """Whether the store's file of an object broke off lately."""
        until = self._unreadable.get(digest)
        return until is not None and until > asyncio.get_running_loop().time()

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """As the source does, for the rest of an object."""
        self._unreadable[request.digest] = asyncio.get_running_loop().time() + UNREADABLE_S
        self._unreadable.move_to_end(request.digest)
        if len(self._unreadable) > UNREADABLE_MAX:
            self._unreadable.popitem(last=False)
        return await self._source.open(request)


class _WatchedBody:
    """The bytes of a large object, of which it is noted what the runtime was given, and by whom."""

    def __init__(self, content: Content, positions: range, size: int, suspicion: Suspicion, *, verified: bool) -> None:
        self._content = content
        self._body = content.body
        self._positions = positions
        self._size = size
        self._suspicion = suspicion
        self._verified = verified
        self._position = positions.start
        self._piece: Piece = b""  # of which the client took a part, if it hung up meanwhile
        self._open = True

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        self._suspicion.gives(self._content.descriptor.digest, (self._content.givers, self._content.relays))
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                self._piece = piece
                yield piece
                self._position += moved(piece)
                self._piece = b""

    async def aclose(self) -> None:
        """Release the source."""
        position = self._position + moved(self._piece)
        if self._open and position > self._positions.start:
            self._suspicion.gave(
                self._content.descriptor.digest,
                (self._content.givers, self._content.relays),
                to_end=position == self._size,
                verified=self._verified,
            )
        self._open = False
        await self._body.aclose()
