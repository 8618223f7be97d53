"""Lists while the registry is away: what this node knows of them.

Tags are those that the cluster knows (`mirror.hearsay`), as far as they are mirrored. Referrers are the manifests in
this node's store that belong to the repository. Neither need be all that the registry has, so a warning goes with the
answer (distribution-spec 1.1, "Warnings"); and where nothing is known, that is no empty list but no answer.

Of a protected registry a list is given to those alone who were let in (`mirror.authorization`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from mirror.errors import UnavailableError
from mirror.listings import Listing
from mirror.oci import OCI_INDEX, Tag, manifest_media_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from mirror.authorization import Authorization
    from mirror.listings import ListingRequest, Lists
    from mirror.oci import Digest, Repository
    from mirror.policy import Policy

log = logging.getLogger(__name__)

ASKED_S_MAX: Final = 15.0
"""How long the registry may take for a list."""
TAGS_MAX: Final = 10_000
"""Tags on one page, whatever the client asks for: 1.3 MB at most."""

WARNING: Final = "the registry does not answer; this is what this node knows, and need not be all"


class KnownTags(Protocol):
    """What the cluster knows of tags; `now` is in seconds of Unix time."""

    def tags(self, repository: Repository, now: float) -> list[Tag]:
        """The tags of a repository that mean something to anybody, in no order."""
        ...


class Referring(Protocol):
    """A store, as far as it is asked here; see `mirror.belonging.Belonging`."""

    async def referring(self, repository: Repository, subject: Digest) -> Mapping[Digest, bytes]:
        """The manifests in the store that refer to another one, and belong to the repository."""
        ...


class KnownLists:
    """A `Lists` that asks `registries`, and says what is known when they do not answer."""

    def __init__(
        self,
        registries: Lists,
        authorization: Authorization,
        known: KnownTags,
        store: Referring,
        policy: Callable[[], Policy],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._registries = registries
        self._authorization = authorization
        self._known = known
        self._store = store
        self._policy = policy
        self._clock = clock

    async def list(self, request: ListingRequest) -> Listing:
        """Get one page of a list. Raises `SourceError`."""
        try:
            async with asyncio.timeout(ASKED_S_MAX):
                return await self._registries.list(request)
        except TimeoutError:
            failure = UnavailableError(f"{request.repository.registry} did not answer within {ASKED_S_MAX:g} s")
        except UnavailableError as error:
            failure = error
        if not self._authorization.admits_unasked(request.repository, request.authorization):
            raise failure
        listing = self._tags(request) if request.subject is None else await self._referrers(request, request.subject)
        if listing is None:
            raise failure
        log.warning("what is listed of %s is what this node knows: %s", request.repository, failure)
        return listing

    def _tags(self, request: ListingRequest) -> Listing | None:
        repository, policy = request.repository, self._policy()
        tags = sorted(
            tag.name for tag in self._known.tags(repository, self._clock()) if policy.mirrors(repository, tag)
        )
        if not tags:
            return None
        query = dict(request.query)
        number = query.get("n", "")
        wanted = min(int(number), TAGS_MAX) if number.isascii() and number.isdecimal() and len(number) < 9 else TAGS_MAX
        following = [tag for tag in tags if tag > query.get("last", "")]
        page = following[:wanted]
        more = (("n", str(wanted)), ("last", page[-1])) if page and len(following) > wanted else ()
        body = orjson.dumps({"name": repository.name, "tags": page})
        return Listing("application/json", body, next_query=more, warning=WARNING)

    async def _referrers(self, request: ListingRequest, subject: Digest) -> Listing | None:
        kinds = [value for name, value in request.query if name == "artifactType"]
        found = await self._store.referring(request.repository, subject)
        described = [_descriptor(digest, data) for digest, data in found.items()]
        if not described:
            return None
        wanted = [each for each in described if not kinds or each.get("artifactType") in kinds]
        body = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": wanted})
        return Listing(OCI_INDEX, body, "artifactType" if kinds else "", warning=WARNING)


def _descriptor(digest: Digest, manifest: bytes) -> dict[str, Any]:
    """What a list of referrers says of one (distribution-spec 1.1, "Listing Referrers")."""
    document = orjson.loads(manifest)
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    described = {
        "mediaType": manifest_media_type(manifest),
        "digest": str(digest),
        "size": len(manifest),
        "artifactType": kind,
        "annotations": document.get("annotations"),
    }
    return {name: value for name, value in described.items() if value}
