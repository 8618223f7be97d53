"""Deaths in the reduced model: neighbours miss a member, suspect it, and in the end all hide it.

As in `gossip.detector` and `gossip.membership`: the neighbours of a crashed member notice that its connection broke,
those of one that lost power that it is silent, and after two probes that nobody answers they accuse it. Who hears that
waits, the less the more accuse; then the member is DOWN, which hides it there at once, and elsewhere after a while in
which it might deny it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

from gossip.detector import CHECK_S, CONFIRMATIONS
from gossip.membership import GRACE_S
from gossip.planning.record import Fate
from gossip.replica import REVISE_S
from gossip.simulation import CONNECT_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gossip.config import Config
    from gossip.planning.record import Record
    from gossip.planning.scenario import Death, Scenario


class Flood(Protocol):
    """How claims spread, and time passes."""

    now: float

    def at(self, time_s: float, happen: Callable[[], None]) -> None:
        """Let something happen at a time to come."""

    def claim(self, node: int, bit: int) -> None:
        """A node says something."""

    def new_claim(self) -> int:
        """A bit for a claim."""

    def neighbours(self, node: int) -> list[int]:
        """Those that listen to a node."""


@dataclass(slots=True)
class _Doubt:
    """What one node knows of one dead member: since when it is suspected, by how many, and whether it is DOWN here."""

    started: float
    confirmed: float = inf
    accusers: int = 0
    expires: float = inf
    down: bool = False


@dataclass(slots=True)
class _Victim:
    """A dead member; `down_bit` is the claim that it is DOWN, `hidden` how many nodes hide it."""

    name: str
    fate: Fate
    down_bit: int = 0
    hidden: int = 0
    doubts: dict[int, _Doubt] = field(default_factory=dict)


class Deaths:
    """Who is dead, and who knows it."""

    def __init__(self, scenario: Scenario, config: Config, record: Record, dice: random.Random, flood: Flood) -> None:
        self.alive = bytearray(b"\x01" * scenario.nodes)
        self._scenario = scenario
        self._names = scenario.names
        self._config = config
        self._record = record
        self._dice = dice
        self._flood = flood
        self._victims: list[_Victim] = []
        self._meaning: dict[int, tuple[_Victim, bool]] = {}
        """Of each claim's bit: of whom it is, and whether it says DOWN."""

    def schedule(self) -> None:
        """Have the nodes die when they are to."""
        for death in self._scenario.deaths:
            self._flood.at(death.at_s, partial(self._die, death))

    def hear(self, node: int, bit: int) -> bool:
        """A node hears a claim that it had not heard; whether it passes it on."""
        victim, down = self._meaning[bit]
        doubt = victim.doubts.setdefault(node, _Doubt(self._flood.now))
        if doubt.down:
            return False
        if down:
            self._condemn(node, victim, doubt, certain_at=min(doubt.expires, self._flood.now + GRACE_S))
            return True
        if doubt.accusers > CONFIRMATIONS:
            return False
        doubt.accusers += 1
        if doubt.accusers > 1:
            doubt.confirmed = min(doubt.confirmed, self._flood.now)
        doubt.expires = self._expiry(doubt)
        self._flood.at(max(doubt.expires, self._flood.now), partial(self._expire, node, victim, doubt.expires))
        return True

    def look(self) -> None:
        """Note who is hidden by whom."""
        hiding = {victim.name: victim.hidden for victim in self._victims}
        for fate in self._record.fates:
            fate.look(hiding, sum(self.alive), self._record.elapsed_s)

    def _die(self, death: Death) -> None:
        living = [node for node, alive in enumerate(self.alive) if alive]
        dying = self._dice.sample(living, death.nodes)
        names = [self._names[node] for node in dying]
        fate = Fate(death, names, seen=dict.fromkeys(names))
        self._record.fates.append(fate)
        for node in dying:
            self.alive[node] = False
        for node in dying:
            victim = _Victim(self._names[node], fate)
            self._victims.append(victim)
            heard_at = self._flood.now - self._dice.uniform(0, self._config.heartbeat_s)
            for observer in self._flood.neighbours(node):
                noticed_at = self._flood.now + CONNECT_S
                if death.silently:
                    noticed_at = heard_at + self._config.silence_s + self._dice.uniform(0, CHECK_S)
                verdict_at = noticed_at + 2 * self._config.probe_timeout_s
                self._flood.at(verdict_at, partial(self._accuse, observer, victim))

    def _accuse(self, node: int, victim: _Victim) -> None:
        doubt = victim.doubts.get(node)
        if not self.alive[node] or (doubt is not None and doubt.down):
            return
        victim.fate.suspected_at = min(victim.fate.suspected_at, self._flood.now)
        bit = self._flood.new_claim()
        self._meaning[bit] = (victim, False)
        if self.hear(node, bit):
            self._flood.claim(node, bit)

    def _expiry(self, doubt: _Doubt) -> float:
        least, most = self._config.suspicion_min_s, self._config.suspicion_max_s
        confirmed = min(doubt.accusers - 1, CONFIRMATIONS)
        wait_s = most - (most - least) * math.log(confirmed + 1) / math.log(CONFIRMATIONS + 1)
        return min((doubt.confirmed if confirmed else doubt.started) + wait_s, doubt.started + most)

    def _expire(self, node: int, victim: _Victim, expires: float) -> None:
        doubt = victim.doubts[node]
        if not self.alive[node] or doubt.down or doubt.expires != expires:
            return
        if not victim.down_bit:
            victim.down_bit = self._flood.new_claim()
            self._meaning[victim.down_bit] = (victim, True)
        self._condemn(node, victim, doubt, certain_at=self._flood.now)
        self._flood.claim(node, victim.down_bit)

    def _condemn(self, node: int, victim: _Victim, doubt: _Doubt, *, certain_at: float) -> None:
        doubt.down = True
        # Visibility is judged from time to time; who says so itself hides at once.
        wait_s = self._dice.uniform(0, REVISE_S) if certain_at > self._flood.now else 0.0
        self._flood.at(certain_at + wait_s, partial(self._hide, victim))

    def _hide(self, victim: _Victim) -> None:
        victim.hidden += 1
