"""The peers: nodes of the cluster that hold an object, found in the gossiped index and asked over HTTP.

The index names the holders; nobody is asked who has what. `mirror.choice` says in which order they are tried.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import quote

from mirror.choice import Search
from mirror.content_response import SOURCE_HEADER
from mirror.errors import CorruptError, FullError, NotFoundError, NotYetError, SourceError, UnavailableError
from mirror.hedge import Patience, Race
from mirror.http_client import OPENED, read_descriptor, read_head
from mirror.load import (
    ALTERNATIVES_HEADER,
    ALTERNATIVES_MAX,
    GIVERS_HEADER,
    LINEAGE_HEADER,
    LINEAGE_MAX,
    LOAD_HEADER,
    WAITED_HEADER,
    Load,
    read_names,
)
from mirror.oci import Kind
from mirror.peer_client import PeerClient
from mirror.peer_mac import HEADER
from mirror.pieces import moved
from mirror.source import Content, read_all
from mirror.trail import ID_HEADER, READER_HEADER, What
from mirror.verified import open_verified

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from mirror.choice import Holder, Standing
    from mirror.oci import Descriptor, Digest
    from mirror.peer_client import Answer
    from mirror.peer_mac import PeerMac, Target
    from mirror.peer_tls import PeerTls
    from mirror.pieces import Piece
    from mirror.source import Body, Request

log = logging.getLogger(__name__)

TRIES_MAX: Final = 4
"""How many holders are asked for one object."""
CANDIDATES_MAX: Final = 16
"""From how many holders those are taken; a full one moves others that it names to the front."""

HOPS_MAX: Final = 24
"""How many are asked on the way down a tree of members that give an object to each other: it is as deep as the number
of members has bits, and some answers take two."""
HOPS_S: Final = 1.5
"""When whoever was told to come again looks whom else to ask: another may lead by now."""
HOPS_S_MAX: Final = 10.0
"""The same for whoever was told nothing: the others may have it."""

PART_BYTES_MAX: Final = 128 * 1024
"""The answer of a member that is asked for its part in a herd: some hundred names at most."""

T = TypeVar("T", bound="Content | Descriptor")


class Index(Protocol):
    """Who holds what."""

    def me(self) -> Target:
        """Who this node is."""
        ...

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...

    def member(self, name: str) -> Holder | None:
        """How to reach a member."""
        ...


class Peers:
    """Content from other nodes (a `Source`), by digest only. They are told this node's `name`, to show it.

    `fetched` is told in which zone a peer is, and how many bytes came from it.
    """

    def __init__(
        self,
        index: Index,
        mac: PeerMac | None,
        standing: Standing,
        name: str = "",
        *,
        fetched: Callable[[str, int], None] = lambda _zone, _size: None,
        tls: PeerTls | None = None,
    ) -> None:
        self._index = index
        self._fetched = fetched
        self._mac = mac
        self._standing = standing
        self._name = name
        self._client = PeerClient(tls)
        self._patience = Patience()
        self.refused = 0
        """Requests that peers refused: they do not take this node for a member."""

    async def __aenter__(self) -> Peers:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def resolve(self, request: Request) -> Descriptor:
        """Ask holders in turn what the digest is."""

        async def describe(holder: Holder) -> Descriptor:
            answer = await self._ask("HEAD", holder, request)
            try:
                descriptor = read_descriptor(request, answer)
            finally:
                await answer.aclose()
            assert descriptor is not None, "a request by digest is never without one"
            return descriptor

        return await self._in_turn(self._holders(request), request, Search(), describe, TRIES_MAX, hedges=True)

    async def open(self, request: Request) -> Content:
        """Open the digest at the first holder that gives it; small objects come back verified."""

        def ask(holder: Holder) -> Awaitable[Content]:
            return self._open_at(holder, request)

        return await self._in_turn(self._holders(request), request, Search(), ask, TRIES_MAX, hedges=True)

    async def open_from(self, holders: Sequence[Holder], request: Request, search: Search) -> Content:
        """Open the digest at one of these, or at one of those to whom they give it; what was found is in `search`.

        Who is full names its children; who is about to have the first bytes is asked again after the others; all are
        told how long the client has waited. Raises `FullError` or `NotYetError` when one of them only had no slot or no
        bytes yet, else the last one's `SourceError`.
        """
        clock = asyncio.get_running_loop().time
        began = clock()

        def ask(holder: Holder) -> Awaitable[Content]:
            return self._open_at(holder, request, search.waited_s + clock() - began)

        # What is verified first is here when it is answered, and would come twice, be it from another zone.
        hedges = request.hashes and request.kind is Kind.BLOB
        return await self._in_turn(holders, request, search, ask, HOPS_MAX, hedges=hedges)

    async def ask_part(self, holder: Holder, path: str) -> bytes:
        """What a member answers to a question about its part in a herd (`mirror.herd.watch`).

        Its connection is not kept: those that are idle are for content. Raises `UnavailableError`.
        """
        answer = await self._send("GET", holder, path, {"Connection": "close"})
        if answer.status != 200:
            await answer.aclose()
            raise UnavailableError(f"it answered {answer.status}")
        return await read_all(answer, PART_BYTES_MAX)

    def alternatives(self, digest: Digest) -> list[str]:
        """The names of the members that this node would ask for the digest, best first."""
        ranked = self._standing.ranked(self._index.holders(digest))
        return [holder.target.name for holder in islice(ranked, ALTERNATIVES_MAX)]

    def _holders(self, request: Request) -> list[Holder]:
        holders = [each for each in self._index.holders(request.digest) if each.target.name not in request.left_out]
        if not holders:
            request.trail.note(What.ABSENT, "peer")
        return holders

    async def _in_turn(
        self,
        holders: Sequence[Holder],
        request: Request,
        search: Search,
        ask: Callable[[Holder], Awaitable[T]],
        tries: int,
        *,
        hedges: bool,
    ) -> T:
        """What the first gives that can, of these and of those whom full ones name; see `open_from`.

        When it `hedges`, and one is slow to answer, the next is asked as well, and the other one dropped when the first
        has answered; not once one was full or had nothing yet, for those whom it names may wait for bytes themselves.
        """
        failure: UnavailableError | None = None
        soon: FullError | NotYetError | None = None
        candidates = list(islice(self._standing.ranked(holders), CANDIDATES_MAX))
        heard_of = {holder.target.name for holder in candidates}
        clock = asyncio.get_running_loop().time
        began = clock()
        async with Race(ask, _let_go, self._patience) as race:
            while True:
                goes_on = bool(candidates and tries) and clock() - began <= (HOPS_S if soon else HOPS_S_MAX)
                if not (goes_on or race.running):
                    break
                may_hedge = hedges and goes_on and not soon
                answered = await race.next(may_hedge=may_hedge) if race.running else None
                if answered is None:
                    if race.running:
                        request.trail.note(What.HEDGED, "peer")
                    race.start(candidates.pop(0))
                    tries -= 1
                    continue
                holder, answer = answered
                try:
                    return answer.result()
                except NotFoundError:
                    request.trail.note(What.STALE, "peer", holder.target.name)
                    search.absent.add(holder.target.name)
                except NotYetError as error:
                    soon = error
                    search.barren.add(holder.target.name)
                    candidates.append(holder)
                except FullError as error:
                    request.trail.note(What.FULL, "peer", holder.target.name)
                    soon = error
                    named = [other for other in candidates if other.target.name in error.alternatives]
                    new = [name for name in error.alternatives if name not in heard_of | request.left_out]
                    heard_of.update(new)
                    named += [
                        each for each in map(self._index.member, new) if each and search.zone in (None, each.zone)
                    ]
                    candidates = named + [other for other in candidates if other not in named]
                except UnavailableError as error:
                    failure = self._note(holder, request, error)
                    search.lost.add(holder.target.name)
        raise soon or failure or NotFoundError(f"no peer has {request.digest}")

    async def _open_at(self, holder: Holder, request: Request, waited_s: float = 0.0) -> Content:
        async def open_part(part: Request) -> Content:
            answer = await self._ask("GET", holder, part, waited_s)
            try:
                descriptor, positions, _ = read_head(part, answer)
                if len(positions or ()) != answer.length and answer.status != 416:
                    raise UnavailableError("it gave more than the range that was asked for")
                return self._content(holder, answer, descriptor, positions)
            except SourceError:
                await answer.aclose()
                raise

        content = await open_verified(open_part, request)
        content.body = _PeerBody(
            content.body, holder, self._standing, self._fetched, lambda error: self._note(holder, request, error)
        )
        return content

    def _content(self, holder: Holder, answer: Answer, descriptor: Descriptor, positions: range | None) -> Content:
        """What a peer gives. Raises `NotFoundError` when its bytes would come from this node itself."""
        lineage = (holder.target.name, *read_names(answer.headers.get(LINEAGE_HEADER), LINEAGE_MAX))
        if self._index.me().name in lineage or len(lineage) > LINEAGE_MAX:
            raise NotFoundError(f"{holder.target.name} has its bytes from this node, or from very far")
        givers = read_names(answer.headers.get(GIVERS_HEADER), LINEAGE_MAX) or lineage[:1]
        source = "peer" if answer.headers.get(SOURCE_HEADER, "store") == "store" else "peer_in_flight"
        return Content(
            descriptor,
            positions,
            answer,
            "peer",
            holder.target.name,
            list(givers),
            zone=holder.zone,
            source=source,
            lineage=lineage,
            relays=[name for name in lineage if name not in givers],
        )

    async def _ask(self, method: str, holder: Holder, request: Request, waited_s: float = 0.0) -> Answer:
        repository = request.repository
        path = f"/v2/{repository.name}/{request.kind.value}/{request.digest}?ns={repository.registry}"
        byte_range = str(request.range) if request.range is not None and method == "GET" else ""
        headers = {ID_HEADER: request.trail.id, READER_HEADER: quote(self._name)}
        if byte_range:
            headers["Range"] = byte_range
        if waited_s >= 1:
            headers[WAITED_HEADER] = str(int(waited_s))
        answer = await self._send(method, holder, path, headers)
        if load := Load.parse(answer.headers.get(LOAD_HEADER)):
            self._standing.hear(holder, load)
        if answer.status in OPENED:
            return answer
        await answer.aclose()
        if answer.status == 503 and ALTERNATIVES_HEADER in answer.headers:
            raise FullError(read_names(answer.headers[ALTERNATIVES_HEADER], ALTERNATIVES_MAX))
        if answer.status == 503 and "Retry-After" in answer.headers:
            raise NotYetError("its first bytes have not come yet")
        if answer.status == 403:
            self.refused += 1
        if answer.status == 404:
            raise NotFoundError(f"{holder.target.name} no longer has {request.digest}")
        raise UnavailableError(f"it answered {answer.status}")

    async def _send(self, method: str, holder: Holder, path: str, headers: dict[str, str]) -> Answer:
        if self._mac is not None:
            headers[HEADER] = self._mac.sign(holder.target, method, path, headers.get("Range", ""))
        return await self._client.ask(holder.url, method, path, headers)

    def _note(self, holder: Holder, request: Request, error: UnavailableError) -> UnavailableError:
        """Remember a failure; returns it with the holder's name."""
        name = holder.target.name
        self._standing.fail(holder, error)
        request.trail.note(What.CORRUPT if isinstance(error, CorruptError) else What.UNAVAILABLE, "peer", name)
        log.warning("peer %s cannot give %s: %s", name, request.digest, error)
        return UnavailableError(f"peer {name}: {error}")


async def _let_go(answer: Content | Descriptor) -> None:
    if isinstance(answer, Content):
        await answer.body.aclose()


class _PeerBody:
    """Counts a transfer against its holder while it lasts, and its bytes; tells when the holder breaks off."""

    def __init__(
        self,
        body: Body,
        holder: Holder,
        standing: Standing,
        fetched: Callable[[str, int], None],
        note: Callable[[UnavailableError], UnavailableError],
    ) -> None:
        self._body = body
        self._holder = holder
        self._standing = standing
        self._fetched = fetched
        self._note = note
        self._open = True
        standing.begin(holder)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        try:
            async with aclosing(self._body.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
                    self._fetched(self._holder.zone, moved(piece))
        except UnavailableError as error:
            raise self._note(error) from error

    async def aclose(self) -> None:
        """Release the connection."""
        if self._open:
            self._open = False
            self._standing.end(self._holder)
            await self._body.aclose()
