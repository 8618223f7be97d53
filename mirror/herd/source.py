"""Content for which nodes come together: from holders, from whoever fetches it, or from upstream as their leader."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from mirror.choice import Search
from mirror.errors import FullError, NotFoundError, NotYetError, OverQuotaError, RefusedError, UnavailableError
from mirror.floor import Rating, below_floor
from mirror.herd.expected import Expected
from mirror.herd.leases import PATIENCE_S
from mirror.herd.words import (
    NAMES_MAX,
    Claim,
    Closed,
    End,
    Follow,
    Given,
    Lead,
    Look,
    Noted,
    Probe,
    Scope,
    Small,
    Wait,
    object_name,
)
from mirror.oci import SMALL_BYTES_MAX, Descriptor
from mirror.pieces import moved
from mirror.source import Content, FirstOf, MemoryBody
from mirror.trail import What

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from mirror.choice import Holder
    from mirror.herd.claims import Claims, Lease
    from mirror.herd.pace import Pace
    from mirror.herd.roster import Roster
    from mirror.herd.words import Verdict
    from mirror.oci import Digest
    from mirror.pieces import FilePiece, Piece, SocketPiece
    from mirror.source import Body, Request, Source

HOLD_S: Final = 19.0
"""After so long a request goes upstream on its own whatever the coordinator says. All waits together stay below the
25 s after which the client is sent elsewhere."""
STARVED_S: Final = 3.0
"""How long a node waits for a source in its own zone before it looks beyond."""
FULL_S: Final = 9.0
"""The same where somebody in the zone has it and no slot free: there will be one for who waits (`mirror.upload_slots`),
and what crosses into the zone meanwhile it would have had anyway."""
LOST_S: Final = 2.0
"""How long a member that broke off is not asked again by the same request."""
PAUSE_S: Final = 0.1
"""How long, on average, before a node that got nothing tries again, at first."""
PAUSE_GROWTH: Final = 0.1
"""So much of the time that it has waited is added, up to `PAUSE_S_MAX`."""
PAUSE_S_MAX: Final = 0.5

log = logging.getLogger(__name__)


class Index(Protocol):
    """Who holds what, and who is who."""

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...

    def member(self, name: str) -> Holder | None:
        """How to reach a member."""
        ...


class Givers(Protocol):
    """The peers, as far as the herd goes."""

    async def resolve(self, request: Request) -> Descriptor:
        """See `mirror.source.Source`."""
        ...

    async def open(self, request: Request) -> Content:
        """See `mirror.source.Source`."""
        ...

    async def open_from(self, holders: Sequence[Holder], request: Request, search: Search) -> Content:
        """Open at one of these, or at one that they name; see `mirror.peers`. Raises `SourceError`."""
        ...


@dataclass(slots=True)
class _Quest:
    """One request on its way to a source: since when, who was lost on the way, which leases it got.

    Who was left for being `slow` is no better source for some seconds, but lives and may lead others well enough.
    """

    object: str
    offset: int
    begun_at: float
    known: bool
    lost: dict[str, float]
    slow: frozenset[str] = frozenset()
    absent: set[str] = field(default_factory=set)
    leases: dict[Scope, Lease] = field(default_factory=dict)
    failure: UnavailableError | None = None
    soon: bool = False  # somebody has it and is to be asked again: for a slot, for first bytes, although it is slow
    full: bool = False  # for a slot

    def lose(self, names: Iterable[str]) -> None:
        """These broke off or do not answer; after some seconds they are as good as others again."""
        now = asyncio.get_running_loop().time()
        self.lost = {name: at for name, at in self.lost.items() if now - at < LOST_S}
        self.lost.update(dict.fromkeys(names, now))

    def waited_s(self) -> float:
        return asyncio.get_running_loop().time() - self.begun_at

    def end(self, end: End, small: Small | None = None, *, retry_s: float = 0.0, registry: bool = False) -> None:
        for lease in self.leases.values():
            lease.end(end, small, retry_s=retry_s, registry=registry)
        self.leases.clear()


class Herd:
    """The source of every transfer: see the package's docstring. Only whole objects and their rest to the end."""

    def __init__(self, peers: Givers, upstream: Source, index: Index, claims: Claims, pace: Pace) -> None:
        self._peers = peers
        self._upstream = upstream
        self._index = index
        self._claims = claims
        self._expected = Expected(claims)
        self._pace = pace
        self._closed: dict[str, float] = {}  # registries that are not to be asked before some time
        self._rng = random.Random()  # noqa: S311 - spreads load
        self._alone = FirstOf([peers, upstream])

    def crowded(self, digest: Digest) -> bool:
        """Whether so few have the object that those who fetch it should give it to others meanwhile."""
        return 2 * len(self._index.holders(digest)) <= self._claims.roster().size

    def expect(self, request: Request, digests: Iterable[Digest]) -> None:
        """A client got a manifest by this request, and is about to ask for these, which it lists."""
        scope = Scope.ZONE if self._claims.roster().zoned else Scope.CLUSTER
        names = (
            object_name(request.repository.registry, digest) for digest in digests if not self._index.holders(digest)
        )
        self._expected.expect(Claim(scope, name, known=request.authorization is not None) for name in names)

    async def resolve(self, request: Request) -> Descriptor:
        """Describe an object; this costs upstream little."""
        return await self._alone.resolve(request)

    async def open(self, request: Request) -> Content:
        """Open the object or its rest. Where this node leads, the coordinators are told how far it comes."""
        if request.range is not None and (request.range.last is not None or request.range.suffix is not None):
            return await self._alone.open(request)
        quest = _Quest(
            object_name(request.repository.registry, request.digest),
            request.range.first if request.range else 0,
            asyncio.get_running_loop().time(),
            request.authorization is not None,
            {},
            request.slow,
        )
        quest.lose(request.left_out)
        try:
            content = await self._find(request, quest)
        except RefusedError:
            quest.end(End.REFUSED)
            raise
        except NotFoundError as error:
            quest.end(End.REFUSED)
            raise quest.failure or error from None
        except BaseException:
            quest.end(End.LOST)
            raise
        if content.origin == "peer":
            content.judge = partial(self._judge, content.holder, quest.object)
        return _led(content, quest)

    async def _judge(self, holder: str, name: str, rate: float, position: int) -> Rating:
        """What a peer says of itself; one that does not answer is judged by the floor rate."""
        pace = self._pace.bytes_s
        self._pace.note(rate)
        slow = await self._claims.look(holder, Look(name, position, rate, pace))
        if slow is None:
            return await below_floor(rate, position)
        return Rating.SLOW if slow else Rating.FAIR

    async def _find(self, request: Request, quest: _Quest) -> Content:
        while quest.waited_s() < HOLD_S:
            quest.lose(())
            roster = self._claims.roster()
            starved = quest.waited_s() > (FULL_S if quest.full else STARVED_S)
            beyond = not roster.zoned or Scope.ZONE in quest.leases or starved
            if content := await self._from_holders(request, quest, roster, beyond=beyond):
                return content
            if quest.soon and quest.waited_s() < PATIENCE_S:
                await asyncio.sleep(pause_s(quest.waited_s(), self._rng))
                continue
            if (rest_s := self._closed_for(request.repository.registry)) > 0:
                await self._stay_away(rest_s, request, quest, registry=True)
                continue
            scope = Scope.CLUSTER if beyond else Scope.ZONE
            verdict = await self._expected.claim(self._claim(scope, quest))
            quest.absent.clear()
            if isinstance(verdict, Lead) and scope is Scope.ZONE and not verdict.escape:
                quest.leases[scope] = self._claims.hold(scope, quest.object, quest.offset)
                request.trail.note(What.LED, "peer")
                continue
            if content := await self._obey(verdict, request, quest, zone=None if beyond else roster.me.zone):
                return content
        request.trail.note(What.ESCAPED, "upstream")
        return await self._upstream.open(request)

    def _closed_for(self, registry: str) -> float:
        return self._closed.get(registry, 0.0) - asyncio.get_running_loop().time()

    async def _from_holders(self, request: Request, quest: _Quest, roster: Roster, *, beyond: bool) -> Content | None:
        zone = None if beyond else roster.me.zone
        known = [holder for holder in self._index.holders(request.digest) if zone in (None, holder.zone)]
        holders = [holder for holder in known if holder.target.name not in quest.lost]
        content = await self._from(holders, request, quest, zone=zone)
        # A slow one is better than the registry, if there is no other.
        quest.soon |= any(holder.target.name in quest.slow for holder in known)
        return content

    async def _from(
        self, holders: Sequence[Holder], request: Request, quest: _Quest, *, zone: str | None
    ) -> Content | None:
        quest.soon = quest.full = False
        if not holders:
            return None
        search = Search(zone, quest.waited_s())
        try:
            return await self._peers.open_from(holders, request, search)
        except NotFoundError:
            return None
        except UnavailableError as error:
            quest.failure = UnavailableError(str(error))  # whoever waits here is not told to come back in a moment
            quest.soon = isinstance(error, FullError | NotYetError)
            quest.full = isinstance(error, FullError)
            return None
        finally:
            quest.lose(search.lost)
            quest.slow -= search.lost
            quest.absent |= search.absent

    def _claim(self, scope: Scope, quest: _Quest) -> Claim:
        return Claim(
            scope,
            quest.object,
            offset=quest.offset,
            lost=tuple(name for name in quest.lost if name not in quest.slow)[-NAMES_MAX:],
            absent=tuple(quest.absent)[-NAMES_MAX:],
            known=quest.known,
            waited_s=quest.waited_s(),
        )

    async def _obey(self, verdict: Verdict, request: Request, quest: _Quest, *, zone: str | None) -> Content | None:
        """Do what the coordinator says; None when that gave nothing, and it is to be asked again."""
        match verdict:
            case Lead(escape):
                return await self._lead(request, quest, escape=escape)
            case Follow(leader):
                if content := await self._follow(leader, request, quest, zone=zone):
                    request.trail.note(What.FOLLOWED, "peer", content.holder)
                    return content
                await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))
            case Wait(seconds):
                await asyncio.sleep(min(seconds, HOLD_S) * self._rng.uniform(0.9, 1.1))
            case Probe():
                await self._upstream.resolve(request)
                quest.known = True
            case Given(small):
                return _given(small, request)
            case Closed(seconds, registry):
                await self._stay_away(seconds, request, quest, registry=registry)
            case Noted():
                raise UnavailableError("a coordinator answered with nonsense")
        return None

    async def _follow(self, leader: str, request: Request, quest: _Quest, *, zone: str | None) -> Content | None:
        """From the leader, or from one below it. Never from others that only wait as well: they might wait for this."""
        holder = self._index.member(leader) if leader not in quest.lost else None
        return await self._from([holder], request, quest, zone=zone) if holder else None

    async def _lead(self, request: Request, quest: _Quest, *, escape: bool) -> Content | None:
        if escape:
            request.trail.note(What.ESCAPED, "upstream")
        else:
            quest.leases[Scope.CLUSTER] = self._claims.hold(Scope.CLUSTER, quest.object, quest.offset)
            request.trail.note(What.LED, "upstream")
        try:
            return await self._upstream.open(request)
        except UnavailableError as error:
            quest.failure = error
            registry = isinstance(error, OverQuotaError)
            quest.end(End.CLOSED, retry_s=error.retry_s, registry=registry)
            if not error.retry_s:
                raise
            await self._stay_away(error.retry_s, request, quest, registry=registry)
        return None

    async def _stay_away(self, seconds: float, request: Request, quest: _Quest, *, registry: bool) -> None:
        """Wait until the registry may be asked again. Raises `UnavailableError` when that is too long for a client."""
        name, now = request.repository.registry, asyncio.get_running_loop().time()
        if registry:
            self._closed = {other: until for other, until in self._closed.items() if until > now}
            self._closed[name] = now + seconds
        if quest.waited_s() + seconds >= PATIENCE_S:
            raise quest.failure or UnavailableError(f"{name} is to be left alone for {seconds:.0f} s")
        await asyncio.sleep(seconds)


class Unshared:
    """The herd as the source of one answer, which nobody can follow: it leads nobody meanwhile."""

    def __init__(self, herd: Herd) -> None:
        self._herd = herd

    async def resolve(self, request: Request) -> Descriptor:
        """As the herd does."""
        return await self._herd.resolve(request)

    async def open(self, request: Request) -> Content:
        """As the herd does; another node may lead at once."""
        content = await self._herd.open(request)
        content.unshared()
        return content


def pause_s(waited_s: float, rng: random.Random) -> float:
    """How long a node that has waited so long, and got nothing, waits before it tries again."""
    return min(PAUSE_S + PAUSE_GROWTH * waited_s, PAUSE_S_MAX) * rng.uniform(0.5, 1.5)


def _given(small: Small, request: Request) -> Content | None:
    if not request.digest.matches(small.data):
        log.error("a coordinator gave %d bytes that are not %s", len(small.data), request.digest)
        return None
    positions = request.range.resolve(len(small.data)) if request.range else range(len(small.data))
    descriptor = Descriptor(small.media_type, request.digest, len(small.data))
    return Content(descriptor, positions, MemoryBody(small.data[positions.start : positions.stop]), "peer")


def _led(content: Content, quest: _Quest) -> Content:
    """The same content, whose leases end when it does."""
    if quest.leases:
        body, size = content.body, content.descriptor.size
        if isinstance(body, MemoryBody) and len(body.data) == size and size <= SMALL_BYTES_MAX:
            quest.end(End.DONE, Small(content.descriptor.media_type, body.data))
        else:
            content.body = _LedBody(body, quest, size)
            content.unshared = partial(quest.end, End.LOST)
    return content


class _LedBody:
    """The bytes of an object that this node leads; the leases tell how far they came, also in the midst of a piece."""

    def __init__(self, body: Body, quest: _Quest, size: int | None) -> None:
        self._body = body
        self._quest = quest
        self._size = size
        self._position = quest.offset
        self._coming: FilePiece | SocketPiece | None = None
        for lease in quest.leases.values():
            lease.progress = self._progress

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes, unchanged."""
        async with aclosing(self._body.pieces()) as pieces:
            async for piece in pieces:
                self._coming = None if isinstance(piece, bytes) else piece
                yield piece
                self._coming = None
                self._position += moved(piece)

    async def aclose(self) -> None:
        """Release the source, and the leases."""
        self._quest.end(End.DONE if self._progress() == self._size else End.LOST)
        await self._body.aclose()

    def _progress(self) -> int:
        return self._position + (self._coming.sent if self._coming else 0)
