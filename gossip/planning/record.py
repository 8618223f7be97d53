"""What is noted while a scenario is played, and the report that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from gossip.planning.report import Detection, Healing, Propagation, Report, Second, Traffic, quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gossip.planning.scenario import Death, Partition, Scenario
    from gossip.simulated_network import Change

WHEN: Final = ("quiet", "roll-out", "partition", "later")
ECHO_S: Final = 1.0
"""After a roll-out its last changes are on their way, and who has just published waits before it does so again."""

WATCH_S: Final = 15.0
"""A partition has healed when nobody is hidden any more; should that change within this time, it had not."""


@dataclass(slots=True)
class Fate:
    """What became of the nodes of one `Death`: when they were first suspected, first hidden, and for each that is not
    yet hidden everywhere an entry in `seen`."""

    death: Death
    victims: list[str]
    suspected_at: float = inf
    hidden_first_at: float = inf
    hidden_everywhere_at: float = inf
    seen: dict[str, None] = field(default_factory=dict)

    def look(self, hiding: dict[str, int], observers: int, now: float) -> None:
        """Note by how many of the observers each of the victims is hidden now."""
        for name in list(self.seen):
            if hiding.get(name, 0):
                self.hidden_first_at = min(self.hidden_first_at, now)
            if hiding.get(name, 0) >= observers:
                del self.seen[name]
                self.hidden_everywhere_at = now


@dataclass(slots=True)
class Scar:
    """What became of a partition."""

    partition: Partition
    healed_at: float = inf
    hidden_within_max: int = 0


@dataclass(slots=True)
class Moment:
    """What was noted of one second."""

    bytes_in: float
    bytes_in_max: float
    messages_in: float
    hidden_pairs: int = 0
    accusations: int = 0


class Record:
    """The notes. Times are seconds since the scenario began."""

    def __init__(self, scenario: Scenario, model: str) -> None:
        self.scenario = scenario
        self.fates: list[Fate] = []
        self.scars: list[Scar] = []
        self.seconds: list[Moment] = []
        self.elapsed_s = 0.0
        self.false_downs = 0
        self._model = model
        self._accusations = self._hidden_pairs = 0
        self._accusations_before = 0

    def accused(self) -> None:
        """A node that ran was accused."""
        self._accusations += 1

    def hidden(self, within: int, pairs: int) -> None:
        """So many pairs of running nodes are hidden from each other that nothing parts now; those `within` are on one
        side of the partition, or were until it healed."""
        self._hidden_pairs = max(self._hidden_pairs, pairs)
        for scar in self.scars[-1:]:
            over_s = self.elapsed_s - scar.partition.at_s - scar.partition.for_s
            if over_s > WATCH_S and scar.healed_at < inf:
                return
            scar.hidden_within_max = max(scar.hidden_within_max, within)
            if over_s >= 0:
                scar.healed_at = inf if pairs else min(scar.healed_at, self.elapsed_s)

    def second(self, bytes_in: Sequence[int], messages_in: int) -> None:
        """A second is over, in which each node got so many bytes."""
        moment = Moment(sum(bytes_in) / len(bytes_in), max(bytes_in), messages_in / len(bytes_in))
        moment.hidden_pairs, self._hidden_pairs = self._hidden_pairs, 0
        moment.accusations = self._accusations - self._accusations_before
        self._accusations_before = self._accusations
        self.seconds.append(moment)

    def report(self, changes: Sequence[Change], missing: Iterable[Change]) -> Report:
        """Sum up. `changes` were tracked; each of `missing` has not arrived at one node, once for each. The times of
        both are seconds since the scenario began."""
        by_when: dict[str, list[Change]] = {when: [] for when in WHEN}
        lacking = dict.fromkeys(WHEN, 0)
        by_second: dict[int, list[float]] = {}
        for change in changes:
            by_when[self._when(change)].append(change)
            by_second.setdefault(int(change.made_at), []).extend(change.latencies)
        for change in missing:
            lacking[self._when(change)] += 1
        return Report(
            scenario=self.scenario,
            model=self._model,
            complete=self.elapsed_s >= self.scenario.end_s,
            simulated_s=self.elapsed_s,
            propagation=tuple(_propagation(when, by_when[when], lacking[when]) for when in WHEN if by_when[when]),
            traffic=tuple(self._traffic()),
            detections=tuple(map(_detection, self.fates)),
            healings=tuple(map(_healing, self.scars)),
            accusations=self._accusations,
            false_downs=self.false_downs,
            hidden_pairs_max=max((moment.hidden_pairs for moment in self.seconds), default=0),
            timeline=tuple(
                Second(
                    at,
                    moment.bytes_in,
                    quantile(sorted(by_second.get(at, ())), 0.99),
                    moment.hidden_pairs,
                    moment.accusations,
                )
                for at, moment in enumerate(self.seconds)
            ),
        )

    def _when(self, change: Change) -> str:
        scenario = self.scenario
        if any(parted.at_s <= change.made_at < parted.at_s + parted.for_s for parted in scenario.partitions):
            return "partition"
        if self._rolling(change.made_at, ECHO_S):
            return "roll-out"
        return "quiet" if change.made_at < scenario.disturbed_at_s else "later"

    def _rolling(self, at_s: float, echo_s: float = 0.0) -> bool:
        scenario = self.scenario
        return bool(scenario.rollout_rate) and 0 <= at_s - scenario.rollout_at_s < scenario.rollout_for_s + echo_s

    def _traffic(self) -> Iterable[Traffic]:
        scenario = self.scenario
        quiet = [moment for at, moment in enumerate(self.seconds) if at + 1 <= scenario.disturbed_at_s]
        rolling = [moment for at, moment in enumerate(self.seconds) if self._rolling(at)]
        for when, moments in (("quiet", quiet), ("roll-out", rolling), ("whole", self.seconds)):
            if moments:
                yield Traffic(
                    when,
                    sum(moment.bytes_in for moment in moments) / len(moments),
                    sum(moment.messages_in for moment in moments) / len(moments),
                    max(moment.bytes_in_max for moment in moments),
                )


def _propagation(when: str, changes: Sequence[Change], missing: int) -> Propagation:
    values = sorted(latency for change in changes for latency in change.latencies)
    most = values[-1] if values else None
    return Propagation(when, len(changes), quantile(values, 0.5), quantile(values, 0.99), most, missing)


def _detection(fate: Fate) -> Detection:
    at_s = fate.death.at_s
    what = "power loss" if fate.death.silently else "crash"
    everywhere_at = inf if fate.seen else fate.hidden_everywhere_at
    after = [_after(at_s, at) for at in (fate.suspected_at, fate.hidden_first_at, everywhere_at)]
    return Detection(what, at_s, len(fate.victims), *after)


def _healing(scar: Scar) -> Healing:
    partition = scar.partition
    healed_s = _after(partition.at_s + partition.for_s, scar.healed_at)
    return Healing(partition.at_s, partition.for_s, healed_s, scar.hidden_within_max)


def _after(since: float, at: float) -> float | None:
    return None if at == inf else at - since
