"""What this node holds is given only in the names under which it is known: content by its digest alone has no owner.

Whoever asks chooses the name of the registry, and could choose one that says yes to everything. So as soon as any
registry is protected (`mirror.policy`), it matters whose an object is, and the store is asked (`Store.origins`):

- in the name of a protected registry an object is given if it is known to belong to that very repository;
- in the name of another one, if it is known to belong to any registry that is not protected.

A store that keeps what passes through had the bytes from each name that it notes. containerd notes a registry for all
that an image of it lists, also where it had the bytes from elsewhere, so whoever lists a private digest makes a name
for it. What a containerd notes to be of a protected registry too is therefore given in no other registry's name.

Everything else is not found here, and comes from another node or the registry itself. This stands before the store on
both faces, so a node decides by its own policy what it gives to peers; all nodes should have the same. It costs one
question to the runtime for each object, the first time.

What is in flight is shared in the name of one registry only, after that registry said yes to each who asks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from mirror.errors import NotFoundError
from mirror.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.oci import Descriptor, Repository
    from mirror.policy import Policy
    from mirror.source import Content, Request
    from mirror.stores import Store

OBJECTS_MAX: Final = 16384
"""Objects whose origins are remembered. They are asked for again when what is remembered does not suffice."""


class Belonging:
    """A store in front of which it is asked whose an object is."""

    def __init__(self, store: Store, policy: Callable[[], Policy]) -> None:
        self._store = store
        self._policy = policy
        self._origins: OrderedDict[Digest, frozenset[Repository]] = OrderedDict()

    @property
    def keeps(self) -> bool:
        """As the store does."""
        return self._store.keeps

    async def resolve(self, request: Request) -> Descriptor:
        """As the store does."""
        descriptor = await self._store.resolve(request)
        await self._check(request.repository, descriptor.digest)
        return descriptor

    async def open(self, request: Request) -> Content:
        """As the store does."""
        content = await self._store.open(request)
        try:
            await self._check(request.repository, content.descriptor.digest)
        except BaseException:
            await content.body.aclose()
            raise
        return content

    async def referring(self, repository: Repository, subject: Digest) -> Mapping[Digest, bytes]:
        """The manifests in the store that refer to another one, and belong to the repository."""
        policy = self._policy()
        belonging = {}
        for digest, data in (await self._store.referring(subject)).items():
            origins = await self._store.origins(digest)
            if repository in origins and (not policy.protects or self._may(policy, repository, origins)):
                belonging[digest] = data
        return belonging

    async def _check(self, repository: Repository, digest: Digest) -> None:
        """Raises `NotFoundError`, and `UnavailableError` when the store cannot say whose an object is."""
        policy = self._policy()
        if not policy.protects or self._may(policy, repository, self._origins.get(digest, frozenset())):
            return
        origins = self._origins[digest] = await self._store.origins(digest)
        self._origins.move_to_end(digest)
        if len(self._origins) > OBJECTS_MAX:
            self._origins.popitem(last=False)
        if not self._may(policy, repository, origins):
            raise NotFoundError(f"{digest} is not known here as an object of {repository}")

    def _may(self, policy: Policy, repository: Repository, origins: frozenset[Repository]) -> bool:
        known = {origin.registry for origin in origins}
        protected = {registry for registry in known if policy.may_be_protected(registry)}
        if policy.is_protected(repository.registry):
            return repository in origins and (self._store.keeps or protected <= {repository.registry})
        return known > protected and (self._store.keeps or not protected)
