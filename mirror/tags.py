"""Tags: what does this name mean now? From the answer on all is by digest.

Who says it is a matter of policy (`mirror.policy.Tags`). Mostly that is the registry, asked with the client's own
credentials: what it says is *verified*, and told to all nodes. With `cluster` a node that is told so asks nobody until
the TTL is over. When the registry does not answer in time, the last that the cluster knew is good enough, for those
who are let in (`mirror.authorization`).

One question at a time: those who ask the same, in the same way and with the same credentials, share the answer. It is
waited for as long as nothing is known here; else for `BUDGET_S`, and what comes later is noted for the next one.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import NotFoundError, SourceError, UnavailableError
from mirror.oci import Descriptor, Digest, Tag
from mirror.policy import Tags as Rule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.authorization import Authorization
    from mirror.elements import Known
    from mirror.oci import Repository
    from mirror.policy import Policy
    from mirror.source import Request, Source

log = logging.getLogger(__name__)

BUDGET_S: Final = 5.0
"""How long the registry may take when there is something else to say. More makes pulls wait longer while it is away,
less lets a slow one go unheard."""

RENEWAL_S: Final = 60.0
"""How old what the cluster knows may be before the same is said again, where the registry is asked each time. It is of
use only when the registry goes away; less costs all nodes more messages."""

_Question = tuple["Repository", "Tag", str, "str | None"]


class Knowledge(Protocol):
    """What the cluster knows of tags; `now` is in seconds of Unix time."""

    def known(self, repository: Repository, tag: Tag, now: float) -> Known:
        """What is known of a tag."""
        ...

    def verified(self, repository: Repository, tag: Tag, digest: Digest, now: float, old_s: float) -> None:
        """The registry said what a tag means. It need not be told if somebody said the same within `old_s`."""
        ...


class Tags:
    """Explains tags; `objects` describes what they mean, and `remember` is told what the registry said."""

    def __init__(
        self,
        objects: Source,
        authorization: Authorization,
        knowledge: Knowledge,
        policy: Callable[[], Policy],
        *,
        remember: Callable[[Request, Digest], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._objects = objects
        self._authorization = authorization
        self._knowledge = knowledge
        self._policy = policy
        self._remember = remember
        self._clock = clock
        self._asking: dict[_Question, asyncio.Task[Descriptor]] = {}

    async def resolve(self, request: Request) -> Descriptor:
        """Describe what the request's tag means. Raises `SourceError`; `NotFoundError` where policy says so."""
        repository, tag = request.repository, request.reference
        assert isinstance(tag, Tag), "a digest means itself"
        rules = self._policy().of(repository.registry)
        rule = rules.tag_rule(repository.name, tag)
        if rule is Rule.NEVER:
            raise NotFoundError("this tag is not mirrored: only digests are")
        known = self._knowledge.known(repository, tag, self._clock())
        client = (repository, request.authorization)
        fresh = known.fresh(self._clock(), rules.tag_ttl_s)
        if rule is Rule.CLUSTER and fresh is not None and self._authorization.admits(*client):
            with suppress(SourceError):  # nobody has what it means: the registry may know better
                return await self._describe(request, fresh)
        try:
            return await self._ask(request, BUDGET_S if known.last else None)
        except UnavailableError as error:
            # Looked up anew: others may have told something while the registry was waited for.
            last = self._knowledge.known(repository, tag, self._clock()).last
            if last is None or not self._authorization.admits_unasked(*client):
                raise
            log.warning("%s:%s is the cluster's last known: %s", repository, tag, error)
            return await self._describe(request, last)

    async def _describe(self, request: Request, digest: Digest) -> Descriptor:
        descriptor = await self._objects.resolve(request.by_digest(digest))
        self._authorization.attested(request.repository, digest)
        return descriptor

    async def _ask(self, request: Request, budget_s: float | None) -> Descriptor:
        """What the registry says; raises `UnavailableError` when it does not within the budget (None: its own)."""
        assert isinstance(request.reference, Tag)
        question = (request.repository, request.reference, request.accept, request.authorization)
        asking = self._asking.get(question)
        if asking is None:
            asking = self._asking[question] = asyncio.create_task(self._verify(request, request.reference))
            asking.add_done_callback(lambda task: self._answered(question, task))
        done, _ = await asyncio.wait({asking}, timeout=budget_s)
        if not done:
            raise UnavailableError(f"{request.repository.registry} did not answer within {budget_s:g} s")
        return asking.result()

    async def _verify(self, request: Request, tag: Tag) -> Descriptor:
        descriptor = await self._authorization.resolve(request)
        old_s = min(RENEWAL_S, self._policy().of(request.repository.registry).tag_ttl_s)
        self._knowledge.verified(request.repository, tag, descriptor.digest, self._clock(), old_s)
        await self._remember(request, descriptor.digest)
        return descriptor

    def _answered(self, question: _Question, task: asyncio.Task[Descriptor]) -> None:
        del self._asking[question]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; that nobody does is no error
