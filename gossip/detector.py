"""Who is down: silence, probes, suspicion.

Each member listens to its neighbours (`gossip.overlay`), which say something every second. One that is silent for
`silence_s`, or whose connection broke, is probed: by a ping, then by pings of three others on this node's behalf. When
nobody heard it within twice `probe_timeout_s`, this node suspects it, and says so. Every member that learns of a
suspicion waits for the suspected to deny it (a refutation, `Membership.refute`); the more members suspect
independently, the shorter the wait, from `suspicion_max_s` down to `suspicion_min_s`, counted from when a second one
does. Then it is DOWN. Who happens to probe a member just as it stalls does not take from the time that it has: that is
why the second one counts, and a neighbour is suspected only after a probe that its silence, or a break, went before.

This node may be at fault itself. *Health* is 0 when it is well, up to 8; it multiplies how long this node waits before
it accuses. It is worse after a stall of this process, after a suspicion of this node, and for each helper that did not
even say that it got no answer; better after each probe that succeeded. A node that hears none of its neighbours blames
itself first: its health gets worse each second, so that it accuses the others late, but does. The same when none of
three helpers says anything. (Rules that count others have a floor: who has no three neighbours, or no three to help,
learns nothing about itself from their silence, and accuses at once.)

Besides, every few seconds a random member is probed, newcomers first, and one that is DOWN: the halves of a parted
cluster find each other that way.

Source: SWIM; Dadgar, Phillips, Currey, "Lifeguard: local health awareness" (arXiv 1707.00788).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from gossip.membership import Claim, Status, Visibility
from gossip.messages import Ack, Nack, Ping, PingRequest

if TYPE_CHECKING:
    import random

    from gossip.config import Config
    from gossip.membership import Member, Membership
    from gossip.messages import Message
    from gossip.or_set import Epoch

CHECK_S: Final = 0.5
"""How often silence is judged."""
TICK_S_MIN: Final = 0.05
"""What is due within so short a time is done together."""
HELPERS: Final = 3
HELP_SHARE: Final = 0.5
"""Of the probe's time-out after which a helper says that it got no answer; the rest is for the request and its word to
arrive, on connections that may have to be made first."""
DRAWN_MAX: Final = 100
"""Among so many members, drawn by lot, helpers are looked for; then among the neighbours. They may all be gone."""
RELAYS_MAX: Final = 64
CONFIRMATIONS: Final = 3
"""So many others that suspect the same member shorten the wait to the minimum."""
ROUND_S: Final = 5.0
"""How often a random member is probed."""
LOOKED_AT_MAX: Final = 1000
"""So many members, most of whom may be gone, are gone through to find one to probe: 1 ms of work."""
REVIVAL_S: Final = 10.0
REVIVERS_MIN: Final = 10
"""How often a member that is DOWN is pinged; more often where fewer than so many live members do it."""
HEALTH_WORST: Final = 8
BLAME_S: Final = 1.0
"""A node that hears nobody gets worse so often, until it is as bad as can be and accuses the others."""
DEAF_MIN: Final = 3
"""Who listens to fewer than this cannot tell whether it is deaf or they are dumb, and blames them."""


@dataclass(slots=True)
class _Probe:
    """A probe under way: due again when its stage ends."""

    number: int
    begun: float
    due: float
    helpers: list[str] = field(default_factory=list)
    nacks: int = 0
    indirect: bool = False


@dataclass(slots=True)
class _Suspicion:
    """A suspicion that this replica knows of, of one life of a member, and who shares it."""

    life: tuple[Epoch, int]
    started: float
    confirmed: float = inf
    expires: float = inf
    accusers: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Relay:
    """A ping on another's behalf: who asked, and by which number."""

    asker: Member
    number: int
    due: float


class Detector:
    """The failure detector of one replica. What it wants sent is in `sends`, what it found out in `claims`; the replica
    takes both."""

    def __init__(self, config: Config, membership: Membership, rng: random.Random) -> None:
        self.health = 0
        self.deadline = inf
        self.sends: list[tuple[Member, Message]] = []
        self.claims: list[Claim] = []
        self._config = config
        self._membership = membership
        self._rng = rng
        self._number = 0
        self._probes: dict[str, _Probe] = {}
        self._suspicions: dict[str, _Suspicion] = {}
        self._relays: dict[int, _Relay] = {}
        self._newcomers: dict[str, None] = {}
        self._round: list[str] = []
        self._deaf = False
        self._check_at = self._round_at = self._revive_at = self._blame_at = inf

    def start(self, now: float) -> None:
        """Begin."""
        self._check_at = now + CHECK_S * self._rng.random()
        self._blame_at = now
        self._round_at = now + ROUND_S * self._rng.random()
        self._revive_at = now + REVIVAL_S * self._rng.random()
        self._plan(now)

    # What happened.

    def heard(self, name: str) -> None:
        """A member gave a sign of life."""
        if self._probes and self._probes.pop(name, None) is not None:
            self.health = max(0, self.health - 1)

    def strained(self) -> None:
        """This process stalled, or was suspected by others."""
        self.health = min(HEALTH_WORST, self.health + 1)

    def newcomer(self, name: str) -> None:
        """A member that nobody here knew is there, it is said (R4)."""
        self._newcomers[name] = None

    def learned(self, claim: Claim, now: float) -> bool:
        """Note a record that may be known; whether it is of a suspicion that deserves to be passed on."""
        member = claim.member
        if member.status is not Status.SUSPECT:
            if self._suspicions:
                known = self._suspicions.get(member.name)
                if known is not None and (member.life > known.life or member.status >= Status.DOWN):
                    del self._suspicions[member.name]
            return False
        other = self._membership.others.get(member.name)
        if other is None or other.member.rank != member.rank:
            return False
        known = self._suspicions.get(member.name)
        if known is None or known.life != member.life:
            known = self._suspicions[member.name] = _Suspicion(member.life, now)
        if claim.accuser in known.accusers or len(known.accusers) > CONFIRMATIONS:
            return False
        known.accusers[claim.accuser] = None
        if len(known.accusers) > 1:
            known.confirmed = min(known.confirmed, now)
        known.expires = self._expiry(known)
        self.deadline = min(self.deadline, max(known.expires, now + TICK_S_MIN))
        return True

    def accuser(self, member: Member) -> str:
        """One who suspects a member; nobody when its record does not say SUSPECT."""
        known = self._suspicions.get(member.name) if member.status is Status.SUSPECT else None
        return next(iter(known.accusers), "") if known else ""

    def certain_at(self, member: Member) -> float:
        """When this replica would call a member DOWN, if nothing else happens; infinity when it does not suspect it."""
        known = self._suspicions.get(member.name)
        return known.expires if known is not None and known.life == member.life else inf

    def suspect(self, name: str, now: float) -> None:
        """A connection broke: probe that member at once."""
        if name in self._membership.linked:
            self._probe(name, now)

    def asked(self, request: PingRequest, now: float) -> None:
        """Ping somebody on another's behalf."""
        if len(self._relays) < RELAYS_MAX:
            self._number += 1
            due = now + HELP_SHARE * self._config.probe_timeout_s
            self._relays[self._number] = _Relay(request.member, request.number, due)
            self.sends.append((request.target, Ping(self._membership.me, self._number)))
            self.deadline = min(self.deadline, due)

    def acknowledged(self, ack: Ack) -> None:
        """A ping was answered; if it was on another's behalf, pass it on."""
        relay = self._relays.pop(ack.number, None)
        if relay is not None:
            self.sends.append((relay.asker, Ack(ack.member, relay.number)))

    def refused(self, number: int) -> None:
        """A helper is there, but got no answer either."""
        for probe in self._probes.values():
            if probe.number == number:
                probe.nacks += 1

    def forget(self, name: str) -> None:
        """This member is not known any more."""
        self._probes.pop(name, None)
        self._suspicions.pop(name, None)
        self._newcomers.pop(name, None)

    def excuse(self, pause_s: float) -> None:
        """This process itself slept: all waits take as much longer."""
        self.strained()
        for probe in self._probes.values():
            probe.begun += pause_s
            probe.due += pause_s
        for relay in self._relays.values():
            relay.due += pause_s
        for suspicion in self._suspicions.values():
            suspicion.started += pause_s
            suspicion.confirmed += pause_s
            suspicion.expires += pause_s

    # What time brings.

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now < self.deadline:
            return
        if now >= self._check_at:
            self._check_at = now + CHECK_S
            self._check(now)
        for number, relay in list(self._relays.items()):
            if now >= relay.due:
                del self._relays[number]
                self.sends.append((relay.asker, Nack(relay.number)))
        for name, probe in list(self._probes.items()):
            if now >= probe.due:
                self._advance(name, probe, now)
        for name, suspicion in list(self._suspicions.items()):
            if now >= suspicion.expires:
                self._condemn(name, suspicion)
        if now >= self._round_at:
            self._round_at = now + ROUND_S * self._rng.uniform(0.8, 1.2)
            self._next_of_round(now)
        if now >= self._revive_at:
            share = min(1.0, (len(self._membership.others) + 1 - len(self._membership.gone)) / REVIVERS_MIN)
            self._revive_at = now + share * REVIVAL_S * self._rng.uniform(0.8, 1.2)
            self._revive()
        self._plan(now)

    def _plan(self, now: float) -> None:
        due = min(self._check_at, self._round_at, self._revive_at)
        due = min((due, *(probe.due for probe in self._probes.values())))
        due = min((due, *(relay.due for relay in self._relays.values())))
        due = min((due, *(suspicion.expires for suspicion in self._suspicions.values())))
        self.deadline = max(due, now + TICK_S_MIN)

    def _check(self, now: float) -> None:
        for suspicion in self._suspicions.values():
            suspicion.expires = self._expiry(suspicion)  # fewer may be able to confirm by now
        linked = self._membership.linked
        late_s = self._config.silence_s * (self.health + 1)
        late = [name for name, other in linked.items() if other.disconnected or now - other.heard_at > late_s]
        silent = sum(self._membership.silent(other, now) for other in linked.values())
        self._deaf = silent == len(linked) >= DEAF_MIN and self.health < HEALTH_WORST
        if self._deaf:
            if now >= self._blame_at:
                self._blame_at = now + BLAME_S
                self.strained()
            return
        for name in late:
            self._probe(name, now)

    def _probe(self, name: str, now: float) -> bool:
        """Begin to probe a member; False when there is no reason to, or no such member."""
        suspicion = self._suspicions.get(name)
        accused = suspicion is not None and self._membership.me.name in suspicion.accusers
        known = name in self._membership.others and name not in self._membership.gone
        if name in self._probes or accused or not known:
            return False
        self._number += 1
        due = now + self._config.probe_timeout_s * (self.health + 1)
        self._probes[name] = _Probe(self._number, now, due)
        self.sends.append((self._membership.others[name].member, Ping(self._membership.me, self._number)))
        self.deadline = min(self.deadline, due)
        return True

    def _advance(self, name: str, probe: _Probe, now: float) -> None:
        other = self._membership.others.get(name)
        if other is None or other.member.status >= Status.DOWN:
            del self._probes[name]
        elif not probe.indirect:
            probe.indirect = True
            probe.due = now + self._config.probe_timeout_s * (self.health + 1)
            request = PingRequest(self._membership.me, probe.number, other.member)
            helpers = self._helpers(name)
            probe.helpers = [helper.name for helper in helpers]
            self.sends.extend((helper, request) for helper in helpers)
        else:
            del self._probes[name]
            # A helper that is silent itself says nothing about this node.
            alive = sum(self._alive(helper, now) for helper in probe.helpers)
            missing = max(0, alive - probe.nacks) if len(probe.helpers) == HELPERS else 0
            # A probe that chance began as a neighbour fell silent does not take from the time that it has.
            early = other.linked_at is not None and not self._membership.silent(other, probe.begun)
            doubtful = early or self._deaf or (missing == HELPERS and self.health < HEALTH_WORST)
            self.health = min(HEALTH_WORST, self.health + missing)
            if not doubtful:
                accused = replace(other.member, status=Status.SUSPECT)
                self.claims.append(Claim(accused, self._membership.me.name))

    def _alive(self, name: str, now: float) -> bool:
        """Whether a helper, as far as this node can tell, is there."""
        other = self._membership.linked.get(name)
        return name in self._membership.others if other is None else not self._membership.silent(other, now)

    def _helpers(self, target: str) -> list[Member]:
        """Some to ask for help, rather those that are no neighbours: they see the target from elsewhere."""
        others, linked = self._membership.others, self._membership.linked
        names, helpers = list(others), []
        for _ in range(min(len(names), DRAWN_MAX)):
            name = self._draw(names)
            if name != target and name not in linked and others[name].visibility is Visibility.NORMAL:
                helpers.append(others[name].member)
                if len(helpers) == HELPERS:
                    return helpers
        near = [other.member for n, other in linked.items() if n != target and other.visibility is Visibility.NORMAL]
        return helpers + self._rng.sample(near, min(HELPERS - len(helpers), len(near)))

    def _draw(self, names: list[str]) -> str:
        """Take one out by lot. So many are shuffled as they are used up, not all at once, which takes milliseconds."""
        drawn = self._rng.randrange(len(names))
        names[drawn], names[-1] = names[-1], names[drawn]
        return names.pop()

    def _expiry(self, suspicion: _Suspicion) -> float:
        """When a suspicion that nobody denied becomes certain (Lifeguard's formula)."""
        least, most = self._config.suspicion_min_s, self._config.suspicion_max_s
        # The suspect and its first accuser cannot confirm; this node's own word counts like any other's.
        able = len(self._membership.others) + 1 - len(self._membership.gone) - len(self._suspicions) - 1
        wanted = min(CONFIRMATIONS, able)
        got = len(suspicion.accusers) - 1
        since = suspicion.confirmed if got else suspicion.started
        if got >= wanted:
            return since + least
        wait_s = most - (most - least) * math.log(got + 1) / math.log(wanted + 1)
        return min(since + wait_s, suspicion.started + most)

    def _condemn(self, name: str, suspicion: _Suspicion) -> None:
        del self._suspicions[name]
        other = self._membership.others.get(name)
        if other is not None and other.member.life == suspicion.life and other.member.status is Status.SUSPECT:
            self.claims.append(Claim(replace(other.member, status=Status.DOWN)))

    def _next_of_round(self, now: float) -> None:
        for name in list(islice(self._newcomers, LOOKED_AT_MAX)):
            del self._newcomers[name]
            if self._probe(name, now):
                return
        if not self._round:
            self._round = self._membership.live()
        for _ in range(min(len(self._round), LOOKED_AT_MAX)):
            if self._probe(self._draw(self._round), now):
                return

    def _revive(self) -> None:
        down = [name for name, other in self._membership.gone.items() if other.member.status is Status.DOWN]
        if down:
            self._number += 1
            target = self._membership.gone[self._rng.choice(down)].member
            self.sends.append((target, Ping(self._membership.me, self._number)))
