"""Tags: what does this name mean now? From the answer on all is by digest.

Who says it is a matter of policy (`mirror.policy.Tags`). Mostly that is the registry, asked with the client's own
credentials: what it says is *verified*, and told to all nodes. With `cluster` a node that is told so asks nobody until
the TTL is over. When the registry does not answer in time, the last that the cluster knew is good enough, for those
who are let in (`mirror.authorization`).

Nodes ask a registry together, unless it is protected (`mirror.herd.tags`). What it said to another node is verified as
of then, and how old it may be is a matter of policy as well.

One question at a time: those who ask the same, in the same way and with the same credentials, share the answer; not
those who know of an invalidation since it was asked. It is waited for as long as nothing is known here; else for
`BUDGET_S`, and what comes later is noted for the next one.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import NotFoundError, SourceError, UnavailableError
from mirror.oci import Descriptor, Digest, Tag
from mirror.policy import Authorize
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

_Question = tuple["Repository", "Tag", str, "str | None", int]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the registry said of a tag, and how many seconds ago."""

    descriptor: Descriptor
    age_s: float = 0.0


class Together(Protocol):
    """The registries, where nodes ask them together."""

    async def meaning(self, request: Request, age_max_s: float, invalidated_at: int) -> Meaning:
        """What the registry says, or said to another node.

        Not more than `age_max_s` ago, nor before the invalidation that this node knows of. Raises `SourceError`.
        """
        ...


class Knowledge(Protocol):
    """What the cluster knows of tags; `now` and `at` are in seconds of Unix time."""

    def known(self, repository: Repository, tag: Tag, now: float) -> Known:
        """What is known of a tag."""
        ...

    def verified(self, repository: Repository, tag: Tag, digest: Digest, at: float, old_s: float) -> None:
        """The registry said then what a tag means. It need not be told if somebody said the same within `old_s`."""
        ...


class Tags:
    """Explains tags; `objects` describes what they mean, and `remember` is told what the registry said."""

    def __init__(
        self,
        objects: Source,
        together: Together,
        authorization: Authorization,
        knowledge: Knowledge,
        policy: Callable[[], Policy],
        *,
        remember: Callable[[Request, Digest], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._objects = objects
        self._together = together
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
            return await self._ask(request, known)
        except UnavailableError as error:
            # Looked up anew: others may have told something while the registry was waited for.
            last = self._knowledge.known(repository, tag, self._clock()).last
            if last is None or not self._authorization.admits_unasked(*client):
                raise
            log.warning("%s:%s is the cluster's last known: %s", repository, tag, error)
            return await self._describe(request, last)

    async def _describe(self, request: Request, digest: Digest) -> Descriptor:
        descriptor = await self._objects.resolve(request.by_digest(digest))
        self._authorization.attested(request.repository, request.kind, digest)
        return descriptor

    async def _ask(self, request: Request, known: Known) -> Descriptor:
        """What the registry says; raises `UnavailableError` when it does not, be it in time only."""
        assert isinstance(request.reference, Tag)
        question = (
            request.repository,
            request.reference,
            request.accept,
            request.authorization,
            known.invalidated_at,
        )
        asking = self._asking.get(question)
        if asking is None:
            asking = self._asking[question] = asyncio.create_task(
                self._verify(request, request.reference, known.invalidated_at)
            )
            asking.add_done_callback(lambda task: self._answered(question, task))
        done, _ = await asyncio.wait({asking}, timeout=BUDGET_S if known.last else None)
        if not done:
            raise UnavailableError(f"{request.repository.registry} did not answer within {BUDGET_S:g} s")
        return asking.result()

    async def _verify(self, request: Request, tag: Tag, invalidated_at: int) -> Descriptor:
        repository = request.repository
        rules = self._policy().of(repository.registry)
        asked_at = self._clock()  # what was asked before an invalidation must not count as verified after it
        if rules.authorize is Authorize.UPSTREAM:
            meaning = Meaning(await self._authorization.resolve(request))
        else:
            age_max_s = rules.tag_age_max_s(repository.name, tag)
            meaning = await self._together.meaning(request, age_max_s, invalidated_at)
        digest, at = meaning.descriptor.digest, asked_at - meaning.age_s
        self._knowledge.verified(repository, tag, digest, at, min(RENEWAL_S, rules.tag_ttl_s))
        await self._remember(request, digest)
        return meaning.descriptor

    def _answered(self, question: _Question, task: asyncio.Task[Descriptor]) -> None:
        del self._asking[question]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; that nobody does is no error
