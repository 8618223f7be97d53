"""One request on its way to a source: for how long, and what was found of others so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mirror.herd.leases import STARVED_S
from mirror.herd.words import End, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.errors import UnavailableError
    from mirror.herd.claims import Lease

HOLD_S: Final = 15.0
"""After so long a request goes upstream on its own whatever the coordinator says. That leaves 10 s for the registry: a
client that has no answer after `mirror.registry.ANSWER_S_MAX` is sent elsewhere."""
PROMISED_S: Final = 9.0
"""As `STARVED_S`, where somebody in the zone has it or leads, and has no slot free or no bytes yet: there will be one
for who waits (`mirror.upload_slots`), or another leader; what crosses meanwhile the zone would have had anyway."""
LOST_S: Final = 2.0
"""How long a member that broke off is not asked again by the same request."""


@dataclass(slots=True)
class Quest:
    """One request on its way to a source: since when, who was lost on the way, which leases it got.

    Who was left for being `slow` is no better source for some seconds, but lives and may lead others well enough.
    """

    object: str
    offset: int
    begun_at: float
    known: bool
    lost: dict[str, float]
    slow: frozenset[str] = frozenset()
    absent: set[str] = field(default_factory=set)
    barren: str = ""  # the leader that it was to follow last, if that answers and has nothing
    leases: dict[Scope, Lease] = field(default_factory=dict)
    led_at: float = 0.0  # for how long it had waited when it last heard that it leads its zone
    alone: bool = False  # it was let out of its zone
    failure: UnavailableError | None = None
    soon: bool = False  # somebody has it and is to be asked again: for a slot, for first bytes, although it is slow
    promised: bool = False  # for a slot or first bytes, or another leader
    idle_s: float = 0.0  # how long it left the registry alone or waited for first bytes: nobody had anything to give

    def lose(self, names: Iterable[str]) -> None:
        """These broke off or do not answer; after some seconds they are as good as others again."""
        now = asyncio.get_running_loop().time()
        self.lost = {name: at for name, at in self.lost.items() if now - at < LOST_S}
        self.lost.update(dict.fromkeys(names, now))

    def waited_s(self) -> float:
        """For how long it is under way."""
        return asyncio.get_running_loop().time() - self.begun_at

    def left_s(self) -> float:
        """How long it may still take to find a source."""
        return max(0.0, HOLD_S - self.waited_s())

    def starving_s(self) -> float:
        """For how long it got nothing while others had something to give."""
        return self.waited_s() - self.idle_s

    def starved(self) -> bool:
        """Whether it is to look beyond its zone."""
        return self.starving_s() > (PROMISED_S if self.promised else STARVED_S)

    def lead_zone(self, lease: Lease) -> None:
        """It leads its zone, and takes over how long that has waited, by which others give slots."""
        self.leases[Scope.ZONE] = lease
        self.led_at = self.waited_s()
        self.idle_s = 0.0

    def leave_zone(self) -> None:
        """Another leads its zone; for whoever that gives to it has just begun to wait."""
        self.leases.pop(Scope.ZONE).end(End.LOST)
        self.idle_s = self.waited_s()

    def end(self, end: End, *, retry_s: float = 0.0, registry: bool = False) -> None:
        """Give its leases back; see `words.Release` for the arguments."""
        for lease in self.leases.values():
            lease.end(end, retry_s=retry_s, registry=registry)
        self.leases.clear()
