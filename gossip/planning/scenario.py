"""What is to be played: a cluster, its network, and what happens to it. Checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gossip.errors import ConfigError
from gossip.membership import MEMBERS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL_NODES_MAX: Final = 1000
"""Up to so many nodes each is a replica of the product; it takes a gigabyte of memory, at 20 digests each."""
PAIRS_MAX: Final = 20_000_000
"""Of what all replicas hold together: nodes x nodes x digests. About 40 bytes each."""
DURATION_S_MAX: Final = 7200.0
ADDS_MAX: Final = 50_000
EVENTS_MAX: Final = 100
"""Deaths, pauses and partitions together."""
ZONES_MAX: Final = 100
AFTERMATH_S: Final = 20.0
"""Of a scenario whose duration is not given, after the last event: enough to find the dead and to heal."""

SHARING: Final = 20
"""Each node's digests are drawn from a pool so many times as large: nodes hold much the same images."""


@dataclass(frozen=True, slots=True)
class Death:
    """Some nodes, drawn by lot, end at a time and do not return. `silently`: not even their connections break, as when
    they lose power; otherwise their processes crash."""

    at_s: float
    nodes: int
    silently: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Some nodes, drawn by lot, do nothing for a while; then they go on."""

    at_s: float
    nodes: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Partition:
    """For a while nothing passes between the first nodes, this share of all, and the others. Zones are blocks of
    consecutive nodes, so with two zones a share of 0.5 parts them."""

    at_s: float
    for_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. What cannot be played raises `ConfigError`, which tells what is allowed."""

    nodes: int = 100
    zones: int = 1
    digests: int = 20
    """That each node holds at the beginning."""

    adds_per_s: float = 1.0
    """Digests added all the time, in the whole cluster and evenly; each at a node drawn by lot."""

    rollout_at_s: float = 10.0
    rollout_for_s: float = 5.0
    rollout_adds_per_s: float | None = None
    """A roll-out: nodes get the parts of one new image, so many in the whole cluster each second. By default 0.4 for
    each node, which is an image of twelve parts within 30 seconds."""

    loss: float = 0.0
    """The probability that a message is lost."""

    latency_s: tuple[float, float] = (0.0003, 0.0015)
    latency_between_s: tuple[float, float] = (0.0005, 0.003)
    """Of a message, within a zone and between zones: from, to, evenly spread."""

    deaths: tuple[Death, ...] = ()
    pauses: tuple[Pause, ...] = ()
    partitions: tuple[Partition, ...] = ()
    stalls_per_hour: float = 0.0
    """Of each node, at any time: the event loop stands still, half of the times for less than 0.3 s, one in a hundred
    for more than 1.9 s (log-normal, sigma 0.8)."""

    duration_s: float | None = None
    """By default until some time after the last event."""

    seed: int = 1
    end_s: float = field(init=False)
    """When it ends."""
    rollout_rate: float = field(init=False)
    """Digests a second in the roll-out."""

    def __post_init__(self) -> None:
        rate = 0.4 * self.nodes if self.rollout_adds_per_s is None else self.rollout_adds_per_s
        object.__setattr__(self, "rollout_rate", rate)
        object.__setattr__(self, "end_s", self._end())
        _check("nodes", self.nodes, 2, MEMBERS_MAX)
        _check("zones", self.zones, 1, min(ZONES_MAX, self.nodes))
        _check("digests", self.digests, 0, 1000)
        _check("adds per second", self.adds_per_s, 0, 100)
        _check("roll-out adds per second", rate, 0, 10_000)
        _check("roll-out duration", self.rollout_for_s, 0, DURATION_S_MAX)
        _check("loss", self.loss, 0, 0.5)
        _check("stalls per hour", self.stalls_per_hour, 0, 3600)
        _check("duration", self.end_s, 1, DURATION_S_MAX)
        for name, (low, high) in (("latency", self.latency_s), ("latency between zones", self.latency_between_s)):
            if not 0 < low <= high <= 1:
                raise ConfigError(name, f"{low * 1000:g} to {high * 1000:g} ms", "a range within 0 to 1000 ms")
        self._check_size()
        self._check_events()

    @property
    def full(self) -> bool:
        """Whether each node is a replica of the product."""
        return self.nodes <= FULL_NODES_MAX

    @property
    def events(self) -> tuple[Death | Pause | Partition, ...]:
        """What happens to nodes, but for stalls."""
        return (*self.deaths, *self.pauses, *self.partitions)

    @property
    def disturbed_at_s(self) -> float:
        """Until when nothing happens but what happens all the time."""
        return min([*(event.at_s for event in self.events), self.rollout_at_s if self.rollout_rate else self.end_s])

    @property
    def names(self) -> list[str]:
        """The names of the nodes."""
        return [f"node{number:05}" for number in range(self.nodes)]

    def zone(self, node: int) -> str:
        """The zone of a node."""
        return f"zone{node * self.zones // self.nodes}"

    def quiet_adds(self, until_s: float) -> Iterator[float]:
        """When the digests are added that are added all the time."""
        number = 1
        while self.adds_per_s and (at_s := (number - 0.5) / self.adds_per_s) < until_s:
            yield at_s
            number += 1

    def _end(self) -> float:
        if self.duration_s is not None:
            return self.duration_s
        ends = [self.rollout_at_s + self.rollout_for_s if self.rollout_rate else 0.0]
        ends.extend(event.at_s + (0.0 if isinstance(event, Death) else event.for_s) for event in self.events)
        return max(ends) + AFTERMATH_S

    def _check_size(self) -> None:
        pairs = self.nodes * self.nodes * self.digests
        if self.full and pairs > PAIRS_MAX:
            most = PAIRS_MAX // self.nodes**2
            raise ConfigError("digests", self.digests, f"at most {most} with {self.nodes} nodes, for want of memory")
        adds = self.adds_per_s * self.end_s + self.rollout_rate * self.rollout_for_s
        if adds > ADDS_MAX:
            raise ConfigError("the number of adds", f"{adds:.0f}", f"at most {ADDS_MAX}: lower a rate or a duration")

    def _check_events(self) -> None:
        if len(self.events) > EVENTS_MAX:
            raise ConfigError("the number of events", len(self.events), f"at most {EVENTS_MAX}")
        for event in self.events:
            if not 0 <= event.at_s < self.end_s:
                raise ConfigError("the time of an event", f"{event.at_s:g} s", f"from 0 to {self.end_s:g}, the end")
        for paused in self.pauses:
            _check("nodes to pause", paused.nodes, 1, self.nodes)
            _check("length of a pause", paused.for_s, 0.01, DURATION_S_MAX)
        if self.deaths:
            _check("nodes that die", sum(death.nodes for death in self.deaths), 1, self.nodes - 1)
        if any(death.nodes < 1 for death in self.deaths):
            raise ConfigError("nodes that die", 0, "at least 1")
        healed_at = 0.0
        for parted in sorted(self.partitions, key=lambda parted: parted.at_s):
            if not 1 <= round(parted.share * self.nodes) < self.nodes:
                raise ConfigError(
                    "share of a partition", f"{parted.share:g}", "between 0 and 1, with a node on each side"
                )
            _check("length of a partition", parted.for_s, 0.01, DURATION_S_MAX)
            if parted.at_s < healed_at:
                raise ConfigError("a partition", f"at {parted.at_s:g} s", "after the one before has healed")
            healed_at = parted.at_s + parted.for_s
        if not self.full and (self.pauses or self.partitions or self.stalls_per_hour):
            allowed = f"left out above {FULL_NODES_MAX} nodes: the reduced model does not have them"
            raise ConfigError("a pause, a stall or a partition", "given", allowed)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(name, f"{value:g}", f"from {least:,g} to {most:,g}")
