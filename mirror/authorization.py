"""Who may have what this node or a peer holds of a protected registry: those whom the registry lets in.

The agent has no credentials and decides nothing itself. For a registry with `authorize = "upstream"` it asks the
registry, by HEAD and with the client's own header, before it gives anything, and passes a refusal on as it came. A
yes is kept for `YES_S` under (repository, hash of the header), and not past the end of a token that says when it ends.
A repository that the registry shows to nobody in particular is public, and needs no more.

Being let into a repository is one thing, what is in it another: a digest of another repository could be asked for in
its name. So each object has to be *attested* as well: the registry said so itself, or it is listed in a manifest
that was attested, which the registry checked when it was pushed. (It does not check what a manifest says to be
elsewhere, with `urls`, so these do not count here.) It is attested as a manifest or as a blob: a registry never
looks into a blob, so one that reads like a manifest lists nothing. And whatever any registry says, content that is held
is given in the names alone under which it is known to be held: `mirror.belonging`.

The price: one or two HEADs for each pull, and nothing from here for those who were not let in some minutes ago while
the registry is away.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from mirror.challenge import Challenge, expires_at
from mirror.errors import RefusedError, SourceError, UnavailableError
from mirror.listed import listed
from mirror.oci import MANIFEST_BYTES_MAX, Digest, Kind
from mirror.policy import Unreachable
from mirror.source import MemoryBody, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci import Descriptor, Repository
    from mirror.policy import Policy
    from mirror.source import Content, Request

Element = TypeVar("Element")

log = logging.getLogger(__name__)

YES_S: Final = 300.0
"""How long a yes counts. More spares the registry questions; who lost access keeps it here for so long."""
NO_S: Final = 60.0
"""How long a repository counts as not public, before it is tried again."""
CLIENTS_MAX: Final = 4096
OBJECTS_MAX: Final = 65536
"""What is remembered: who was let in where, and what was attested. The oldest goes first."""

_ANYBODY: Final = b""


class Attesting(Protocol):
    """The registries."""

    async def attest(self, request: Request) -> Descriptor:
        """May this client have it? The registry itself answers. Raises `SourceError`."""
        ...

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        """A token as nobody in particular. Raises `UnavailableError`."""
        ...


class Authorization:
    """Asks the registries, and remembers. `key` makes the hashes of headers; `clock` is in seconds of Unix time."""

    def __init__(
        self, upstream: Attesting, policy: Callable[[], Policy], *, clock: Callable[[], float], key: bytes
    ) -> None:
        self._upstream = upstream
        self._policy = policy
        self._clock = clock
        self._key = key
        self._admitted: _Remembered[tuple[Repository, bytes]] = _Remembered(CLIENTS_MAX, clock)
        self._private: _Remembered[Repository] = _Remembered(CLIENTS_MAX, clock)
        self._attested: _Remembered[tuple[Repository, Kind, Digest]] = _Remembered(OBJECTS_MAX, clock)

    def admits(self, repository: Repository, authorization: str | None) -> bool:
        """Whether a client with this header is known to be let into the repository, or need not be."""
        return (
            not self._policy().is_protected(repository.registry)
            or (repository, _ANYBODY) in self._admitted
            or (repository, self._hash(authorization)) in self._admitted
        )

    def admits_unasked(self, repository: Repository, authorization: str | None) -> bool:
        """The same while the registry does not answer."""
        is_open = self._policy().of(repository.registry).unreachable is Unreachable.OPEN
        return is_open or self.admits(repository, authorization)

    async def check(self, request: Request) -> None:
        """Let a request by digest pass, or raise what goes back to the client."""
        repository, attested = request.repository, (request.repository, request.kind, request.digest)
        if not self._policy().is_protected(repository.registry):
            return
        if self.admits(repository, request.authorization) and attested in self._attested:
            return
        try:
            await self.resolve(request)
        except UnavailableError as error:
            if self._policy().of(repository.registry).unreachable is not Unreachable.OPEN:
                raise
            log.warning("%s is not asked whom to let in: %s", repository.registry, error)

    async def resolve(self, request: Request) -> Descriptor:
        """What a protected registry says of an object to this client; a yes is remembered. Raises `SourceError`."""
        admitted = self._hash(request.authorization)
        try:
            descriptor = await self._upstream.attest(request)
        except RefusedError as refusal:
            public = await self._as_anybody(request, refusal)
            if public is None:
                raise
            descriptor, admitted = public, _ANYBODY
        ends = self._clock() + YES_S
        if request.authorization is not None and admitted != _ANYBODY:
            ends = min(ends, expires_at(request.authorization) or ends)
        self._admitted.add((request.repository, admitted), ends)
        self.attested(request.repository, request.kind, descriptor.digest)
        return descriptor

    def attested(self, repository: Repository, kind: Kind, digest: Digest) -> None:
        """The registry is known to have an object in a repository."""
        self._attested.add((repository, kind, digest), self._clock() + YES_S)

    async def listing(self, request: Request, content: Content) -> Content:
        """The same content; if it is a manifest of a protected registry, what it lists is attested."""
        is_whole_manifest = request.kind is Kind.MANIFEST and content.positions and not content.partial
        if not (is_whole_manifest and self._policy().is_protected(request.repository.registry)):
            return content
        data = await read_all(content.body, MANIFEST_BYTES_MAX)
        for each in listed(data):
            if not each.elsewhere:
                self.attested(request.repository, each.kind, each.digest)
        content.body = MemoryBody(data)
        return content

    async def _as_anybody(self, request: Request, refusal: RefusedError) -> Descriptor | None:
        """What the registry says to nobody in particular, when the client did not say who it is; None: nothing."""
        challenge = Challenge.find(refusal.headers)
        if request.authorization is not None or refusal.status != 401 or challenge is None:
            return None
        if request.repository in self._private:
            return None
        try:
            token = await self._upstream.token_for_anybody(request.repository.registry, challenge)
            return await self._upstream.attest(replace(request, authorization=f"Bearer {token}"))
        except RefusedError:
            self._private.add(request.repository, self._clock() + NO_S)
        except SourceError as error:
            log.info("whether %s is public is not known: %s", request.repository, error)
        return None

    def _hash(self, authorization: str | None) -> bytes:
        """Stands for a header; without one the registry is asked as nobody in particular."""
        if authorization is None:
            return _ANYBODY
        return hashlib.blake2b(authorization.encode(), key=self._key, digest_size=16).digest()


class _Remembered(Generic[Element]):
    """A set whose elements go at a time, in seconds of Unix time, or when there are too many."""

    def __init__(self, elements_max: int, clock: Callable[[], float]) -> None:
        self._elements_max = elements_max
        self._clock = clock
        self._ends: OrderedDict[Element, float] = OrderedDict()

    def __contains__(self, element: Element) -> bool:
        return self._ends.get(element, 0.0) > self._clock()

    def add(self, element: Element, ends: float) -> None:
        self._ends[element] = ends
        self._ends.move_to_end(element)
        if len(self._ends) > self._elements_max:
            self._ends.popitem(last=False)
