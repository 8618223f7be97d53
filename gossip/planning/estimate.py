"""How much work a scenario is, second by second.

Measured on one core of a small cloud machine, in seconds of its time; elsewhere it is a measure of how far a run is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from gossip import overlay
from gossip.planning.full import SETTLE_S

if TYPE_CHECKING:
    from gossip.planning.scenario import Scenario

MEET_S: Final = 12e-6
HOLD_S: Final = 2e-6
"""To know a member, and one digest that it holds."""
EVENT_S: Final = 60e-6
"""To receive a message, or to do what is due."""
DUE_PER_S: Final = 5.0
"""How often anything is due at a node."""
ENTRY_S: Final = 9e-6
"""One addition in a message."""
CLAIM_S: Final = 4e-6
CLAIMS_PER_PAIR: Final = 6.0
"""One record in a message; records for each pair that a partition parts, and again when it heals."""
DERIVE_S: Final = 30e-6
"""What a death costs each node, for each other one: it makes its rings anew, several times."""
REDUCED_EVENT_S: Final = 7e-6
REDUCED_NODES: Final = 10_000
"""In so large a cluster a message of the reduced model costs twice as much as in a small one."""
FLOODS_PER_DEATH: Final = 4.0
BATCHES_PER_S: Final = 10.0


def estimate(scenario: Scenario) -> list[float]:
    """The work of preparing a scenario, then that of each of its seconds."""
    per_second = _full if scenario.full else _reduced
    nodes = scenario.nodes
    setup = nodes * math.log2(nodes) * 1e-5
    if scenario.full:
        setup = nodes**2 * (MEET_S + scenario.digests * HOLD_S) + SETTLE_S * _idle(scenario)
    return [setup, *(per_second(scenario, second) for second in range(math.ceil(scenario.end_s)))]


def _full(scenario: Scenario, second: int) -> float:
    nodes, links = scenario.nodes, _links(scenario)
    work = _idle(scenario) + scenario.adds_per_s * links * EVENT_S
    if _rolls(scenario, second):
        batches = min(BATCHES_PER_S, scenario.rollout_rate)
        work += links * (batches * EVENT_S + scenario.rollout_rate * ENTRY_S)
    for death in scenario.deaths:
        work += nodes**2 * DERIVE_S / 10 * (death.at_s <= second < death.at_s + 10)
    for parted in scenario.partitions:
        pairs = 2 * parted.share * (1 - parted.share) * nodes**2
        flood = pairs * links / nodes * CLAIMS_PER_PAIR * CLAIM_S
        work += flood / 10 * (parted.at_s <= second < parted.at_s + 10)
        work += flood / 5 * (0 <= second - parted.at_s - parted.for_s < 5)
    return work


def _idle(scenario: Scenario) -> float:
    return (scenario.nodes * DUE_PER_S + _links(scenario)) * EVENT_S


def _reduced(scenario: Scenario, second: int) -> float:
    messages = min(scenario.adds_per_s, BATCHES_PER_S) * _links(scenario)
    if _rolls(scenario, second):
        messages = BATCHES_PER_S * _links(scenario)
    deaths = sum(death.at_s <= second < death.at_s + 10 for death in scenario.deaths)
    messages += deaths * FLOODS_PER_DEATH * _links(scenario) / 10
    return (messages + scenario.nodes) * REDUCED_EVENT_S * (1 + scenario.nodes / REDUCED_NODES)


def _rolls(scenario: Scenario, second: int) -> bool:
    return bool(scenario.rollout_rate) and 0 <= second + 0.5 - scenario.rollout_at_s < scenario.rollout_for_s


def _links(scenario: Scenario) -> float:
    nodes = scenario.nodes
    return nodes * (nodes - 1 if overlay.mesh(nodes) else 2 * overlay.rings(nodes))
