"""The way in to a pull, with the operator's policy, for tests that need no cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mirror.authorization import Attesting, Authorization
from mirror.elements import Known
from mirror.gate import Gate
from mirror.listings import Lists
from mirror.oci import Descriptor, Digest, Repository, Tag
from mirror.policy import Policy
from mirror.source import Request, Source
from mirror.tags import Meaning, Tags


class Explaining(Protocol):
    """A registry, as far as it is asked for tags here."""

    async def resolve(self, request: Request) -> Descriptor:
        """See `mirror.source.Source`."""
        ...


class Registry(Attesting, Explaining, Lists, Protocol):
    """All that is asked of a registry here."""


@dataclass
class Heard:
    """What a cluster of this node alone knows of tags, and what its store was told."""

    tags: dict[Tag, Known] = field(default_factory=dict)
    remembered: list[Digest] = field(default_factory=list)

    def known(self, repository: Repository, tag: Tag, now: float) -> Known:
        return self.tags.get(tag, Known())

    def verified(self, repository: Repository, tag: Tag, digest: Digest, at: float, old_s: float) -> None:
        self.tags[tag] = Known(digest, int(at))

    async def remember(self, request: Request, digest: Digest) -> None:
        self.remembered.append(digest)


@dataclass
class Alone:
    """A registry that no other node asks; `asked` is how old its answers might be, and what was invalidated."""

    registry: Explaining
    age_s: float = 0.0
    asked: list[tuple[float, int]] = field(default_factory=list)

    async def meaning(self, request: Request, age_max_s: float, invalidated_at: int) -> Meaning:
        self.asked.append((age_max_s, invalidated_at))
        return Meaning(await self.registry.resolve(request), self.age_s)


def gated(
    pull: Source,
    upstream: Registry,
    policy: Policy = Policy(),  # noqa: B008 - it is frozen
    *,
    knowledge: Heard | None = None,
    clock: Callable[[], float] = time.time,
) -> Gate:
    """A gate as an agent has it."""
    heard = knowledge or Heard()
    authorization = Authorization(upstream, lambda: policy, clock=clock, key=b"k")
    tags = Tags(pull, Alone(upstream), authorization, heard, lambda: policy, remember=heard.remember, clock=clock)
    return Gate(pull, upstream, tags, authorization, lambda: policy)
