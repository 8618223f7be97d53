"""A scenario played by the product's own replicas, each node one, in `gossip.simulation`."""

from __future__ import annotations

import math
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from gossip.membership import Status, Visibility
from gossip.messages import Members
from gossip.outputs import Publish
from gossip.planning.record import Fate, Record, Scar
from gossip.planning.scenario import SHARING
from gossip.simulated_network import Change, Faults
from gossip.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gossip.membership import Claim
    from gossip.outputs import Output
    from gossip.planning.report import Report
    from gossip.planning.scenario import Death, Partition, Pause, Scenario
    from gossip.simulated_network import Host

STEP_S: Final = 0.125
"""Times of detection are as exact as this."""
STEPS_PER_LOOK: Final = 2
STEPS_PER_SECOND: Final = 8
SETTLE_S: Final = 15.0
"""Before the scenario begins: newcomers are quieter at first."""
SEEDS: Final = 3
KEY_BYTES: Final = 33
TRACKED_MAX: Final = 500
"""Additions of a roll-out that are followed to every node."""
LAST_ADD_S: Final = 2.0
"""Nothing is added so short before the end: it would hardly arrive."""
STALL_MEDIAN_S: Final = 0.3
STALL_SIGMA: Final = 0.8
DRAWS_MAX: Final = 1000


class FullRun:
    """One scenario, from its beginning to its end or to when nobody asks for the next step."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._record = Record(scenario, "full")
        self._dice = random.Random(f"{scenario.seed} scenario")  # noqa: S311 - reproducible by intention
        self._names = scenario.names
        zones = {name: scenario.zone(number) for number, name in enumerate(self._names)}
        faults = Faults(scenario.loss, 0.0, scenario.latency_s, scenario.latency_between_s, ordered=True)
        self._cluster = _Watched(scenario.seed, self._names[:SEEDS], faults, zones, self._said)
        self._dead: dict[str, Fate] = {}
        self._called_down: set[tuple[str, object]] = set()
        self._side: frozenset[str] = frozenset()
        self._parted = False
        self._image: list[bytes] = []
        self._layers = dict.fromkeys(self._names, 0)
        self._began_at = 0.0

    def steps(self) -> Iterator[float]:
        """See `gossip.planning.play.Run`."""
        pool = [self._dice.randbytes(KEY_BYTES) for _ in range(self._scenario.digests * SHARING)]
        self._cluster.start_acquainted({name: self._dice.sample(pool, self._scenario.digests) for name in self._names})
        for name in self._names:
            # As if they had been started one after another: their heartbeats are not at the same time.
            self._cluster.stall(name, self._dice.uniform(1, 2))
        self._cluster.run(SETTLE_S)
        self._began_at = self._cluster.now
        self._reset()
        self._schedule()
        yield 0.0
        for step in range(1, math.ceil(self._scenario.end_s / STEP_S) + 1):
            self._cluster.run(self._began_at + step * STEP_S - self._cluster.now)
            self._record.elapsed_s = step * STEP_S
            self._look_for_the_dead()
            if step % STEPS_PER_LOOK == 0:
                self._look_for_the_living()
            if step % STEPS_PER_SECOND == 0:
                hosts = self._cluster.hosts.values()
                self._record.second([host.bytes_in for host in hosts], sum(host.messages_in for host in hosts))
                self._reset()
            yield self._record.elapsed_s

    def report(self) -> Report:
        """See `gossip.planning.play.Run`."""
        hosts = self._cluster.hosts.values()
        missing = [change for host in hosts if host.replica is not None for change in host.awaits.values()]
        began_at = self._began_at

        def shifted(changes: list[Change]) -> list[Change]:
            return [Change(change.made_at - began_at, change.latencies) for change in changes]

        return self._record.report(shifted(self._cluster.changes), shifted(missing))

    # What happens.

    def _schedule(self) -> None:
        scenario = self._scenario
        end_s = scenario.end_s - LAST_ADD_S
        for at_s in scenario.quiet_adds(end_s):
            self._at(at_s, self._add_one)
        until_s = min(scenario.rollout_at_s + scenario.rollout_for_s, end_s)
        rollout = list(self._moments(scenario.rollout_rate, scenario.rollout_at_s, until_s))
        every = math.ceil(len(rollout) / TRACKED_MAX)
        for number, at_s in enumerate(rollout):
            self._at(at_s, partial(self._add_part, tracked=number % every == 0))
        for at_s in self._moments(scenario.stalls_per_hour * scenario.nodes / 3600, 0.0, scenario.end_s):
            length_s = self._dice.lognormvariate(math.log(STALL_MEDIAN_S), STALL_SIGMA)
            self._at(at_s, partial(self._stall, length_s))
        for death in scenario.deaths:
            self._at(death.at_s, partial(self._die, death))
        for pause in scenario.pauses:
            self._at(pause.at_s, partial(self._pause, pause))
        for parted in scenario.partitions:
            self._at(parted.at_s, partial(self._part, parted))
            self._at(parted.at_s + parted.for_s, self._heal)

    def _moments(self, per_s: float, at_s: float, until_s: float) -> Iterator[float]:
        """When something happens that happens so often, at any time."""
        while per_s and (at_s := at_s + self._dice.expovariate(per_s)) < until_s:
            yield at_s

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        self._cluster.at(self._began_at + at_s, happen)

    def _add_one(self) -> None:
        self._cluster.add(self._draw(), self._dice.randbytes(KEY_BYTES), tracked=True)

    def _add_part(self, *, tracked: bool) -> None:
        name = self._draw()
        layer = self._layers[name]
        self._layers[name] += 1
        if layer == len(self._image):
            self._image.append(self._dice.randbytes(KEY_BYTES))
        self._cluster.add(name, self._image[layer], tracked=tracked)

    def _draw(self) -> str:
        """A node that runs, and rather one that does not stall."""
        hosts, now = self._cluster.hosts, self._cluster.now
        for _ in range(DRAWS_MAX):
            name = self._dice.choice(self._names)
            if hosts[name].replica is not None and hosts[name].stalled_until <= now:
                return name
        return self._dice.choice(self._cluster.running())

    def _stall(self, length_s: float) -> None:
        self._cluster.stall(self._draw(), length_s)

    def _die(self, death: Death) -> None:
        victims = self._dice.sample(self._cluster.running(), death.nodes)
        fate = Fate(death, victims, seen=dict.fromkeys(victims))
        self._record.fates.append(fate)
        for name in victims:
            self._dead[name] = fate
            self._cluster.crash(name, silently=death.silently)

    def _pause(self, pause: Pause) -> None:
        running = self._cluster.running()
        for name in self._dice.sample(running, min(pause.nodes, len(running))):
            self._cluster.stall(name, pause.for_s)

    def _part(self, partition: Partition) -> None:
        self._record.scars.append(Scar(partition))
        self._side = frozenset(self._names[: round(partition.share * len(self._names))])
        self._parted = True
        self._cluster.partition(sorted(self._side))

    def _heal(self) -> None:
        self._parted = False
        self._cluster.partition()

    # What is seen.

    def _said(self, speaker: str, claim: Claim) -> None:
        """A node says something of a member's life, for the first time or after others."""
        if not self._began_at:
            return
        name = claim.member.name
        now = self._cluster.now - self._began_at
        cut_off = self._parted and (speaker in self._side) != (name in self._side)
        if claim.member.status is Status.SUSPECT and claim.accuser == speaker:
            if name in self._dead:
                self._dead[name].suspected_at = min(self._dead[name].suspected_at, now)
            elif not cut_off:
                self._record.accused()
        elif claim.member.status is Status.DOWN and (name, claim.member.life) not in self._called_down:
            self._called_down.add((name, claim.member.life))
            self._record.false_downs += name not in self._dead and not cut_off

    def _look_for_the_dead(self) -> None:
        sought = [name for fate in self._record.fates for name in fate.seen]
        if not sought:
            return
        running = self._cluster.running()
        hiding: Counter[str] = Counter()
        for name in sought:
            hiding[name] = self._cluster.views(name).count(Visibility.HIDDEN)
        for fate in self._record.fates:
            fate.look(hiding, len(running), self._record.elapsed_s)

    def _look_for_the_living(self) -> None:
        """Count the pairs of which one wrongly does not see the other."""
        within = across = 0
        for name in self._cluster.running():
            here = name in self._side
            for other, seen in self._cluster.replica(name).membership.gone.items():
                if seen.visibility is Visibility.HIDDEN and other not in self._dead:
                    if (other in self._side) == here:
                        within += 1
                    else:
                        across += 1
        self._record.hidden(within, within if self._parted else within + across)

    def _reset(self) -> None:
        for host in self._cluster.hosts.values():
            host.messages_in = host.bytes_in = 0


class _Watched(Simulation):
    """A simulation that tells what nodes publish of each other."""

    def __init__(
        self,
        seed: int,
        seeds: list[str],
        faults: Faults,
        zones: dict[str, str],
        said: Callable[[str, Claim], None],
    ) -> None:
        super().__init__(seed, seeds, faults, check_every=0, decode_every=100, zones=zones)
        self._said = said

    def perform(self, host: Host, output: Output, asker: tuple[Host, int] | None) -> None:
        """Do one thing that a replica wants."""
        if isinstance(output, Publish) and isinstance(output.message, Members):
            for claim in output.message.claims:
                self._said(host.name, claim)
        super().perform(host, output, asker)
