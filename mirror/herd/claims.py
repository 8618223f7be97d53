"""Asking the coordinators: of an object, in order of rank, until one answers; and keeping a lease alive."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from gossip import UnansweredError
from mirror.herd.leases import RENEW_S, Leases
from mirror.herd.words import Claim, End, Lead, Look, Release, Renewal, Scope, Seen, read_question, read_verdict, write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from mirror.herd.pace import Pace
    from mirror.herd.roster import Roster
    from mirror.herd.words import Question, Small, Verdict

ANSWER_S: Final = 0.5
"""How long a coordinator may take before the next in rank is asked."""
SILENT_S: Final = 5.0
"""How long one that did not answer is asked after the others: who claims again and again waits for it once."""
LATE_ANSWER_S: Final = 1.5
"""How long it may take when none of them answered in that time: nodes are busy when a herd begins, and each that
went its own way would cost one more copy."""
YOUNG_S: Final = 5.0
"""How long after its start a coordinator looks first whether somebody leads already."""

log = logging.getLogger(__name__)


class Members(Protocol):
    """The other members' applications."""

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        """What a member answers. Raises `gossip.UnansweredError`."""
        ...


class Coordinator:
    """This node's part as a coordinator, and as a giver: answers what other members ask."""

    def __init__(self, alive: Callable[[str], bool], pace: Pace, clock: Callable[[], float]) -> None:
        started_at = clock()
        self._pace = pace
        self._clock = clock
        self._leases = Leases(alive, lambda: clock() - started_at < YOUNG_S)

    def answer(self, member: str, payload: bytes) -> bytes:
        """The verdict on what a member asks. Raises ValueError for what cannot be read."""
        question = read_question(payload)
        if isinstance(question, Look):
            return write(Seen(self._pace.too_slow(question)))
        return write(self._leases.answer(member, question, self._clock()))

    def leaders(self, object_name: str) -> list[str]:
        """Who leads an object, as far as this node coordinates it."""
        return self._leases.leaders(object_name)


class Claims:
    """How this node claims, renews and releases. Closed by `aclose`."""

    def __init__(self, members: Members, roster: Callable[[], Roster]) -> None:
        self._members = members
        self.roster = roster
        self._silent: dict[str, float] = {}  # who did not answer, and when
        self._tasks: set[asyncio.Task[None]] = set()
        self._releasing: dict[tuple[Scope, str], asyncio.Task[None]] = {}

    async def claim(self, claim: Claim) -> Verdict:
        """What the first coordinator that answers says; when none does, twice, this node goes its own way."""
        if releasing := self._releasing.get((claim.scope, claim.object)):
            # Else the claim would come first, be granted as a lease that is held, and that be released.
            await asyncio.wait([releasing])
        clock = asyncio.get_running_loop().time
        began = clock() - claim.waited_s
        for answer_s in (ANSWER_S, LATE_ANSWER_S):
            ranked = self._coordinators(claim)
            for name in sorted(ranked, key=self._is_silent):
                try:
                    claim = replace(claim, second=name != ranked[0], waited_s=clock() - began)
                    return await self._ask(name, claim, answer_s)
                except (UnansweredError, ValueError) as error:
                    log.debug("coordinator %s of %s: %s", name, claim.object, error)
                    self._silent = {other: at for other, at in self._silent.items() if self._is_silent(other)}
                    self._silent[name] = clock()
        return Lead(escape=True)

    async def look(self, member: str, look: Look) -> bool | None:
        """Whether a member that gives an object to this one is too slow; None when it does not say."""
        try:
            seen = await self._ask(member, look)
        except (UnansweredError, ValueError):
            return None
        return seen.slow if isinstance(seen, Seen) else None

    def hold(self, scope: Scope, object_name: str, offset: int) -> Lease:
        """A lease that was just granted, renewed from now on."""
        return Lease(self, scope, object_name, offset)

    def release(self, release: Release) -> None:
        """Give a lease back; a claim that is made afterwards arrives afterwards."""
        key = release.scope, release.object
        task = self._releasing[key] = self.spawn(self.tell(release))
        task.add_done_callback(lambda done: self._releasing.get(key) is done and self._releasing.pop(key))

    async def tell(self, word: Renewal | Release) -> None:
        """Tell the coordinator that is in charge, and all that would be next: whoever goes, the others know already."""
        names = self._coordinators(word)
        await asyncio.gather(*(self._ask(name, word) for name in names), return_exceptions=True)

    def spawn(self, telling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as it takes, at most until `aclose`."""
        task = asyncio.create_task(telling)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Stop renewing; leases that are held are over soon."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, name: str, question: Question | Look, answer_s: float = ANSWER_S) -> Verdict:
        return read_verdict(await self._members.ask(name, write(question), answer_s))

    def _is_silent(self, name: str) -> bool:
        return asyncio.get_running_loop().time() - self._silent.get(name, float("-inf")) < SILENT_S

    def _coordinators(self, question: Question) -> list[str]:
        roster, key = self.roster(), question.object.encode()
        return roster.in_zone(key) if question.scope is Scope.ZONE else roster.in_cluster(key)


class Lease:
    """The right to lead; `progress` tells how far the object has come, and is replaced by what knows more of that."""

    def __init__(self, claims: Claims, scope: Scope, object_name: str, offset: int) -> None:
        self.progress: Callable[[], int] = lambda: offset
        self._claims = claims
        self._scope = scope
        self._object = object_name
        self._renewing = claims.spawn(self._renew())

    def end(self, end: End, small: Small | None = None, *, retry_s: float = 0.0, registry: bool = False) -> None:
        """Give it back, once: later calls do nothing. See `Release` for the arguments."""
        if not self._renewing.cancelling() and not self._renewing.done():
            self._renewing.cancel()
            self._claims.release(Release(self._scope, self._object, end, retry_s, small, registry))

    async def _renew(self) -> None:
        while True:
            await self._claims.tell(Renewal(self._scope, self._object, self.progress()))
            await asyncio.sleep(RENEW_S)
