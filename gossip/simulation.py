"""A whole cluster in one thread, in simulated time: the product's own `Replica` on a network that misbehaves.

Everything follows from the seed, also under another PYTHONHASHSEED. Messages pass through the codec as on real sockets.
Each node's clock has an offset of its own, so whoever compared clocks of two nodes would be found out.

What it does not model: bandwidth, queues, the time that a node needs to compute, and the order of one connection (real
ones deliver in order; here messages overtake each other as they like).
"""

from __future__ import annotations

import hashlib
import heapq
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from gossip.codec import decode, encode
from gossip.config import Config
from gossip.counters import Counters
from gossip.outputs import Link, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gossip.or_set import Addition, Epoch
    from gossip.outputs import Output

FIRST_PORT: Final = 1001
CONNECT_S: Final = 0.002
SEEK_S: Final = 1.0
REJOIN_S: Final = 10.0
CHECK_EVENTS: Final = 50
"""The invariants of all nodes are checked once in so many events."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to a message: probabilities, and latency in seconds, evenly spread."""

    loss: float = 0.0
    duplication: float = 0.0
    latency_s: tuple[float, float] = (0.0005, 0.002)


@dataclass(slots=True)
class Host:
    """A node's machine: what stays when its process ends is the epoch's counter."""

    name: str
    port: int
    clock_s: float
    counter: int = 0
    replica: Replica | None = None
    life: int = 0
    listens_to: dict[str, int] = field(default_factory=dict)
    """Publish ports by name."""


class Simulation:
    """A cluster of simulated nodes; `now` is in seconds from the beginning.

    `seeds` are the names of the nodes that everybody asks to be let in.
    """

    def __init__(self, seed: int, seeds: Sequence[str], faults: Faults | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.faults = faults or Faults()
        self.hosts: dict[str, Host] = {}
        self.events = 0
        self._seeds = tuple(seeds)
        self._network = random.Random(f"{seed} network")  # noqa: S311 - reproducible by intention
        self._nodes = random.Random(f"{seed} nodes")  # noqa: S311
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self._sides: dict[str, int] = {}
        self._history: dict[tuple[str, Epoch, int], list[Addition]] = {}
        self._trace = hashlib.blake2b(digest_size=16)

    @property
    def trace(self) -> str:
        """A hash of every message delivered so far, and when."""
        return self._trace.hexdigest()

    def replica(self, name: str) -> Replica:
        """The running replica of a node."""
        replica = self.hosts[name].replica
        assert replica is not None, f"{name} does not run"
        return replica

    def running(self) -> list[str]:
        """The names of the nodes that run."""
        return [name for name, host in self.hosts.items() if host.replica is not None]

    # What happens to nodes.

    def start(self, name: str, keys: Iterable[bytes] = ()) -> None:
        """Start a node, for the first time or again, with the keys that it has."""
        host = self.hosts.get(name)
        if host is None:
            clock_s = self._nodes.uniform(0, 1e6)
            host = self.hosts[name] = Host(name, FIRST_PORT + 2 * len(self.hosts), clock_s)
        assert host.replica is None
        host.life += 1
        config = Config(name, publish_port=host.port, router_port=host.port + 1)
        rng = random.Random(self._nodes.getrandbits(64))  # noqa: S311
        host.replica = Replica(config, counter=host.counter, rng=rng, counters=Counters())
        for key in keys:
            host.replica.add(key, self._clock(host))
        self._act(host, host.replica.start(self._clock(host)))
        self._seek(host, host.life)

    def crash(self, name: str, *, lose_epoch: bool = False) -> None:
        """End a node's process without a word, perhaps with its disk."""
        host = self.hosts[name]
        host.replica = None
        host.listens_to.clear()
        if lose_epoch:
            host.counter = 0

    def leave(self, name: str) -> None:
        """End a node's process in good order."""
        host = self.hosts[name]
        self._act(host, self.replica(name).leave(self._clock(host)))
        self.crash(name)

    def add(self, name: str, key: bytes) -> None:
        """A node gets a key."""
        host = self.hosts[name]
        self._act(host, self.replica(name).add(key, self._clock(host)))

    def remove(self, name: str, key: bytes) -> None:
        """A node loses a key."""
        host = self.hosts[name]
        self._act(host, self.replica(name).remove(key, self._clock(host)))

    # What happens to the network.

    def partition(self, *sides: Iterable[str]) -> None:
        """Only nodes of one side hear each other; those not named are on a side of their own together."""
        self._sides = {name: number for number, side in enumerate(sides, 1) for name in side}

    def heal(self) -> None:
        """From now on the network is perfect."""
        self._sides = {}
        self.faults = Faults()

    # Time.

    def run(self, duration_s: float) -> None:
        """Let time pass."""
        end = self.now + duration_s
        while self._heap and self._heap[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._heap)
            happen()
            self.events += 1
            if self.events % CHECK_EVENTS == 0:
                self.check()
        self.now = end
        self.check()

    # Judgement.

    def check(self) -> None:
        """Assert that every replica keeps its invariants and holds exact prefixes of its owners' histories (I2)."""
        for name in self.running():
            replica = self.replica(name)
            replica.check()
            for owner in replica.set.cells:
                epoch, version = replica.set.at(owner)
                held = replica.set.elements(owner)
                assert self._history.get((owner, epoch, version)) == held, (
                    f"seed {self.seed}: {name} holds what {owner} never had at {epoch}, {version}"
                )

    def differences(self) -> list[str]:
        """What keeps the running nodes from agreeing; nothing when they have converged."""
        running = self.running()
        found = []
        for name in running:
            replica = self.replica(name)
            others = sorted(member.name for member in replica.lookup.members())
            if others != sorted(set(running) - {name}):
                found.append(f"{name} sees {others}")
            found.extend(
                f"{name} has another set of {owner}"
                for owner in running
                if replica.set.elements(owner) != self.replica(owner).set.elements(owner)
            )
        return found

    # How it works.

    def _clock(self, host: Host) -> float:
        return self.now + host.clock_s

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._tie += 1
        heapq.heappush(self._heap, (time, self._tie, happen))

    def _act(self, host: Host, outputs: Sequence[Output], asker: tuple[Host, int] | None = None) -> None:
        """Do what a replica wants; `asker` is whom it answers."""
        replica = host.replica
        assert replica is not None
        key = (host.name, *replica.set.at(host.name))
        if key not in self._history:
            self._history[key] = replica.set.elements(host.name)
        for output in outputs:
            match output:
                case Publish() | Send() | Reply():
                    frames = encode(replica.config.cluster, output.sender, output.message)
                    for receiver, life in self._receivers(host, output, asker):
                        self._transmit(host, receiver, life, frames)
                case Link(to):
                    host.listens_to[to.name] = to.publish_port
                    self._at(self.now + CONNECT_S, partial(self._connected, host, host.life, to.name))
                case Unlink(name):
                    host.listens_to.pop(name, None)
                case SaveEpoch(counter):
                    host.counter = counter
        life, due = host.life, replica.deadline
        self._at(max(self.now, due - host.clock_s), partial(self._tick, host, life, due))

    def _connected(self, host: Host, life: int, name: str) -> None:
        if host.life == life and host.replica is not None:
            self._act(host, host.replica.connected(name))

    def _receivers(
        self, host: Host, output: Publish | Send | Reply, asker: tuple[Host, int] | None
    ) -> list[tuple[Host, int]]:
        """The processes that a message is for: each a host and which of its lives."""
        if isinstance(output, Reply):
            return [] if asker is None else [asker]
        if isinstance(output, Publish):
            found = [other for other in self.hosts.values() if other.listens_to.get(host.name) == host.port]
        else:
            found = [other for other in self.hosts.values() if other.port + 1 == output.to.router_port]
        return [(other, other.life) for other in found]

    def _tick(self, host: Host, life: int, due: float) -> None:
        # Every input sets a timer; only the one that still is the deadline counts.
        if host.life == life and host.replica is not None and host.replica.deadline == due:
            # Rounding must not leave the clock a hair before the deadline.
            self._act(host, host.replica.tick(max(self._clock(host), due)))

    def _transmit(self, sender: Host, receiver: Host, life: int, frames: list[bytes]) -> None:
        copies = 2 if self._network.random() < self.faults.duplication else 1
        for _ in range(copies):
            latency_s = self._network.uniform(*self.faults.latency_s)
            if self._network.random() >= self.faults.loss:
                deliver = partial(self._deliver, (sender, sender.life), receiver, life, frames)
                self._at(self.now + latency_s, deliver)

    def _deliver(self, origin: tuple[Host, int], receiver: Host, life: int, frames: list[bytes]) -> None:
        sides = (self._sides.get(origin[0].name, 0), self._sides.get(receiver.name, 0))
        if sides[0] != sides[1] or receiver.life != life or receiver.replica is None:
            return
        self._trace.update(f"{self.now!r} {origin[0].name} {receiver.name} ".encode() + b" ".join(frames))
        sender, message = decode(receiver.replica.config.cluster, frames)
        self._act(receiver, receiver.replica.receive(sender, message, self._clock(receiver)), origin)

    def _seek(self, host: Host, life: int) -> None:
        """Ask the seeds to be let in, and later from time to time."""
        if host.life != life or host.replica is None:
            return
        frames = encode(host.replica.config.cluster, *host.replica.join())
        for name in self._seeds:
            seed = self.hosts.get(name)
            if seed is not None and seed is not host:
                self._transmit(host, seed, seed.life, frames)
        wait_s = REJOIN_S if host.replica.lookup.members() else SEEK_S
        self._at(self.now + wait_s * self._nodes.uniform(0.8, 1.2), partial(self._seek, host, life))
