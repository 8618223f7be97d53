"""Who speaks, and what is said of members: the records, what follows from them, and this node's own good name.

A record that is news is passed on, once. Who speaks with a record that others have overtaken is told so; it answers an
accusation by a refutation, to all and to whoever told it, which costs no content traffic.

**One name, two nodes.** A higher epoch of this node's name is either its own former life, whose epoch was lost with the
disk, or another node of its name. If the record gives another address, that one is pinged: when it answers, this node
stops and says so (`Conflict`), and when it does not, this node takes a higher epoch.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from gossip import overlay
from gossip.fields import COUNTER_MAX, U64_MAX
from gossip.membership import REFUTATION_MAX, Claim, Status
from gossip.messages import CLAIMS_PER_MESSAGE_MAX, Ack, Compare, Heartbeat, Join, Members, Ping, PingRequest
from gossip.or_set import Epoch

if TYPE_CHECKING:
    from gossip.content import Content
    from gossip.detector import Detector
    from gossip.exchange import Exchange
    from gossip.membership import Member
    from gossip.messages import Message, Sender
    from gossip.state import State

CORRECTION_S: Final = 1.0
"""A member is told at most once in this time that a higher record of it exists."""
NAMESAKE_S: Final = 1.0
"""How long a node of this node's name has to answer, if it runs."""
FORGOTTEN_MAX: Final = 250
"""So many members are forgotten at a time: 1 ms of work."""
RENEWAL_S: Final = 1.0
"""An epoch lasts at least this long, so that two nodes of one name and one address do not chase each other."""


class Encounters:
    """What one replica learns of members by being spoken to.

    What it wants sent is in `sends`, those to listen to anew in `moved`. `successor` is the epoch that this node is to
    take, above another of its name, `rival` a running node of its name. The replica acts on them and clears them.
    """

    def __init__(self, state: State, content: Content, detector: Detector, exchange: Exchange) -> None:
        self.sends: list[tuple[Member, Message]] = []
        self.moved: list[Member] = []
        self.successor: Epoch | None = None
        self.rival: Member | None = None
        self._met_at = -inf
        self._membership = state.membership
        self._hash = state.hash
        self._config = state.config
        self._rng = state.rng
        self._content = content
        self._detector = detector
        self._exchange = exchange
        self._counters = state.counters
        self._namesake: Member | None = None
        self._namesake_due = inf
        self._outlived_at = -inf

    def start(self, now: float) -> None:
        """Begin; from now on it counts whether anybody speaks."""
        self._met_at = now

    def meet(self, sender: Sender, message: Message, now: float) -> bool:
        """Note that another member speaks; whether its message is to be handled."""
        self._met_at = now
        record = message.member if isinstance(message, Heartbeat | Join | Ping | PingRequest | Compare) else None
        if record is not None:
            self.learn(Claim(record), now)
        other = self._membership.others.get(sender.name)
        if other is None or other.member.epoch < sender.epoch:
            return True
        if other.member.epoch > sender.epoch or other.member.status is Status.LEFT:
            if record is not None:
                self._correct(record, other.member, now)
            self._counters.dropped["stale_epoch"] += 1
            return False
        if other.member.status is not Status.ALIVE:
            self._correct(other.member, other.member, now)
        if not other.disconnected:  # this may have waited here since before the break
            self.hear(sender.name, now)
        if sender.sequence:
            if other.sequence and sender.sequence > other.sequence + 1:
                self._counters.gaps += 1
                self._exchange.compare_with(sender.name, now + self._content.gaps.delay_s())
            other.sequence = max(other.sequence, sender.sequence)
        return True

    def hear(self, name: str, now: float) -> None:
        """A member gave a sign of life; one that is DOWN must refute that itself."""
        if name in self._membership.others and name not in self._membership.gone:
            self._membership.hear(name, now)
            self._detector.heard(name)

    def learn(
        self, claim: Claim, now: float, *, source: str = "", witnessed: bool = False, taught: bool = False
    ) -> None:
        """Join a record, and pass it on if it is news.

        `source`: who told it of others. `witnessed`: this replica itself says so. `taught`: it is part of an answer to
        a newcomer, which does not pass on what it did not know.
        """
        member = claim.member
        if member.name == self._membership.me.name:
            self._defend(member, now, source)
            return
        known = self._membership.others.get(member.name)
        if known is not None and member.status is not Status.SUSPECT and member.rank <= known.member.rank:
            return  # the most common case by far: every neighbour passes on everything
        before = None if known is None else known.member
        certain_at = self._detector.certain_at(member)
        news = self._membership.learn(member, now, witnessed=witnessed, certain_at=certain_at)
        doubt = self._detector.learned(claim, now)
        if news:
            self._hash.touch(member.name)
            self._counters.downs += member.status is Status.DOWN
        if (news or doubt) and (before is not None or not taught):
            self._content.dissemination.claim(claim)
        if not news:
            return
        if before is None:
            overlay.points(member.name)  # remembered: many at once would take long
            self._detector.newcomer(member.name)
        elif member.name in self._membership.linked and (
            (before.epoch, before.endpoints, before.server_key) != (member.epoch, member.endpoints, member.server_key)
        ):
            self.moved.append(self._membership.link(member.name, now))

    def welcome(self, joiner: Member) -> Members:
        """The answer to one who wants to join: enough records to find the others, who have the rest."""
        names = self._membership.live()
        some = self._rng.sample(names, min(len(names), CLAIMS_PER_MESSAGE_MAX - 1))
        members = [self._membership.me, *(self._membership.others[name].member for name in some)]
        return Members(tuple(Claim(member) for member in members if member.name != joiner.name))

    def meet_namesake(self, sender: Sender, message: Message, now: float) -> list[Ack]:
        """Answer one of this node's name: its own words, from a seed that is itself, or another node."""
        if sender.epoch == self._membership.me.epoch:
            return []
        self._counters.dropped["own_name"] += 1
        if isinstance(message, Ack) and self._namesake is not None and sender.epoch == self._namesake.epoch:
            self._counters.conflicts += 1
            self.rival = self._namesake
        if not isinstance(message, Ping):
            return []
        self._defend(message.member, now)
        return [Ack(self._membership.me, message.number)]

    def estranged(self, now: float) -> bool:
        """R3: whether it met nobody for so long that it may know what the others do not remember of the dead."""
        return now - self._met_at > self._config.forget_s / 2

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        return self._namesake_due

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._namesake is not None and now >= self._namesake_due:
            self._outlive(self._namesake, now)

    def forget(self, now: float) -> tuple[list[str], bool]:
        """Drop the content of those who have been gone for some time, and later their records, some at a time; who of
        them was still listened to, and whether more are to be dropped."""
        stale = [name for name in self._membership.dropped(now) if self._content.holds(name)]
        for name in stale[:FORGOTTEN_MAX]:
            self._content.forget(name)
        expired = list(self._membership.others) if self.estranged(now) else self._membership.expired(now)
        linked = [name for name in expired[:FORGOTTEN_MAX] if name in self._membership.linked]
        for name in linked:
            self._membership.unlink(name, now)
        for name in expired[:FORGOTTEN_MAX]:
            self._content.forget(name)
            self._detector.forget(name)
            self._exchange.forget(name)
            self._membership.forget(name)
            self._hash.touch(name)
        return linked, max(len(stale), len(expired)) > FORGOTTEN_MAX

    def _correct(self, to: Member, record: Member, now: float) -> None:
        """Tell a member that a higher record of it exists; one that is DOWN may be of another half of the cluster."""
        other = self._membership.others[record.name]
        if now < other.corrected_at + CORRECTION_S:
            return
        other.corrected_at = now
        self.sends.append((to, Members((Claim(record, self._detector.accuser(record)),))))
        if record.status is Status.DOWN:
            self._exchange.compare_with(record.name, now)

    def _defend(self, accusation: Member, now: float, source: str = "") -> None:
        """Somebody has a higher record of this node than its own."""
        me = self._membership.me
        if accusation.rank <= me.rank:
            return
        if accusation.epoch == me.epoch:
            if accusation.refutation < REFUTATION_MAX:
                self._counters.refutations += 1
                self._membership.refute(accusation)
                self._detector.strained()
                self._hash.touch(me.name)
                refutation = Claim(self._membership.me)
                self._content.dissemination.claim(refutation)
                if source in self._membership.others:
                    # Who calls this node DOWN may not listen to it any more, and in a small cluster that is everybody.
                    self.sends.append((self._membership.others[source].member, Members((refutation,))))
        elif accusation.endpoints == me.endpoints:
            self._outlive(accusation, now)
        elif self._namesake is None:
            self._namesake, self._namesake_due = accusation, now + NAMESAKE_S
            self.sends.append((accusation, Ping(me, 0)))

    def _outlive(self, former: Member, now: float) -> None:
        self._namesake, self._namesake_due = None, inf
        if now < self._outlived_at + RENEWAL_S:
            self._counters.conflicts += 1
            return
        self._outlived_at = now
        counter, nonce = former.epoch.counter + 1, self._rng.getrandbits(64)
        if counter > COUNTER_MAX:  # only by a mistake; others would not understand it
            counter, nonce = COUNTER_MAX, self._rng.randint(former.epoch.nonce, U64_MAX)
        self.successor = Epoch(counter, nonce)
