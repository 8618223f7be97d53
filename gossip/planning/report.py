"""What came of a scenario. All times are seconds of simulated time; bytes and messages are those that a node gets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossip.planning.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Propagation:
    """How long changes took to each other node. `when` they were made is one of quiet (before anything happens),
    roll-out, partition, later; `missing` counts the pairs of a change and a running node it had not reached at the end.
    """

    when: str
    changes: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None
    missing: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a node gets in a second: on average, and the busiest node in its busiest second. `when` is one of quiet,
    roll-out, whole."""

    when: str
    bytes_in: float
    messages_in: float
    bytes_in_max: float


@dataclass(frozen=True, slots=True)
class Detection:
    """How soon deaths were seen, in seconds after them; None: not until the end. The slowest of the nodes that died
    counts, but for `suspected_s` and `hidden_first_s`, which are the first that anybody did."""

    what: str
    at_s: float
    nodes: int
    suspected_s: float | None
    hidden_first_s: float | None
    hidden_everywhere_s: float | None


@dataclass(frozen=True, slots=True)
class Healing:
    """What came of a partition: how long after its end everybody saw everybody (None: not until the end, or until the
    next partition), and of how many pairs of nodes of one side one did not see the other, at worst."""

    at_s: float
    for_s: float
    healed_s: float | None
    hidden_within_max: int


@dataclass(frozen=True, slots=True)
class Second:
    """One second: bytes to a node on average, how long the changes made in it took, pairs of running nodes of which one
    does not see the other although nothing parts them, and accusations of nodes that ran."""

    at_s: int
    bytes_in: float
    p99_s: float | None
    hidden_pairs: int
    accusations: int


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. `complete` is false when it was ended early, after `simulated_s`.

    `accusations` and `false_downs` are of nodes that ran and were not cut off from who said so; nodes that were paused
    for long are among them.
    """

    scenario: Scenario
    model: str
    complete: bool
    simulated_s: float
    propagation: tuple[Propagation, ...]
    traffic: tuple[Traffic, ...]
    detections: tuple[Detection, ...]
    healings: tuple[Healing, ...]
    accusations: int
    false_downs: int
    hidden_pairs_max: int
    timeline: tuple[Second, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it in types that JSON has."""
        return asdict(self)


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """The least value that `part` (0 to 1) of the values do not exceed; they are given in ascending order."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None
