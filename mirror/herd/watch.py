"""Watching a herd: which node has an object from which, and how far each is, for whoever looks at it now.

No node knows that: each knows from whom its bytes come and to whom it gives them. So a look asks its way: this node,
the object's coordinators, who know its leaders, and some of its holders; then whomever those name. A member is asked on
its peer face, with a MAC as for content:

    GET /-/herd?digest=sha256:...&registry=docker.io    its `words.Part`, as JSON

Nothing is asked while nobody looks, but by whoever was given wrong bytes: it asks those through whom they came who gave
them (`HerdWatch.relayed`). A look asks members only, each once, `AT_ONCE` at a time, `ASKED_MAX` at most, for
`LOOK_S` at most; and a node looks once in `TURN_S`, whoever wants it, so that it asks `ASKED_MAX` questions a second at
most. Of members beyond that it is told who gives to them, and nothing else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

from mirror.elements import content_key
from mirror.errors import UnavailableError
from mirror.herd.words import NAMES_MAX, Part, object_name, read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gossip import Node
    from mirror.choice import Holder
    from mirror.herd.roster import Roster
    from mirror.journal import Journal
    from mirror.oci import Digest
    from mirror.single_flight import Transfers
    from mirror.suspicion import Given

PATH: Final = "/-/herd"
ASKED_MAX: Final = 512
"""In a tree with two children to a node that is enough to hear of 1,024 nodes, as half of them give to nobody."""
AT_ONCE: Final = 16
HOLDERS_ASKED_MAX: Final = 16
"""Who has the object whole gives it to others as well; but of a thousand such nodes few do."""
ANSWER_S: Final = 1.0
LOOK_S: Final = 5.0
ROUNDS_MAX: Final = 3
"""How often relays are asked that others named: it takes `ANSWER_S` each time at most, and a pull waits for it."""
TURN_S: Final = 1.0


class Givers(Protocol):
    """The peers, as far as watching goes."""

    async def ask_part(self, holder: Holder, path: str) -> bytes:
        """What a member answers. Raises `UnavailableError`."""
        ...


class Members(Protocol):
    """The cluster, as far as watching goes."""

    def roster(self) -> Roster:
        """The live members."""
        ...

    def member(self, name: str) -> Holder | None:
        """How to reach a member."""
        ...

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Tells this node's own part in any herd.

    `leaders` are those that it knows as an object's coordinator, `given` tells who gave what may be wrong.
    """

    node: Node
    journal: Journal
    transfers: Transfers
    leaders: Callable[[str], list[str]]
    given: Callable[[Digest], Given]

    def of(self, registry: str, digest: Digest) -> Part:
        """How this node takes part now. An object that comes in the name of two registries is one herd here."""
        answers = [entry for entry in self.journal.running() if entry.digest == str(digest)]
        readers = dict.fromkeys(entry.reader for entry in answers if entry.face == "peer" and entry.reader)
        given = self.given(digest)
        part = Part(
            held=self.node.holds(content_key(digest)),
            readers=tuple(islice(readers, NAMES_MAX)),
            leaders=tuple(self.leaders(object_name(registry, digest))),
            givers=tuple(islice(given.givers, NAMES_MAX)),
            relays=tuple(islice(given.relays, NAMES_MAX)),
        )
        for transfer in (each for _, each in self.transfers if each.content.descriptor.digest == digest):
            part.size = transfer.size
            if transfer.fetched < transfer.size:
                part.taking, part.done = True, transfer.fetched
                part.giver = transfer.content.lineage[0] if transfer.content.lineage else ""
                return part
        for entry in answers:
            part.size = entry.size or 0
            if entry.face == "client" and entry.source in {"peer", "peer_in_flight", "upstream"} and not part.held:
                part.taking, part.giver, part.done = True, entry.holder, entry.bytes
        return part


class HerdWatch:
    """Looks at herds: at this node's own part, and by asking the `peers` in the `cluster` for theirs."""

    def __init__(self, own_part: Callable[[str, Digest], Part], peers: Givers, cluster: Members) -> None:
        self._own_part = own_part
        self._peers = peers
        self._cluster = cluster
        self._me = cluster.roster().me
        self._turn = asyncio.Lock()
        self._looked_at = float("-inf")
        self._last: tuple[str, Digest] | None = None
        self._seen: dict[str, Any] = {}

    async def look(self, registry: str, digest: Digest) -> dict[str, Any]:
        """The herd of an object: its nodes by name, each with the one that gives to it (`giver`; "" is the registry).

        `answers` tells whether a node spoke for itself; else nothing but its giver is known. `unasked` counts those
        for whom there was no time.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            wait_s = self._looked_at + TURN_S - loop.time()
            if wait_s <= 0 or (registry, digest) != self._last:
                await asyncio.sleep(max(0.0, wait_s))
                self._last, self._looked_at = (registry, digest), loop.time()
                self._seen = await self._look(registry, digest)
            return self._seen

    async def relayed(self, registry: str, digest: Digest, relays: set[str]) -> tuple[set[str], bool]:
        """Who gave an object's bytes, as its `relays` say and those that they name; and whether each of them said."""
        path = _path(registry, digest)
        givers, asked, all_said = set[str](), {self._me.name}, True
        for _ in range(ROUNDS_MAX):
            turn = list(islice(relays - asked, AT_ONCE))
            asked.update(turn)
            for part in await asyncio.gather(*(self._ask(name, path) for name in turn)):
                if part is None or not part.givers:
                    all_said = False
                else:
                    givers.update(part.givers)
                    relays = relays.union(part.relays)
        return givers, all_said and relays <= asked

    async def _look(self, registry: str, digest: Digest) -> dict[str, Any]:
        roster, path = self._cluster.roster(), _path(registry, digest)
        key = object_name(registry, digest).encode()
        holders = (holder.target.name for holder in islice(self._cluster.holders(digest), HOLDERS_ASKED_MAX))
        parts: dict[str, Part | None] = {self._me.name: self._own_part(registry, digest)}
        first = chain(_named(parts.values()), roster.in_cluster(key), roster.in_zone(key), holders)
        queue = [name for name in dict.fromkeys(first) if name not in parts]
        until = asyncio.get_running_loop().time() + LOOK_S
        while queue and len(parts) < ASKED_MAX and asyncio.get_running_loop().time() < until:
            turn, queue = queue[:AT_ONCE], queue[AT_ONCE:]
            told = await asyncio.gather(*(self._ask(name, path) for name in turn))
            parts.update(zip(turn, told, strict=True))
            queue += [name for name in dict.fromkeys(_named(told)) if name not in parts and name not in queue]
        nodes = self._nodes(parts)
        size = max((part.size for part in parts.values() if part), default=0)
        unasked = sum(name in nodes for name in queue)
        return {
            "registry": registry,
            "digest": str(digest),
            "size": size,
            "nodes": [nodes[name] for name in sorted(nodes)],
            "unasked": unasked,
        }

    async def _ask(self, name: str, path: str) -> Part | None:
        holder = self._cluster.member(name)
        if holder is None:
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                return read_part(await self._peers.ask_part(holder, path))
        except (UnavailableError, TimeoutError, ValueError):
            return None

    def _nodes(self, parts: dict[str, Part | None]) -> dict[str, dict[str, Any]]:
        """Those that take the object or give it, and those to whom they say that they give it."""
        nodes = {
            name: self._node(name, part, part.giver)
            for name, part in parts.items()
            if part is not None and (part.taking or part.readers)
        }
        for name, part in parts.items():
            for reader in part.readers if part is not None else ():
                nodes.setdefault(reader, self._node(reader, parts.get(reader), name))
        for giver in [each["giver"] for each in nodes.values() if each["giver"]]:
            nodes.setdefault(giver, self._node(giver, parts.get(giver), ""))
        return nodes

    def _node(self, name: str, part: Part | None, giver: str) -> dict[str, Any]:
        member = self._me if name == self._me.name else self._cluster.member(name)
        return {
            "name": name,
            "zone": member.zone if member else "",
            "giver": giver,
            "answers": part is not None,
            "taking": part is not None and part.taking,
            "held": part is not None and part.held,
            "done": part.done if part is not None else 0,
        }


def _path(registry: str, digest: Digest) -> str:
    return f"{PATH}?{urlencode({'digest': digest, 'registry': registry})}"


def _named(parts: Iterable[Part | None]) -> Iterable[str]:
    """Whom these name, as far as that is somebody."""
    for part in parts:
        if part is not None:
            yield from filter(None, (part.giver, *part.readers, *part.leaders))
