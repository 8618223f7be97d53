"""Explains an image: every object of it, who holds it, and where this node would take it from now, and why.

It asks as a pull would, without credentials: what a tag means, and for the manifests that the image is made of. No
other bytes are fetched. A private image is explained as far as the cluster knows it.

Of an index only those manifests are looked into that some node has, or that are for this machine.
"""

from __future__ import annotations

import asyncio
import platform
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import SourceError
from mirror.listed import descriptors
from mirror.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_BYTES_MAX,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    Kind,
    Tag,
    manifest_media_type,
)
from mirror.source import FirstOf, Request, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirror.choice import Holder, Standing
    from mirror.journal import Entry, Journal
    from mirror.oci import Reference, Repository
    from mirror.policy import Policy
    from mirror.source import Source

PARTS_MAX: Final = 1000
"""An image that has more objects is explained up to here."""
CANDIDATES_SHOWN_MAX: Final = 16
ANSWER_S_MAX: Final = 20.0
"""For everything; what was not found out by then is told as such."""

ACCEPT: Final = ", ".join([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*"])
"""Registries hide manifests of a type that was not asked for."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_HERE: Final = f"linux/{_ARCHITECTURES.get(platform.machine(), platform.machine())}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that holds an object. `load`: the part of its upload slots that is taken; `remark`: what is against it."""

    name: str
    zone: str
    near: bool
    load: float
    remark: str = ""


@dataclass(slots=True)
class Part:
    """One object, and what would become of a request for it.

    `source` is where it would come from: store, transfer, peer (the first candidate) or upstream; aside when the
    runtime is sent to the registry itself. `holders` is how many nodes have it beside this one, and `candidates` the
    first of them in the order in which they would be asked. `last` is the last answer that this node's runtime got
    about it; `error` says why it could not be looked into.
    """

    role: str
    digest: str
    media_type: str
    size: int | None
    platform: str = ""
    source: str = ""
    why: str = ""
    holders: int = 0
    candidates: list[Candidate] = field(default_factory=list)
    last: Entry | None = None
    error: str = ""


@dataclass(slots=True)
class Explanation:
    """An image: what its tag means and who says so, the last answer about the tag, and the objects.

    `protected`: each object is given to those alone whom the registry lets in. `complete` is False when time ran out,
    or there are more than `PARTS_MAX` objects.
    """

    image: str
    digest: str
    meaning: str
    last: Entry | None
    protected: bool = False
    parts: list[Part] = field(default_factory=list)
    complete: bool = True


class Holders(Protocol):
    """Who holds what."""

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...


class Cluster(Holders, Protocol):
    """That, and what tags were last known to mean."""

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        """The digest that some node most recently saw the tag mean."""
        ...


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains from what an agent has: its sources, its index, what it thinks of peers, what it answered.

    `trusted` is the index without the holders that are in doubt.
    """

    store: Source
    in_flight: Source
    peers: Source
    upstream: Source
    cluster: Cluster
    trusted: Holders
    standing: Standing
    journal: Journal
    policy: Callable[[], Policy]

    async def explain(self, repository: Repository, reference: Reference) -> Explanation:
        """Explain an image. Raises `SourceError` when nobody says what its tag means."""
        digest, meaning = await self._meaning(repository, reference)
        name = f"{repository}@{reference}" if isinstance(reference, Digest) else f"{repository}:{reference}"
        last = self._last(repository, Kind.MANIFEST, reference)
        policy = self.policy()
        explanation = Explanation(name, str(digest), meaning, last, policy.is_protected(repository.registry))
        mirrored = policy.mirrors(repository, reference)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                explanation.complete = await self._walk(explanation.parts, repository, digest, mirrored=mirrored)
        except TimeoutError:
            explanation.complete = False
        return explanation

    async def _meaning(self, repository: Repository, reference: Reference) -> tuple[Digest, str]:
        if isinstance(reference, Digest):
            return reference, "the name says so itself"
        try:
            descriptor = await self.upstream.resolve(Request(repository, Kind.MANIFEST, reference, accept=ACCEPT))
        except SourceError as error:
            known = self.cluster.last_known(repository, reference)
            if known is None:
                raise
            return known, f"the last that the cluster knew, since the registry, asked without credentials: {error}"
        return descriptor.digest, "the registry says so now"

    async def _walk(self, parts: list[Part], repository: Repository, root: Digest, *, mirrored: bool) -> bool:
        """Add every object, from the top down; whether all of them fit."""
        seen = {root}
        queue = deque([Part("manifest", str(root), "", None)])
        while queue:
            if len(parts) >= PARTS_MAX:
                return False
            part = queue.popleft()
            parts.append(part)
            kind = Kind.MANIFEST if part.role in {"index", "manifest"} else Kind.BLOB
            request = Request(repository, kind, Digest.parse(part.digest), accept=ACCEPT)
            await self._decide(part, request)
            if not (mirrored and self.policy().mirrors(repository, request.digest)):
                part.source, part.why = "aside", "the rules for registries leave it to the registry itself"
            if kind is Kind.MANIFEST and (part.source != "upstream" or part.platform in {"", _HERE}):
                for child in await self._look_into(part, request):
                    if (digest := Digest.parse(child.digest)) not in seen:
                        seen.add(digest)
                        queue.append(child)
        return True

    async def _look_into(self, part: Part, request: Request) -> list[Part]:
        """Read a manifest, and say of which parts it is made."""
        try:
            content = await FirstOf([self.store, self.peers, self.upstream]).open(request)
            data = await read_all(content.body, MANIFEST_BYTES_MAX)
            part.size, part.media_type = len(data), manifest_media_type(data) or ""
            children = list(_children(data))
        except SourceError as error:
            part.error = f"it cannot be read without credentials: {error}"
            return []
        except ValueError as error:
            part.error = f"it is no manifest that can be read: {error}"
            return []
        if any(child.role == "manifest" for child in children):
            part.role = "index"
        return children

    async def _decide(self, part: Part, request: Request) -> None:
        """Where the object would come from; the order is that of `mirror.pull`."""
        holders = self.cluster.holders(request.digest)
        asked = list(self.standing.ranked(self.trusted.holders(request.digest)))
        doubted = [holder for holder in holders if holder not in asked]
        part.holders = len(holders)
        part.candidates = [self._candidate(holder) for holder in asked[:CANDIDATES_SHOWN_MAX]]
        part.candidates += [
            self._candidate(holder, "not asked: it may have given wrong bytes")
            for holder in doubted[: CANDIDATES_SHOWN_MAX - len(part.candidates)]
        ]
        part.last = self._last(request.repository, request.kind, request.digest)
        if await _has(self.store, request):
            part.source, part.why = "store", "this node has it"
        elif await _has(self.in_flight, request):
            part.source, part.why = "transfer", "it is on its way to this node already"
        elif asked:
            part.source, part.why = "peer", _reason(part.candidates[0], len(asked))
        elif doubted:
            part.source, part.why = "upstream", "all nodes that hold it are in doubt"
        else:
            part.source, part.why = "upstream", "no other node holds it"

    def _candidate(self, holder: Holder, remark: str = "") -> Candidate:
        opinion = self.standing.opinion(holder)
        if not remark and opinion.avoided_s:
            remark = f"asked last for {opinion.avoided_s:.0f} s more: {opinion.avoided_because}"
        elif not remark and holder.suspect:
            remark = "asked last: it may be gone"
        elif not remark and opinion.load >= 1:
            remark = "asked last: its upload slots are taken"
        return Candidate(holder.target.name, holder.zone, opinion.near, round(opinion.load, 3), remark)

    def _last(self, repository: Repository, kind: Kind, reference: Reference) -> Entry | None:
        return self.journal.last(repository.registry, f"{repository.name}/{kind.value}/{reference}")


async def _has(source: Source, request: Request) -> bool:
    try:
        await source.resolve(request)
    except SourceError:
        return False
    return True


def _reason(first: Candidate, count: int) -> str:
    if first.remark:
        return "there is something against every node that holds it, and they are asked before upstream nonetheless"
    place = "in this node's zone" if first.near else "in another zone"
    if count == 1:
        return f"the only node that holds it, {place}"
    return f"{place}, and the less loaded of two taken at random; {count} nodes hold it"


def _children(manifest: bytes) -> Iterator[Part]:
    """The objects that a manifest lists. Raises ValueError for what is none."""
    for each in descriptors(manifest):
        where = each.descriptor.get("platform")
        names = ("os", "architecture", "variant")
        place = "/".join(str(where[name]) for name in names if name in where) if isinstance(where, dict) else ""
        yield Part(each.role, str(each.digest), str(each.descriptor.get("mediaType", "")), each.size, place)
