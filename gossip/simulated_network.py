"""Machines, time, and a network that misbehaves: what `gossip.simulation` is played on."""

from __future__ import annotations

import hashlib
import heapq
import random
from array import array
from dataclasses import dataclass, field
from functools import partial
from math import inf, nextafter
from typing import TYPE_CHECKING

from gossip.codec import decode, encode
from gossip.messages import Deltas, Heads, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gossip.messages import Message, Sender
    from gossip.or_set import Epoch
    from gossip.outputs import Output
    from gossip.replica import Replica


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to a message: probabilities, and latency in seconds, evenly spread; between nodes of two
    zones it is `latency_between_s`, if that is given.

    `ordered`: messages from one node to another do not overtake each other, as on one connection.
    """

    loss: float = 0.0
    duplication: float = 0.0
    latency_s: tuple[float, float] = (0.0005, 0.002)
    latency_between_s: tuple[float, float] | None = None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A tracked change: when it was made, and how long it took to each other node that ran then, in seconds."""

    made_at: float
    latencies: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True, eq=False)
class Host:
    """A node's machine: what stays when its process ends is the epoch's counter.

    `listens_to` are publish ports by name; `awaits` are the tracked changes that have not arrived here.
    """

    name: str
    zone: str
    port: int
    clock_s: float
    counter: int = 0
    replica: Replica | None = None
    life: int = 0
    listens_to: dict[str, int] = field(default_factory=dict)
    timer_at: float = inf
    stalled_until: float = 0.0
    awaits: dict[tuple[str, Epoch, int], Change] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    """When the latest message of each other node arrives, on ordered connections."""
    messages_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def clock(self, now: float) -> float:
        """What this machine's clock shows."""
        return now + self.clock_s


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message on its way: from whom in which of its lives, its bytes, and what they say unless they are decoded."""

    origin: Host
    origin_life: int
    frames: list[bytes]
    size: int
    said: tuple[Sender, Message] | None


class Network:
    """Events in the order of their time, and messages from node to node.

    Messages are decoded once in `decode_every`, otherwise they are passed on as they are.
    """

    def __init__(self, seed: int, faults: Faults, decode_every: int) -> None:
        self.now = 0.0
        self.events = 0
        self.faults = faults
        self.changes: list[Change] = []
        """The tracked ones."""
        self.dice = random.Random(f"{seed} network")  # noqa: S311 - reproducible by intention
        self._decode_every = decode_every
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self._sent = 0
        self._sides: dict[str, int] = {}
        self._trace = hashlib.blake2b(digest_size=16)

    @property
    def trace(self) -> str:
        """A hash of every message delivered so far, and when, as far as they are decoded."""
        return self._trace.hexdigest()

    def partition(self, *sides: Iterable[str]) -> None:
        """Only nodes of one side hear each other; those not named are on a side of their own together."""
        self._sides = {name: number for number, side in enumerate(sides, 1) for name in side}

    def heal(self) -> None:
        """From now on the network is perfect."""
        self._sides = {}
        self.faults = Faults(ordered=self.faults.ordered)

    def parted(self, one: Host, other: Host) -> bool:
        """Whether nothing gets from one to the other."""
        return bool(self._sides) and self._sides.get(one.name, 0) != self._sides.get(other.name, 0)

    def at(self, time: float, happen: Callable[[], None]) -> None:
        """Let something happen at a time to come."""
        self._tie += 1
        heapq.heappush(self._heap, (time, self._tie, happen))

    def run(self, duration_s: float) -> None:
        """Let time pass."""
        end = self.now + duration_s
        while self._heap and self._heap[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self.events += 1
        self.now = end

    def act(self, host: Host, outputs: Sequence[Output], asker: tuple[Host, int] | None = None) -> None:
        """Do what a replica wants; `asker` is whom it answers, in which of its lives."""
        raise NotImplementedError

    def dispatch(self, host: Host, sender: Sender, message: Message, receivers: list[tuple[Host, int]]) -> None:
        """Send a message to processes: each a host and which of its lives."""
        assert host.replica is not None
        frames = encode(host.replica.config.cluster, sender, message)
        size = sum(map(len, frames))
        host.bytes_out += size * len(receivers)
        self._sent += 1
        said = None if self._sent % self._decode_every == 0 else (sender, message)
        letter = _Letter(host, host.life, frames, size, said)
        faults = self.faults
        for receiver, life in receivers:
            near = faults.latency_between_s is None or receiver.zone == host.zone
            latency_s = faults.latency_s if near else faults.latency_between_s
            assert latency_s is not None
            copies = 2 if faults.duplication and self.dice.random() < faults.duplication else 1
            for _ in range(copies):
                arrival = self.now + latency_s[0] + (latency_s[1] - latency_s[0]) * self.dice.random()
                if faults.loss and self.dice.random() < faults.loss:
                    continue
                if faults.ordered:
                    arrival = receiver.arrived[host.name] = max(arrival, receiver.arrived.get(host.name, 0.0))
                self.at(arrival, partial(self._deliver, letter, receiver, life))

    def _deliver(self, letter: _Letter, receiver: Host, life: int) -> None:
        if self.parted(letter.origin, receiver):
            return
        if receiver.life != life or receiver.replica is None:
            return
        if self.now < receiver.stalled_until:
            # Just after what its own machine tells it: a connection's end comes another way than what was said over it.
            self.at(nextafter(receiver.stalled_until, inf), partial(self._deliver, letter, receiver, life))
            return
        receiver.messages_in += 1
        receiver.bytes_in += letter.size
        said = letter.said
        if said is None:
            path = f"{self.now!r} {letter.origin.name} {receiver.name} "
            self._trace.update(path.encode() + b" ".join(letter.frames))
            said = decode(receiver.replica.config.cluster, letter.frames)
        outputs = receiver.replica.receive(*said, receiver.clock(self.now))
        self.act(receiver, outputs, (letter.origin, letter.origin_life))
        if receiver.awaits and isinstance(said[1], Deltas | Part | Heads) and receiver.replica is not None:
            self._arrive(receiver, receiver.replica)

    def _arrive(self, host: Host, replica: Replica) -> None:
        for key, change in list(host.awaits.items()):
            if replica.set.at(key[0]) >= key[1:]:
                del host.awaits[key]
                change.latencies.append(self.now - change.made_at)
