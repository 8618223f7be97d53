"""A cluster whose nodes all want the same image, in simulated time.

The product's decisions over a model of the network: of the product run, as they are, `Herd`, `Claims`, `Coordinator`
with its `Leases`, `Roster`, `Peers` with `Standing`, `ResumingBody` and `UploadSlots`. Played are the clock, the bytes
(`herd_flows`), what lies between `Peers` and `UploadSlots` (HTTP), gossip (what is known of deaths and of holders, and
how late), the transfers, the runtimes, and the registry.

How far it is from the truth: thirty real agents, one of which had the image, took 1.6 to 2.0 F/u, by the machine
(`python -m tests.benchmark.herd --warm`; eight layers, one of them half of all), where this says 1.6 for eight equal
layers and 2.0 for a single one. So real herds take up to a quarter longer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossip import UnansweredError
from mirror.choice import Holder, Standing
from mirror.content_response import SOURCE_HEADER
from mirror.errors import SourceError, UnavailableError
from mirror.extensions import SPLICE
from mirror.herd import Claims, Coordinator, Herd, Pace
from mirror.herd.roster import Place, Roster
from mirror.load import LINEAGE_HEADER, write_names
from mirror.movers import STALL_S
from mirror.oci import OCTET_STREAM, ByteRange, Descriptor, Digest, Kind, Repository
from mirror.peer_connection import CONNECT_S, SILENCE_S
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.pieces import Piece, SocketPiece
from mirror.resuming import resuming
from mirror.single_flight import PENDING_S
from mirror.source import Content, Request
from mirror.trail import What
from mirror.upload_slots import Surroundings, UploadSlots
from tests.benchmark.herd_flows import Flow, FlowBody, Link, Network, Stock

REPOSITORY = Repository("registry.test", "lib/app")
PARALLEL = 3
"""How many layers of an image a runtime pulls at a time."""
ROUND_TRIP_S = 0.001
FIRST_BYTE_S = 0.2
"""What the registry takes to answer."""
COMMIT_S = 0.5
"""From an object's last byte until gossip has told everybody that its node holds it."""
CRASH_SEEN_S = 5.0
"""From a death until gossip has it ranked last everywhere; whoever talks to a crashed node sees that at once."""
ROSTER_S = 0.5
REOPEN_S = 0.1
"""How soon a runtime comes back whose answer broke off."""
UNMOVED_MAX = 3
"""How often it does without having got anything, before it asks the registry itself."""


@dataclass
class Registry:
    """The registry that all images come from, and what it was asked. `rate` is what it gives each connection."""

    network: Network
    rate: float
    link: Link = field(default_factory=lambda: Link("registry", "", float("inf"), 0.0))
    gets: int = 0
    escapes: int = 0
    fallbacks: int = 0
    flows: list[Flow] = field(default_factory=list)

    async def give(self, taker: Link, taken: Stock, start: int) -> Flow:
        self.gets += 1
        await asyncio.sleep(FIRST_BYTE_S)
        flow = self.network.begin(self.link, Stock(taken.size, taken.size), taker, taken, start, self.rate)
        self.flows.append(flow)
        return flow

    @property
    def sent(self) -> float:
        return sum(flow.position - flow.begun_at for flow in self.flows)


class Upstream:
    """The registry as a node's source."""

    def __init__(self, registry: Registry, node: Node) -> None:
        self._registry = registry
        self._node = node

    async def resolve(self, request: Request) -> Descriptor:
        return Descriptor(OCTET_STREAM, request.digest, self._node.stocks[request.digest].size)

    async def open(self, request: Request) -> Content:
        self._registry.escapes += bool(request.trail.steps) and request.trail.steps[-1].what is What.ESCAPED
        start = request.range.first if request.range else 0
        flow = await self._registry.give(self._node.link, self._node.stocks[request.digest], start)
        body = FlowBody(self._registry.network, flow)
        return Content(await self.resolve(request), range(start, flow.given.size), body, "upstream")


@dataclass(eq=False)
class Exchange:
    """A request of one node to another, and its answer (for `Peers`, an `Answer`)."""

    network: Network
    taker: Node
    head: asyncio.Future[tuple[int, dict[str, str]]]
    flow: Flow | None = None
    serving: asyncio.Task[None] | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def pieces(self) -> AsyncGenerator[Piece, None]:
        assert self.flow is not None
        return FlowBody(self.network, self.flow).pieces()

    async def aclose(self) -> None:
        if self.taker.silent:
            # Nobody told the giver, which finds out when its sending does not go on.
            asyncio.get_running_loop().call_later(STALL_S, self._end)
        else:
            self._end()

    def _end(self) -> None:
        if self.flow is not None:
            self.network.end(self.flow, "the reader left")
        if self.serving is not None:
            self.serving.cancel()


class Wire:
    """What `Peers` asks through, in place of a `PeerClient`."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._cluster = cluster
        self._node = node

    async def ask(self, url: str, method: str, path: str, headers: dict[str, str]) -> Exchange:
        loop, asked = asyncio.get_running_loop(), self._cluster.nodes[url]
        self._cluster.asked += 1
        exchange = Exchange(self._cluster.network, self._node, loop.create_future())
        scope = {
            "method": method,
            "path": path.partition("?")[0],
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "range": headers.get("Range", "bytes=0-"),
            "exchange": exchange,
            "extensions": {SPLICE: {"keeps_up": asked.link.keeps_up}},
        }
        await asyncio.sleep(ROUND_TRIP_S / 2)
        if asked.dead:
            await asyncio.sleep(CONNECT_S if asked.silent else 0)
            raise UnavailableError("it cannot be reached")
        exchange.serving = asked.spawn(asked.serve(scope, exchange))
        try:
            async with asyncio.timeout(SILENCE_S):
                exchange.status, exchange.headers = await exchange.head
            await asyncio.sleep(ROUND_TRIP_S / 2)
        except TimeoutError:
            await exchange.aclose()
            raise UnavailableError("it is silent") from None
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    async def aclose(self) -> None:
        """Nothing to release."""


class Node:
    """One agent with its runtime."""

    def __init__(self, cluster: Cluster, link: Link, rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        self.cluster = cluster
        self.link = link
        self.name = link.name
        self.dead = False
        self.silent = False
        self.stocks: dict[Digest, Stock] = {}
        self.ended_at: dict[Digest, float] = {}
        self.exchanges: set[Exchange] = set()
        standing = Standing(link.zone, rng, loop.time)
        self.peers = Peers(Index(self), None, standing, self.name)
        self.peers._client = Wire(cluster, self)  # type: ignore[assignment]
        self.claims = Claims(Members(self), lambda: cluster.roster(link.zone))
        self.upstream = Upstream(cluster.registry, self)
        self.pace = Pace(self._ahead, loop.time)
        self.herd = Herd(self.peers, self.upstream, Index(self), self.claims, self.pace)
        self.herd._rng = rng
        self.coordinator = Coordinator(cluster.alive, self.pace, loop.time)
        around = Surroundings(self.peers.alternatives, self._lineage, self._near, self.pace.is_slow)
        self.slots = UploadSlots(self._give, Unobserved(), cluster.slots, around)
        self.slots._rng = rng
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # As a runtime.

    async def pull_image(self, digests: Sequence[Digest]) -> None:
        gate = asyncio.Semaphore(PARALLEL)

        async def pull(digest: Digest) -> None:
            async with gate:
                await self._pull(digest)
                self.ended_at[digest] = asyncio.get_running_loop().time()
                self.spawn(self.cluster.tell(digest, self))

        for digest in digests:
            self.stocks[digest] = Stock(self.cluster.size)
        async with asyncio.TaskGroup() as pulls:
            for digest in digests:
                pulls.create_task(pull(digest))

    async def _pull(self, digest: Digest) -> None:
        """A transfer that goes on as long as its runtime comes back for it."""
        stock, unmoved = self.stocks[digest], 0
        self.cluster.wanted.add((digest, self.name))
        while stock.have < stock.size and unmoved < UNMOVED_MAX:
            before = stock.have
            part = ByteRange.starting_at(int(before)) if before else None
            request = Request(REPOSITORY, Kind.BLOB, digest, part)
            stock.failure = ""
            try:
                content = resuming(self.herd, request, await self.herd.open(request))
            except SourceError:
                break
            try:
                await self._read(content, stock)
            except SourceError as error:
                self._break_off(stock, str(error))
                self.cluster.broken += 1
                await asyncio.sleep(REOPEN_S)
            unmoved = 0 if stock.have > before else unmoved + 1
        if stock.have < stock.size:
            self._break_off(stock, "the runtime asked the registry itself")
            self.cluster.registry.fallbacks += 1
            while stock.have < stock.size:
                flow = await self.cluster.registry.give(self.link, stock, int(stock.have))
                await flow.over.wait()

    def _break_off(self, stock: Stock, why: str) -> None:
        stock.fail(why)
        for flow in [each for each in self.link.flows if each.given is stock]:
            self.cluster.network.end(flow, why)

    async def _read(self, content: Content, stock: Stock) -> None:
        stock.lineage = content.lineage
        try:
            async for piece in content.body.pieces():
                stock.lineage = content.lineage
                assert isinstance(piece, SocketPiece)
                connection: Any = piece.socket
                await connection.take(piece)
        finally:
            await content.body.aclose()

    # As a peer.

    def _lineage(self, digest: Digest) -> tuple[str, ...]:
        stock = self.stocks.get(digest)
        return stock.lineage if stock and stock.have < stock.size else ()

    def _ahead(self, object_name: str, position: int) -> float:
        stock = self.stocks[Digest.parse(object_name.partition(" ")[2])]
        return stock.have - position if stock.have < stock.size else float("inf")

    def _near(self, name: str) -> bool:
        return self.cluster.nodes[name].link.zone == self.link.zone

    async def serve(self, scope: dict[str, Any], exchange: Exchange) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and not exchange.head.done():
                names = ((name.decode().title(), value.decode()) for name, value in message["headers"])
                exchange.head.set_result((message["status"], dict(names)))

        async def receive() -> Any:
            raise NotImplementedError

        self.exchanges.add(exchange)
        try:
            await self.slots(scope, receive, send)
        finally:
            self.exchanges.discard(exchange)

    async def _give(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """What is complete or in flight here; the answer lasts until the flow is over."""
        exchange: Exchange = scope["exchange"]
        digest = Digest.parse(scope["path"].rpartition("/")[2])
        start = int(scope["range"].removeprefix("bytes=").rstrip("-"))
        stock = self.stocks.get(digest)
        if stock is None or (digest, self.name) not in self.cluster.wanted:
            await send(_head(404, {}))
            return
        try:
            async with asyncio.timeout(PENDING_S):
                await stock.reach(start)
        except TimeoutError:
            await send(_head(503, {"Retry-After": "1"}))
            return
        except UnavailableError:
            await send(_head(404, {}))
            return
        taken = exchange.taker.stocks[digest]
        exchange.flow = self.cluster.network.begin(self.link, stock, exchange.taker.link, taken, start, float("inf"))
        headers = {
            "Content-Length": str(stock.size - start),
            "Content-Type": OCTET_STREAM,
            "Content-Range": f"bytes {start}-{stock.size - 1}/{stock.size}",
            SOURCE_HEADER: "store" if stock.have >= stock.size else "upstream",
            LINEAGE_HEADER: write_names(stock.lineage),
        }
        await send(_head(206 if start else 200, headers))
        try:
            await exchange.flow.over.wait()
        finally:
            self.cluster.network.end(exchange.flow, "the giver ended it")

    def die(self, *, silent: bool) -> None:
        """Crash, so that whoever is connected sees it at once; or lose power, so that nobody does."""
        self.dead, self.silent = True, silent
        self.cluster.deaths[self.name] = asyncio.get_running_loop().time()
        for task in list(self._tasks) + list(self.claims._tasks):
            if not silent or task not in {exchange.serving for exchange in self.exchanges}:
                task.cancel()
        self.link.uplink = self.link.downlink = 0.0
        if not silent:
            for exchange in list(self.exchanges):
                if exchange.flow is not None:
                    self.cluster.network.end(exchange.flow, "connection reset")
                if not exchange.head.done():
                    exchange.head.set_exception(UnavailableError("connection reset"))


class Unobserved:
    """Nobody watches the slots."""

    def refused(self, reason: str) -> None:
        """Nothing."""

    def uploading(self, uploads: int) -> None:
        """Nothing."""


class Index:
    """The cluster's index as a node sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def me(self) -> Target:
        return Target(self._node.name, "1")

    def holders(self, digest: Digest) -> list[Holder]:
        holders = self._node.cluster.holders.get(digest, [])
        return [holder for holder in holders if holder.target.name != self._node.name]

    def member(self, name: str) -> Holder | None:
        return self._node.cluster.members.get(name)


class Members:
    """Gossip's questions, as a node asks them."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        asked = self._node.cluster.nodes[name]
        if name != self._node.name:
            await asyncio.sleep(ROUND_TRIP_S / 2)
            if asked.dead:
                await asyncio.sleep(timeout_s)
                raise UnansweredError(name)
        answer = asked.coordinator.answer(self._node.name, payload)
        await asyncio.sleep(ROUND_TRIP_S / 2 if name != self._node.name else 0)
        return answer


class CachedRoster(Roster):
    """All nodes of a zone rank alike, so it is done once."""

    def __init__(self, me: Place, others: Sequence[Place]) -> None:
        super().__init__(me, others)
        self._ranked: dict[tuple[bool, bytes], list[str]] = {}

    def in_zone(self, key: bytes) -> list[str]:
        if (True, key) not in self._ranked:
            self._ranked[True, key] = super().in_zone(key)
        return self._ranked[True, key]

    def in_cluster(self, key: bytes) -> list[str]:
        if (False, key) not in self._ranked:
            self._ranked[False, key] = super().in_cluster(key)
        return self._ranked[False, key]


class Cluster:
    """All nodes, and what gossip tells them of each other."""

    def __init__(self, links: Sequence[Link], size: int, step_s: float, rate: float, slots: int, seed: int) -> None:
        self.size = size
        self.slots = slots
        self.network = Network(step_s, random.Random(seed))
        self.registry = Registry(self.network, rate)
        self.deaths: dict[str, float] = {}
        self.holders: dict[Digest, list[Holder]] = {}
        self.wanted: set[tuple[Digest, str]] = set()
        self.asked = 0
        self.broken = 0
        self._rosters: dict[str, tuple[float, Roster]] = {}
        self.members = {link.name: Holder(Target(link.name, "1"), link.name, link.zone) for link in links}
        self.nodes = {link.name: Node(self, link, random.Random(f"{seed} {link.name}")) for link in links}

    def alive(self, name: str) -> bool:
        died_at = self.deaths.get(name)
        return died_at is None or asyncio.get_running_loop().time() - died_at < CRASH_SEEN_S

    def roster(self, zone: str) -> Roster:
        now = asyncio.get_running_loop().time()
        made_at, roster = self._rosters.get(zone, (0.0, None))
        changed = any(made_at < died_at + CRASH_SEEN_S <= now for died_at in self.deaths.values())
        if roster is None or (changed and now - made_at > ROSTER_S):
            places = [Place(node.name, node.link.zone) for node in self.nodes.values() if self.alive(node.name)]
            me = next(place for place in places if place.zone == zone)
            roster = CachedRoster(me, [place for place in places if place != me])
            self._rosters[zone] = now, roster
        return roster

    def put(self, digest: Digest, name: str) -> None:
        """A node has an object from the start."""
        self.nodes[name].stocks[digest] = Stock(self.size, self.size)
        self.wanted.add((digest, name))
        self.holders.setdefault(digest, []).append(self.members[name])

    async def tell(self, digest: Digest, node: Node) -> None:
        """Gossip: this node holds it."""
        await asyncio.sleep(COMMIT_S)
        self.holders.setdefault(digest, []).append(self.members[node.name])


def _head(status: int, headers: dict[str, str]) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}
