"""A whole cluster in one thread, in simulated time: the product's own `Replica` on a network that misbehaves.

Everything follows from the seed, also under another PYTHONHASHSEED. Each node's clock has an offset of its own, so
whoever compared clocks of two nodes would be found out. All messages are encoded, which counts their bytes, and decoded
as on real sockets unless `decode_every` says that most are passed on as they are.

What it does not model: bandwidth, queues, and the time that a node needs to compute.
"""

from __future__ import annotations

import random
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from gossip.config import Config
from gossip.counters import Counters
from gossip.membership import Claim, Visibility
from gossip.messages import CLAIMS_PER_MESSAGE_MAX, Part, Sender
from gossip.outputs import Conflict, Link, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.replica import Replica
from gossip.simulated_network import Change, Faults, Host, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gossip.membership import Member
    from gossip.messages import Message
    from gossip.or_set import Addition, Epoch
    from gossip.outputs import Output

__all__ = ["Faults", "Simulation"]

FIRST_PORT: Final = 1001
CONNECT_S: Final = 0.002
RECONNECT_S_MAX: Final = 0.2
"""ZeroMQ tries again so often to reach a process that is not there."""
SEEK_S: Final = 1.0
REJOIN_S: Final = 10.0
ROUNDING_S: Final = 1e-9
CHECK_EVERY: Final = 20
"""The invariants of a node are checked once in so many times that anything happens to one."""


class Simulation(Network):
    """A cluster of simulated nodes; `now` is in seconds from the beginning.

    `seeds` are the names of the nodes that everybody asks to be let in; `zones` are those of the nodes that have one.
    `check_every` 0 leaves out all checks, which cost far more than the simulation; `config` are settings for all nodes.
    """

    def __init__(
        self,
        seed: int,
        seeds: Sequence[str],
        faults: Faults | None = None,
        *,
        check_every: int = CHECK_EVERY,
        decode_every: int = 1,
        config: Mapping[str, float] | None = None,
        zones: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(seed, faults or Faults(), decode_every)
        self.seed = seed
        self.hosts: dict[str, Host] = {}
        self._seeds = tuple(seeds)
        self._check_every = check_every
        self._config = dict(config or {})
        self._zones = dict(zones or {})
        self._nodes = random.Random(f"{seed} nodes")  # noqa: S311 - reproducible by intention
        self._by_port: dict[int, Host] = {}
        self._listeners: dict[int, dict[int, Host]] = {}
        self._acts = 0
        self._history: dict[tuple[str, Epoch, int], list[Addition]] = {}

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
        host = self._boot(name, keys)
        self._seek(host, host.life)

    def start_acquainted(self, content: Mapping[str, Sequence[bytes]]) -> None:
        """Start nodes that know each other and their keys, as after a long time. No message is sent for that."""
        hosts = [self._boot(name, keys) for name, keys in content.items()]
        claims = [Claim(self.replica(host.name).me) for host in hosts]
        snapshots = [self.replica(host.name).set.snapshot(host.name) for host in hosts]
        parts = [
            Part(
                1,
                last=True,
                claims=tuple(claims[at : at + most]),
                deltas=tuple(filter(None, snapshots[at : at + most])),
            )
            for most in (CLAIMS_PER_MESSAGE_MAX,)
            for at in range(0, len(claims), most)
        ]
        for host in hosts:
            replica = self.replica(host.name)
            teacher = hosts[0] if host is not hosts[0] else hosts[-1]
            sender = Sender(teacher.name, self.replica(teacher.name).me.epoch)
            for part in parts:
                self.act(host, replica.receive(sender, part, host.clock(self.now)))
            self._seek(host, host.life, first=False)

    def crash(self, name: str, *, lose_epoch: bool = False, silently: bool = False) -> None:
        """End a node's process without a word, perhaps with its disk. `silently`: not even its connections break, as
        when it loses power."""
        self._end(self.hosts[name], lose_epoch=lose_epoch, silently=silently)

    def leave(self, name: str) -> None:
        """End a node's process in good order."""
        host = self.hosts[name]
        self.act(host, self.replica(name).leave(host.clock(self.now)))
        self.crash(name)

    def stall(self, name: str, duration_s: float) -> None:
        """A node does nothing for a while; what is due or arrives meanwhile is done afterwards."""
        host = self.hosts[name]
        host.stalled_until = max(host.stalled_until, self.now + duration_s)

    def add(self, name: str, key: bytes, *, tracked: bool = False) -> None:
        """A node gets a key; how long it takes to all others is noted in `changes` if it is `tracked`."""
        host = self.hosts[name]
        outputs = self.replica(name).add(key, host.clock(self.now))
        if tracked:
            change = Change(self.now)
            self.changes.append(change)
            for other in self.hosts.values():
                if other.replica is not None and other is not host:
                    other.awaits[(name, *self.replica(name).set.at(name))] = change
        self.act(host, outputs)

    def remove(self, name: str, key: bytes) -> None:
        """A node loses a key."""
        host = self.hosts[name]
        self.act(host, self.replica(name).remove(key, host.clock(self.now)))

    # Judgement.

    def check(self) -> None:
        """Assert that every replica keeps its invariants and holds exact prefixes of its owners' histories (I2)."""
        for name in self.running():
            self._check(self.replica(name))

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

    def views(self, of: str) -> list[Visibility | None]:
        """How each other running node sees a member; None when it does not know it."""
        others = [self.replica(name).membership.others.get(of) for name in self.running() if name != of]
        return [None if other is None else other.visibility for other in others]

    # How it works.

    def _check(self, replica: Replica) -> None:
        replica.check()
        for owner in replica.set.cells:
            epoch, version = replica.set.at(owner)
            held = replica.set.elements(owner)
            assert self._history.get((owner, epoch, version)) == held, (
                f"seed {self.seed}: {replica.me.name} holds what {owner} never had at {epoch}, {version}"
            )

    def _boot(self, name: str, keys: Iterable[bytes]) -> Host:
        host = self.hosts.get(name)
        if host is None:
            clock_s = self._nodes.uniform(0, 1e6)
            zone = self._zones.get(name, "")
            host = self.hosts[name] = Host(name, zone, FIRST_PORT + 2 * len(self.hosts), clock_s)
            self._by_port[host.port + 1] = host
        assert host.replica is None, f"{name} runs already"
        host.life += 1
        ports = {"publish_port": host.port, "router_port": host.port + 1}
        config = Config(name, zone=host.zone, **ports, **self._config)  # type: ignore[arg-type]
        rng = random.Random(self._nodes.getrandbits(64))  # noqa: S311
        host.replica = Replica(config, counter=host.counter, rng=rng, counters=Counters())
        for key in keys:
            host.replica.add(key, host.clock(self.now))
        self.act(host, host.replica.start(host.clock(self.now)))
        for listener in self._listeners.get(host.port, {}).values():
            due = self.now + CONNECT_S + self.dice.uniform(0, RECONNECT_S_MAX)
            self.at(due, partial(self._connected, listener, listener.life, name))
        return host

    def act(self, host: Host, outputs: Sequence[Output], asker: tuple[Host, int] | None = None) -> None:
        """Do what a replica wants; `asker` is whom it answers, in which of its lives."""
        replica = host.replica
        assert replica is not None
        if self._check_every:
            key = (host.name, *replica.set.at(host.name))
            if key not in self._history:
                self._history[key] = replica.set.elements(host.name)
            self._acts += 1
            if self._acts % self._check_every == 0:
                self._check(replica)
        for output in outputs:
            self.perform(host, output, asker)
            if host.replica is not replica:
                return
        due = replica.deadline - host.clock_s
        if due < host.timer_at:
            host.timer_at = due
            self.at(max(self.now, due), partial(self._tick, host, host.life, due))

    def perform(self, host: Host, output: Output, asker: tuple[Host, int] | None) -> None:
        """Do one thing that a replica wants."""
        match output:
            case Publish(sender, message):
                self._spread(host, sender, message)
            case Send(sender, to, message):
                receiver = self._by_port.get(to.router_port)
                if receiver is not None:
                    self.dispatch(host, sender, message, [(receiver, receiver.life)])
            case Reply(sender, message):
                if asker is not None:
                    self.dispatch(host, sender, message, [asker])
            case Link(to):
                self._link(host, to)
            case Unlink(name):
                self._listeners[host.listens_to.pop(name)].pop(host.port, None)
            case SaveEpoch(counter):
                host.counter = counter
            case Conflict():
                self._end(host)

    def _end(self, host: Host, *, lose_epoch: bool = False, silently: bool = False) -> None:
        host.replica = None
        host.life += 1
        for port in host.listens_to.values():
            self._listeners.get(port, {}).pop(host.port, None)
        host.listens_to.clear()
        host.timer_at, host.stalled_until = inf, 0.0
        host.awaits.clear()
        if lose_epoch:
            host.counter = 0
        if not silently:
            for listener in list(self._listeners.get(host.port, {}).values()):
                self.at(self.now + CONNECT_S, partial(self._disconnected, listener, listener.life, host.name))

    def _link(self, host: Host, to: Member) -> None:
        before = host.listens_to.get(to.name)
        if before is not None:
            self._listeners[before].pop(host.port, None)
        host.listens_to[to.name] = to.publish_port
        self._listeners.setdefault(to.publish_port, {})[host.port] = host
        self.at(self.now + CONNECT_S, partial(self._connected, host, host.life, to.name))

    def _connected(self, host: Host, life: int, name: str) -> None:
        if self._stalled(host, partial(self._connected, host, life, name)):
            return
        publisher = self._by_port.get(host.listens_to.get(name, 0) + 1)
        if host.life != life or host.replica is None or publisher is None or publisher.replica is None:
            return
        if not self.parted(host, publisher):
            self.act(host, host.replica.connected(name, host.clock(self.now)))

    def _disconnected(self, host: Host, life: int, name: str) -> None:
        if self._stalled(host, partial(self._disconnected, host, life, name)):
            return
        if host.life == life and host.replica is not None and name in host.listens_to:
            self.act(host, host.replica.disconnected(name, host.clock(self.now)))

    def _stalled(self, host: Host, resume: Callable[[], None]) -> bool:
        """Whether a node does nothing now; if so, it does this when its stall is over."""
        stalled = self.now < host.stalled_until
        if stalled:
            self.at(host.stalled_until, resume)
        return stalled

    def _tick(self, host: Host, life: int, timer_at: float) -> None:
        # Every earlier deadline sets a timer; only the earliest counts.
        if host.life != life or host.replica is None or host.timer_at != timer_at:
            return
        if self._stalled(host, partial(self._tick, host, life, timer_at)):
            return
        host.timer_at = inf
        # Rounding must not leave the clock a hair before the deadline.
        due = host.replica.deadline
        late = due <= host.clock(self.now) + ROUNDING_S
        self.act(host, host.replica.tick(max(host.clock(self.now), due)) if late else ())

    def _spread(self, host: Host, sender: Sender, message: Message) -> None:
        listeners = self._listeners.get(host.port)
        if listeners:
            self.dispatch(host, sender, message, [(other, other.life) for other in listeners.values()])

    def _seek(self, host: Host, life: int, *, first: bool = True) -> None:
        """Ask the seeds to be let in, and later one of them from time to time."""
        if host.life != life or host.replica is None:
            return
        if self._stalled(host, partial(self._seek, host, life, first=first)):
            return
        alone = not host.replica.lookup.members()
        if first:
            seeds = [self.hosts[name] for name in self._seeds if name in self.hosts and name != host.name]
            for seed in seeds if alone else self._nodes.sample(seeds, min(1, len(seeds))):
                self.dispatch(host, *host.replica.join(), [(seed, seed.life)])
        wait_s = SEEK_S if alone else REJOIN_S
        self.at(self.now + wait_s * self._nodes.uniform(0.8, 1.2), partial(self._seek, host, life))
