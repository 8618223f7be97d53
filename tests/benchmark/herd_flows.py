"""Bytes on their way, as a model: flows from givers to takers, in steps of simulated time.

In each step a giver's uplink is divided evenly among its flows; what one cannot use, the others get. A flow is bounded
by its taker's downlink, by a limit of its own (a registry's rate for each connection), and by how far its giver has the
object itself, as of the end of the step before: so a byte takes at least one step from node to node. There is no loss,
no TCP, no cost of computing, and the network between the nodes carries everything.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Final

from mirror.errors import UnavailableError
from mirror.peer_connection import BODY_SILENCE_S
from mirror.pieces import Piece, SocketPiece
from mirror.transfer import Bell

END_BYTES = 1.0
"""Less than this is nothing: the rounding of floating point numbers."""

SPARE_MIN: Final = 0.1
"""A link that is used more has a queue."""
_NOTHING_WAITS = socket.socketpair()


@dataclass(eq=False, slots=True)
class Link:
    """A node's connection to the network, or a registry's."""

    name: str
    zone: str
    uplink: float
    """Bytes a second, as is `downlink`."""
    downlink: float
    flows: list[Flow] = field(default_factory=list)
    """Those that it gives."""
    room: float = 0.0
    spare: float = 0.0
    """Which part of the uplink was not used of late."""

    def keeps_up(self) -> bool:
        """Whether its takers get all that there is, as the giver's kernel says (see `mirror.extensions`)."""
        return SPARE_MIN < self.spare < 1.0


@dataclass(eq=False, slots=True)
class Stock:
    """How far somebody has an object."""

    size: int
    have: float = 0.0
    grown: Bell = field(default_factory=Bell)
    failure: str = ""
    """Why it grows no more for now."""
    lineage: tuple[str, ...] = ()

    async def reach(self, position: int) -> None:
        """Wait until the byte at `position` is here."""
        while self.have <= position:
            if self.failure:
                raise UnavailableError(self.failure)
            await self.grown.wait()

    def fail(self, why: str) -> None:
        self.failure = why
        self.grown.ring()


@dataclass(eq=False, slots=True)
class Flow:
    """An object or its rest on its way; ends with a `failure`, or without."""

    giver: Link
    given: Stock
    taker: Link
    taken: Stock
    begun_at: int
    rate_max: float
    progressed_at: float
    position: float = 0.0
    grant: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = ""
    piece: SocketPiece | None = None
    """What its taker moves."""

    def __post_init__(self) -> None:
        self.position = float(self.begun_at)

    def usable(self) -> float:
        """How much of what the giver has did not come yet."""
        return min(self.given.have, self.given.size) - self.position - self.grant

    @property
    def whole(self) -> bool:
        return self.position >= self.given.size


class Network:
    """All flows. `run` moves them until it is cancelled."""

    def __init__(self, step_s: float, rng: random.Random) -> None:
        self.step_s = step_s
        self.flows: dict[Flow, None] = {}
        self.crossed = 0.0
        """Bytes that went from one zone to another."""
        self._rng = rng

    def begin(self, giver: Link, given: Stock, taker: Link, taken: Stock, start: int, rate_max: float) -> Flow:
        """A flow from one node's stock to another's."""
        flow = Flow(giver, given, taker, taken, start, rate_max, asyncio.get_running_loop().time())
        self.flows[flow] = None
        giver.flows.append(flow)
        return flow

    def end(self, flow: Flow, failure: str = "") -> None:
        """It gives nothing more; later calls do nothing."""
        if flow in self.flows:
            del self.flows[flow]
            flow.giver.flows.remove(flow)
            flow.failure = failure
            if flow.giver.zone != flow.taker.zone and flow.giver.zone:
                self.crossed += flow.position - flow.begun_at
            flow.over.set()

    async def run(self) -> None:
        """Move the bytes, step by step."""
        while True:
            await asyncio.sleep(self.step_s)
            self._step(asyncio.get_running_loop().time())

    def _step(self, now: float) -> None:
        givers = list(dict.fromkeys(flow.giver for flow in self.flows))
        self._rng.shuffle(givers)
        for flow in self.flows:
            flow.grant = 0.0
            flow.taker.room = flow.taker.downlink * self.step_s
        for giver in givers:
            self._divide(giver)
        for flow in list(self.flows):
            self._move(flow, now)

    def _divide(self, giver: Link) -> None:
        """Water-filling: everybody gets the same, as far as it can use it."""
        room = giver.uplink * self.step_s
        wanting = [flow for flow in giver.flows if flow.usable() > 0]
        while wanting and room > END_BYTES:
            share = room / len(wanting)
            unsated = []
            for flow in wanting:
                grant = min(share, flow.usable(), flow.taker.room, flow.rate_max * self.step_s - flow.grant)
                flow.grant += grant
                flow.taker.room -= grant
                room -= grant
                if grant == share:
                    unsated.append(flow)
            if len(unsated) == len(wanting):
                break
            wanting = unsated
        giver.spare = room / (giver.uplink * self.step_s) if giver.uplink else 0.0

    def _move(self, flow: Flow, now: float) -> None:
        if flow.grant > 0:
            flow.position += flow.grant
            if flow.given.size - flow.position < END_BYTES:
                flow.position = float(flow.given.size)
            flow.progressed_at = now
            if flow.piece is not None:
                flow.piece.sent = int(flow.position) - flow.begun_at
            if flow.position > flow.taken.have:
                flow.taken.have = flow.position
                flow.taken.grown.ring()
            if flow.whole:
                self.end(flow)
        elif now - flow.progressed_at > BODY_SILENCE_S and flow.taker.downlink:
            self.end(flow, "it is silent")


class FlowSocket:
    """A flow as the connection that its bytes come on, as far as `mirror.floor` and its taker look at it."""

    def __init__(self, network: Network, flow: Flow) -> None:
        self._network = network
        self._flow = flow

    def getsockopt(self, _level: int, _name: int, size: int) -> bytes:
        """TCP_INFO, of which the last field asked for is how many bytes came."""
        return bytes(size - 8) + struct.pack("=Q", int(self._flow.position) - self._flow.begun_at)

    def fileno(self) -> int:
        """Of a connection on which nothing waits: whatever comes is taken at once."""
        return _NOTHING_WAITS[0].fileno()

    def shutdown(self, _how: int) -> None:
        """The taker leaves."""
        self._network.end(self._flow, "it was left")

    async def take(self, piece: SocketPiece) -> None:
        """All that comes."""
        self._flow.piece = piece
        piece.sent = int(self._flow.position) - self._flow.begun_at
        await self._flow.over.wait()


class FlowBody:
    """A flow as the bytes of a content (a `mirror.source.Body`)."""

    def __init__(self, network: Network, flow: Flow) -> None:
        self._network = network
        self._flow = flow

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """One piece, as a peer's connection gives it."""
        flow = self._flow
        connection: Any = FlowSocket(self._network, flow)
        piece = SocketPiece(connection, flow.given.size - flow.begun_at, BODY_SILENCE_S)
        yield piece
        if piece.sent < piece.length:
            raise UnavailableError(flow.failure or "it was given up")

    async def aclose(self) -> None:
        """Take no more."""
        self._network.end(self._flow, "the reader left")
