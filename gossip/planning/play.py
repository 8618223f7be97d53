"""Playing a scenario: with the product's replicas, or in a large cluster with the reduced model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gossip.planning.full import FullRun
from gossip.planning.reduced import ReducedRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gossip.planning.report import Report
    from gossip.planning.scenario import Scenario


class Run(Protocol):
    """A scenario that is being played."""

    def steps(self) -> Iterator[float]:
        """Play it: 0 when all is prepared, then after each step how many seconds of it are over. To be called once."""

    def report(self) -> Report:
        """What came of it so far."""


def begin(scenario: Scenario) -> Run:
    """A run of a scenario; nothing is done before its first step."""
    return FullRun(scenario) if scenario.full else ReducedRun(scenario)
