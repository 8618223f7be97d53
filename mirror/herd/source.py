"""Content for which nodes come together: from holders, from whoever fetches it, or from upstream as their leader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from mirror.choice import Search
from mirror.errors import FullError, NotFoundError, NotYetError, OverQuotaError, RefusedError, UnavailableError
from mirror.floor import Rating, below_floor
from mirror.herd.expected import Expected
from mirror.herd.leases import PATIENCE_S, RENEW_S
from mirror.herd.led import led
from mirror.herd.quest import Quest
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
from mirror.oci import Descriptor
from mirror.source import Content, FirstOf, MemoryBody
from mirror.trail import What

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.choice import Holder
    from mirror.herd.claims import Claims
    from mirror.herd.pace import Pace
    from mirror.herd.roster import Roster
    from mirror.herd.words import Verdict
    from mirror.oci import Digest
    from mirror.source import Request, Source

ZONES_BARREN_S: Final = 11.0
"""With several zones nobody is told sooner that the cluster's leader has nothing: the leaders of zones wait for it, and
whoever went upstream in its place would wait as long once more for a registry that is only slow."""
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
        """Whether so few of this zone have the object that those who fetch it should give it to others meanwhile."""
        roster = self._claims.roster()
        return 2 * sum(holder.zone == roster.me.zone for holder in self._index.holders(digest)) <= roster.size

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
        quest = Quest(
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
        return led(content, list(quest.leases.values()), quest.offset)

    async def _judge(self, holder: str, name: str, rate: float, position: int) -> Rating:
        """What a peer says of itself; one that does not answer is judged by the floor rate."""
        pace = self._pace.bytes_s
        self._pace.note(rate)
        slow = await self._claims.look(holder, Look(name, position, rate, pace))
        if slow is None:
            return await below_floor(rate, position)
        return Rating.SLOW if slow else Rating.FAIR

    async def _find(self, request: Request, quest: Quest) -> Content:
        """From wherever it can be had.

        After `HOLD_S` it comes from upstream, and nobody rations that: who was refused here would be sent to the
        registry by its runtime, and cost the same.
        """
        while quest.left_s():
            quest.lose(())
            roster = self._claims.roster()
            await self._lead_on(quest)
            beyond = not roster.zoned or Scope.ZONE in quest.leases or quest.alone or quest.starved()
            if content := await self._from_holders(request, quest, roster, beyond=beyond):
                return content
            if quest.soon and quest.waited_s() < PATIENCE_S:
                await asyncio.sleep(pause_s(quest.waited_s(), self._rng))
                continue
            if (rest_s := self._closed_for(request.repository.registry)) > 0:
                await self._stay_away(rest_s, request, quest, registry=True)
                continue
            scope = Scope.CLUSTER if beyond else Scope.ZONE
            try:
                async with asyncio.timeout(quest.left_s()):
                    verdict = await self._expected.claim(self._claim(scope, quest))
            except TimeoutError:
                break
            quest.absent.clear()
            if isinstance(verdict, Lead) and scope is Scope.ZONE:
                quest.alone = verdict.escape
                if not quest.alone:
                    quest.lead_zone(self._claims.hold(scope, quest.object, quest.offset))
                    request.trail.note(What.LED, "peer")
                continue
            if content := await self._obey(verdict, request, quest, zone=None if beyond else roster.me.zone):
                return content
        request.trail.note(What.ESCAPED, "upstream")
        return await self._upstream.open(request)

    async def _lead_on(self, quest: Quest, *, got: bool = False) -> bool:
        """Whether this node still leads its zone, if it does: who gets nothing for `STARVED_S` is replaced.

        That is asked now and then, and by who has `got` first bytes, before it takes them: of several that were to lead
        the first one that has some does, and the others follow it.
        """
        if Scope.ZONE not in quest.leases or (quest.waited_s() - quest.led_at < RENEW_S and not got):
            return True
        verdict: Verdict = Wait(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(quest.left_s()):
                verdict = await self._claims.claim(replace(self._claim(Scope.ZONE, quest), got=got))
        match verdict:
            case Lead(escape=True):
                quest.alone = True
                quest.leases.pop(Scope.ZONE).end(End.LOST)
            case Lead():
                quest.led_at = quest.waited_s()
            case Wait():  # another is about to lead, if one is left
                pass
            case _:
                quest.leave_zone()
                return False
        return True

    def _closed_for(self, registry: str) -> float:
        return self._closed.get(registry, 0.0) - asyncio.get_running_loop().time()

    async def _from_holders(self, request: Request, quest: Quest, roster: Roster, *, beyond: bool) -> Content | None:
        zone = None if beyond else roster.me.zone
        known = [holder for holder in self._index.holders(request.digest) if zone in (None, holder.zone)]
        holders = [holder for holder in known if holder.target.name not in quest.lost]
        content = await self._from(holders, request, quest, Search(zone, quest.starving_s()))
        # A slow one is better than the registry, if there is no other.
        quest.soon |= any(holder.target.name in quest.slow for holder in known)
        return content

    async def _from(self, holders: Sequence[Holder], request: Request, quest: Quest, search: Search) -> Content | None:
        quest.soon = quest.promised = False
        if not holders:
            return None
        began = quest.waited_s()
        try:
            async with asyncio.timeout(quest.left_s()):
                content = await self._peers.open_from(holders, request, search)
                async with AsyncExitStack() as stack:
                    stack.push_async_callback(content.body.aclose)
                    quest.soon = not await self._lead_on(quest, got=True)
                    if quest.soon:
                        return None
                    stack.pop_all()
                    return content
        except (NotFoundError, TimeoutError):
            return None
        except UnavailableError as error:
            quest.failure = UnavailableError(str(error))  # whoever waits here is not told to come back in a moment
            quest.soon = quest.promised = isinstance(error, FullError | NotYetError)
            return None
        finally:
            quest.lose(search.lost)
            quest.slow -= search.lost
            quest.absent |= search.absent
            if search.barren:
                quest.idle_s += quest.waited_s() - began

    def _claim(self, scope: Scope, quest: Quest) -> Claim:
        waits_for_zones = scope is Scope.CLUSTER and self._claims.roster().zoned
        barren = quest.barren and (not waits_for_zones or quest.waited_s() > ZONES_BARREN_S)
        return Claim(
            scope,
            quest.object,
            offset=quest.offset,
            lost=tuple(name for name in quest.lost if name not in quest.slow)[-NAMES_MAX:],
            absent=tuple(quest.absent)[-NAMES_MAX:],
            known=quest.known,
            waited_s=quest.waited_s(),
            barren=(quest.barren,) if barren else (),
        )

    async def _obey(self, verdict: Verdict, request: Request, quest: Quest, *, zone: str | None) -> Content | None:
        """Do what the coordinator says; None when that gave nothing, and it is to be asked again."""
        match verdict:
            case Lead(escape):
                return await self._lead(request, quest, escape=escape)
            case Follow(leader):
                if content := await self._follow(leader, request, quest, zone=zone):
                    request.trail.note(What.FOLLOWED, "peer", content.holder)
                    return content
                await asyncio.sleep(pause_s(quest.waited_s(), self._rng))
            case Wait(seconds):
                quest.promised = True
                await asyncio.sleep(min(seconds * self._rng.uniform(0.9, 1.1), quest.left_s()))
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

    async def _follow(self, leader: str, request: Request, quest: Quest, *, zone: str | None) -> Content | None:
        """From the leader, or from one below it. Never from others that only wait as well: they might wait for this."""
        holder = self._index.member(leader) if leader not in quest.lost else None
        search = Search(zone, quest.starving_s())
        content = await self._from([holder], request, quest, search) if holder else None
        quest.barren = leader if leader in search.barren | search.absent else ""
        quest.promised |= leader in search.absent  # the coordinator has another lead, if need be
        return content

    async def _lead(self, request: Request, quest: Quest, *, escape: bool) -> Content | None:
        if escape:
            request.trail.note(What.ESCAPED, "upstream")
        else:
            quest.leases[Scope.CLUSTER] = self._claims.hold(Scope.CLUSTER, quest.object, quest.offset)
            request.trail.note(What.LED, "upstream")
        try:
            return await self._upstream.open(request)
        except UnavailableError as error:
            quest.failure = error
            if not error.retry_s:
                quest.end(End.CLOSED)
                raise
            await self._stay_away(error.retry_s, request, quest, registry=isinstance(error, OverQuotaError))
        return None

    async def _stay_away(self, seconds: float, request: Request, quest: Quest, *, registry: bool) -> None:
        """Wait until the registry may be asked again. Raises `UnavailableError` when that is too long for a client.

        Whoever follows this node is told by the coordinators.
        """
        quest.end(End.CLOSED, retry_s=seconds, registry=registry)
        name, now = request.repository.registry, asyncio.get_running_loop().time()
        if registry:
            self._closed = {other: until for other, until in self._closed.items() if until > now}
            self._closed[name] = now + seconds
        if quest.waited_s() + seconds >= PATIENCE_S:
            raise quest.failure or UnavailableError(f"{name} is to be left alone for {seconds:.0f} s")
        quest.idle_s += seconds
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
