"""A model of large clusters, which keeps of each node only what decides how changes spread.

A node is its neighbours on the rings of `gossip.overlay`, the set of changes that it knows, and when it may publish
next. A change is an addition, or a claim about a member that died; sets of changes are the bits of an integer, so that
a batch of thousands costs as much as one. Publishing, coalescing and forwarding go as in `gossip.dissemination`, the
comparisons as in `gossip.exchange`, suspicion and visibility (`gossip.planning.reduced_deaths`) as in `gossip.detector`
and `gossip.membership`; intervals are those of `gossip.config`, and the bytes of messages come of the product's codec.

What it leaves out: pauses, stalls and partitions; random probes, and all other messages about members; removals; gaps
on a connection, which the product repairs at once (here a loss is made good by another neighbour, or by the next
comparison); what is held at the beginning. Heartbeats and comparisons of equal states are added to the traffic without
being played.
"""

from __future__ import annotations

import math
import random
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from gossip import overlay
from gossip.config import Config
from gossip.messages import BUCKETS
from gossip.planning.record import Record
from gossip.planning.reduced_deaths import Deaths
from gossip.planning.sizes import Sizes
from gossip.simulated_network import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gossip.planning.report import Report
    from gossip.planning.scenario import Scenario

STEP_S: Final = 0.125
STEPS_PER_SECOND: Final = 8
TRACKED_MAX: Final = 200
LAST_ADD_S: Final = 2.0
ROUND_TRIPS_S: Final = 2.0
"""A comparison takes two round trips, four latencies, before what is missing arrives; here as one of this many."""


class ReducedRun:
    """One scenario, from its beginning to its end or to when nobody asks for the next step."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._record = Record(scenario, "reduced")
        self._dice = random.Random(f"{scenario.seed} scenario")  # noqa: S311 - reproducible by intention
        self._config = Config("node")
        self._sizes = Sizes(scenario.names[-1], scenario.zone(0))
        self._zones = [scenario.zone(number) for number in range(scenario.nodes)]
        self._neighbours: list[list[int]] = []
        self._known = [0] * scenario.nodes
        self._pending = [0] * scenario.nodes
        self._flush_at = [0.0] * scenario.nodes
        self._due = bytearray(scenario.nodes)
        """Whether a node will publish at `_flush_at`."""
        self._bytes_in = [0] * scenario.nodes
        self._messages_in = 0
        self._changes: list[Change] = []
        self._tracked: dict[int, Change] = {}
        self._tracked_bits = self._claim_bits = 0
        self._bits = 0
        self._heap: list[tuple[float, int, int, int, int, Callable[[], None] | None]] = []
        self._tie = 0
        self.now = 0.0
        self._deaths = Deaths(scenario, self._config, self._record, self._dice, self)
        self.alive = self._deaths.alive

    def steps(self) -> Iterator[float]:
        """See `gossip.planning.play.Run`."""
        numbers = {name: number for number, name in enumerate(self._scenario.names)}
        self._neighbours = [[numbers[name] for name in names] for names in overlay.graph(list(numbers)).values()]
        self._schedule()
        yield 0.0
        for step in range(1, math.ceil(self._scenario.end_s / STEP_S) + 1):
            self._play(step * STEP_S)
            self._record.elapsed_s = self.now
            self._deaths.look()
            if step % STEPS_PER_SECOND == 0:
                self._beat()
                self._record.second(self._bytes_in, self._messages_in)
                self._bytes_in = [0] * self._scenario.nodes
                self._messages_in = 0
            yield self.now

    def report(self) -> Report:
        """See `gossip.planning.play.Run`."""
        missing = [
            change
            for bit, change in self._tracked.items()
            for known, alive in zip(self._known, self.alive, strict=True)
            if alive and not known & bit
        ]
        return self._record.report(self._changes, missing)

    # What happens.

    def at(self, time_s: float, happen: Callable[[], None]) -> None:
        """Let something happen at a time to come."""
        self._tie += 1
        heappush(self._heap, (time_s, self._tie, 0, 0, 0, happen))

    def claim(self, node: int, bit: int) -> None:
        """A node says something of a member, for which `new_claim` gave that bit."""
        if not self._known[node] & bit:
            self._known[node] |= bit
            self._pass_on(node, bit)

    def new_claim(self) -> int:
        """A bit for a claim."""
        bit = self._new_bit()
        self._claim_bits |= bit
        return bit

    def neighbours(self, node: int) -> list[int]:
        """Those that listen to a node, and to which it listens."""
        return self._neighbours[node]

    def _schedule(self) -> None:
        scenario = self._scenario
        end_s = scenario.end_s - LAST_ADD_S
        for at_s in scenario.quiet_adds(end_s):
            self.at(at_s, partial(self._add, tracked=True))
        until_s = min(scenario.rollout_at_s + scenario.rollout_for_s, end_s)
        rollout = list(self._moments(scenario.rollout_rate, scenario.rollout_at_s, until_s))
        every = math.ceil(len(rollout) / TRACKED_MAX)
        for number, at_s in enumerate(rollout):
            self.at(at_s, partial(self._add, tracked=number % every == 0))
        for node in range(scenario.nodes):
            self.at(self._config.sync_s * self._dice.random(), partial(self._compare, node))
        self._deaths.schedule()

    def _moments(self, per_s: float, at_s: float, until_s: float) -> Iterator[float]:
        while per_s and (at_s := at_s + self._dice.expovariate(per_s)) < until_s:
            yield at_s

    def _play(self, until_s: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now, _, node, bits, size, happen = heappop(heap)
            if happen is None:
                self._receive(node, bits, size)
            else:
                happen()
        self.now = until_s

    def _add(self, *, tracked: bool) -> None:
        node = self._dice.randrange(self._scenario.nodes)
        if not self.alive[node]:
            return
        bit = self._new_bit()
        if tracked:
            change = self._tracked[bit] = Change(self.now)
            self._changes.append(change)
            self._tracked_bits |= bit
        self._known[node] |= bit
        self._pass_on(node, bit)

    def _new_bit(self) -> int:
        self._bits += 1
        return 1 << (self._bits - 1)

    def _receive(self, node: int, bits: int, size: int) -> None:
        if not self.alive[node]:
            return
        self._bytes_in[node] += size
        self._messages_in += 1
        news = bits & ~self._known[node]
        if not news:
            return
        self._known[node] |= news
        arrived = news & self._tracked_bits
        while arrived:
            bit = arrived & -arrived
            arrived ^= bit
            change = self._tracked[bit]
            change.latencies.append(self.now - change.made_at)
        claims = news & self._claim_bits
        if claims:
            news ^= claims
            while claims:
                bit = claims & -claims
                claims ^= bit
                if self._deaths.hear(node, bit):
                    news |= bit
        self._pass_on(node, news)

    def _pass_on(self, node: int, bits: int) -> None:
        if not bits:
            return
        self._pending[node] |= bits
        if self.now >= self._flush_at[node]:
            self._flush(node)
        elif not self._due[node]:
            self._due[node] = True
            self.at(self._flush_at[node], partial(self._flush, node))

    def _flush(self, node: int) -> None:
        self._due[node] = False
        bits, self._pending[node] = self._pending[node], 0
        if not bits or not self.alive[node]:
            return
        self._flush_at[node] = self.now + self._config.coalesce_s
        claims = (bits & self._claim_bits).bit_count()
        size = self._sizes.news(bits.bit_count() - claims, claims)
        for other in self._neighbours[node]:
            self._send(node, other, bits, size)

    def _send(self, node: int, to: int, bits: int, size: int, round_trips: float = 0.5) -> None:
        if self._scenario.loss and self._dice.random() < self._scenario.loss:
            return
        near = self._zones[node] == self._zones[to]
        latency_s = self._scenario.latency_s if near else self._scenario.latency_between_s
        self._tie += 1
        at_s = self.now + self._dice.uniform(*latency_s) * 2 * round_trips
        heappush(self._heap, (at_s, self._tie, to, bits, size, None))

    # Repair, and what is not played.

    def _compare(self, node: int) -> None:
        """A node compares its state with a neighbour or with any other, and gets what it lacks."""
        if not self.alive[node]:
            return
        self.at(self.now + self._config.sync_s * self._dice.uniform(0.8, 1.2), partial(self._compare, node))
        near = self._dice.random() < 0.5
        other = self._dice.choice(self._neighbours[node]) if near else self._dice.randrange(self._scenario.nodes)
        if other == node or not self.alive[other]:
            return
        self._bytes_in[other] += self._sizes.compare
        self._messages_in += 1
        differing = (self._known[node] ^ self._known[other]).bit_count()
        if not differing:
            return
        share = 1 - (1 - 1 / BUCKETS) ** differing
        self._bytes_in[node] += self._sizes.buckets
        self._bytes_in[other] += self._sizes.versions(share * self._scenario.nodes, share * BUCKETS)
        self._messages_in += 2
        lacking = self._known[other] & ~self._known[node]
        if lacking:
            self._send(other, node, lacking, self._sizes.news(lacking.bit_count(), 0), ROUND_TRIPS_S)

    def _beat(self) -> None:
        """Count a second's heartbeats."""
        per_s = 1 / self._config.heartbeat_s
        for node, others in enumerate(self._neighbours):
            if self.alive[node]:
                beats = sum(self.alive[other] for other in others) * per_s * (1 - self._scenario.loss)
                self._bytes_in[node] += round(beats * self._sizes.heartbeat)
                self._messages_in += round(beats)
