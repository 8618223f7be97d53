"""The way in: what the operator's policy keeps out never reaches the sources behind.

1. What is not mirrored (filters, the kill switch) is not found: the runtime goes to the registry itself.
2. A tag is explained (`mirror.tags`); from then on all is by digest.
3. Of a protected registry each object is given to those alone whom the registry lets in (`mirror.authorization`).

Then `mirror.pull` answers. A refusal goes back as the registry gave it, with one exception: a password that was refused
is answered without the challenge, because containerd would try it five times, and accounts are locked for less.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mirror.challenge import is_basic
from mirror.errors import NotFoundError, RefusedError
from mirror.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.authorization import Authorization
    from mirror.listings import Listing, ListingRequest, Lists
    from mirror.oci import Descriptor, Reference, Repository
    from mirror.policy import Policy
    from mirror.source import Content, Request, Source
    from mirror.tags import Tags


class Gate:
    """`pull` and `lists` (a `Source` and a `Lists`) for those whom the policy lets through."""

    def __init__(
        self,
        pull: Source,
        lists: Lists,
        tags: Tags,
        authorization: Authorization,
        policy: Callable[[], Policy],
    ) -> None:
        self._pull = pull
        self._lists = lists
        self._tags = tags
        self._authorization = authorization
        self._policy = policy

    async def resolve(self, request: Request) -> Descriptor:
        """Say what is meant."""
        with self._passing(request):
            if not isinstance(request.reference, Digest):
                return await self._tags.resolve(request)
            await self._authorization.check(request)
            return await self._pull.resolve(request)

    async def open(self, request: Request) -> Content:
        """Open an object."""
        with self._passing(request):
            if isinstance(request.reference, Digest):
                await self._authorization.check(request)
            else:
                request = request.by_digest((await self._tags.resolve(request)).digest)
            return await self._authorization.listing(request, await self._pull.open(request))

    async def list(self, request: ListingRequest) -> Listing:
        """Get one page of a list."""
        with _not_repeated(request.authorization):
            self._admit(request.repository, request.subject)
            return await self._lists.list(request)

    @contextmanager
    def _passing(self, request: Request) -> Iterator[None]:
        with _not_repeated(request.authorization):
            self._admit(request.repository, request.reference)
            yield

    def _admit(self, repository: Repository, reference: Reference | None) -> None:
        if not self._policy().mirrors(repository, reference):
            raise NotFoundError(f"{repository} is not mirrored")


class Switched:
    """What other nodes are given, as long as anything is mirrored."""

    def __init__(self, source: Source, policy: Callable[[], Policy]) -> None:
        self._source = source
        self._policy = policy

    async def resolve(self, request: Request) -> Descriptor:
        """As the source does."""
        self._check()
        return await self._source.resolve(request)

    async def open(self, request: Request) -> Content:
        """As the source does."""
        self._check()
        return await self._source.open(request)

    def _check(self) -> None:
        if not self._policy().mirroring:
            raise NotFoundError("nothing is mirrored")


@contextmanager
def _not_repeated(authorization: str | None) -> Iterator[None]:
    """Leave the challenge out of the answer to a password that was refused."""
    try:
        yield
    except RefusedError as refusal:
        if refusal.status != 401 or not is_basic(authorization):
            raise
        headers = tuple((name, value) for name, value in refusal.headers if name.lower() != "www-authenticate")
        raise replace(refusal, headers=headers) from refusal
