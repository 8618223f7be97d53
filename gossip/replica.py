"""One node's copy of the shared state, and the whole protocol: sans I/O.

Inputs are method calls, each with the time; outputs are what they return. The replica never sleeps, sends or reads a
clock, and given the same inputs and the same `random.Random` it returns the same outputs. `gossip.node` drives it with
sockets, `gossip.simulation` with a simulated network.

It is put together from parts: who speaks and what is said of members (`gossip.encounter`), the failure detector
(`gossip.detector`), the content and what is passed on (`gossip.content`, `gossip.dissemination`), and the repair by
comparison (`gossip.exchange`). Here is what connects them: what becomes of each message, and when what is done.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from gossip.comparison import StateHash
from gossip.content import Content
from gossip.detector import Detector
from gossip.encounter import Encounters
from gossip.exchange import Exchange
from gossip.listening import Listening
from gossip.lookup import Lookup
from gossip.membership import Claim, Member, Membership, Status
from gossip.messages import (
    Ack,
    Buckets,
    Busy,
    Compare,
    Deltas,
    Heads,
    Heartbeat,
    Join,
    Members,
    More,
    Nack,
    Part,
    Ping,
    PingRequest,
    Pull,
    Sender,
    Versions,
)
from gossip.or_set import Epoch, ORSet
from gossip.outputs import Conflict, Link, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.state import State

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

    from gossip.config import Config
    from gossip.counters import Counters
    from gossip.messages import Message
    from gossip.outputs import Output

REVISE_S: Final = 0.5
"""How often visibility is judged."""
PAUSE_S: Final = 0.5
"""A tick later than this means that this process slept, and that the others' silence is not theirs."""
TAUGHT_S: Final = 10.0
"""What a newcomer is taught in this time is no news to the others, and it does not pass it on."""


class Replica:
    """The state of one node and its protocol.

    `counter` is the epoch's counter that was stored last, 0 when there is none. Keys that are added before `start`
    make the epoch's base: when a node restarts with the content it had, the others need not be sent it again.
    """

    def __init__(
        self,
        config: Config,
        *,
        counter: int,
        rng: random.Random,
        counters: Counters,
        group_of: Callable[[bytes], bytes | None] = lambda _key: None,
    ) -> None:
        self.config = config
        self.counters = counters
        self._rng = rng
        epoch = Epoch(counter + 1, rng.getrandbits(64))
        self.membership = Membership(config, epoch)
        self.set = ORSet(config.name, epoch, group_of)
        self.lookup = Lookup(self.membership, self.set)
        self._hash = StateHash(self.membership, self.set)
        state = State(config, self.membership, self.set, self.lookup, self._hash, counters, rng)
        self._content = Content(state)
        self.behind = self._content.gaps.behind
        self._detector = Detector(config, self.membership, rng)
        self._exchange = Exchange(state, self._detector)
        self._encounters = Encounters(state, self._content, self._detector, self._exchange)
        self._outputs: list[Output] = []
        self._running, self._sequence = False, 0
        self._listening = Listening(self.membership)
        self._taught_until = self._flush_at = self._heartbeat_at = self._revise_at = 0.0

    # Inputs.

    def prepare(self) -> Iterator[None]:
        """Put the keys in order, which takes time if they are many, in steps of about 1 ms. None may be added or
        removed between them."""
        return self.set.begin(self.me.epoch)

    def start(self, now: float) -> list[Output]:
        """Begin, after what `prepare` left to do. Nothing was sent before."""
        for _ in self.prepare():
            pass
        self._running = True
        self._taught_until = now + TAUGHT_S
        self._flush_at = now
        self._encounters.start(now)
        self._revise_at = now + REVISE_S
        self._exchange.sync_at = now + self._rng.uniform(0, self.config.sync_s)
        self._detector.start(now)
        self._renew(now)
        return self._take(now)

    def add(self, key: bytes, now: float) -> list[Output]:
        """Add an element of this node's own; nothing happens when it is there. Too much is refused and counted."""
        before = self.set.at(self.me.name)
        if self.set.add(key):
            self._changed(before)
        elif not self.set.holds(key):
            self.counters.refused_keys += 1
        return self._take(now)

    def remove(self, key: bytes, now: float) -> list[Output]:
        """Remove an element of this node's own; nothing happens when it is not there."""
        before = self.set.at(self.me.name)
        if self.set.remove(key):
            self._changed(before)
        return self._take(now)

    def join(self) -> tuple[Sender, Join | Compare]:
        """The message to send to a seed, whose name is not known yet."""
        if self.membership.live():
            return self.sender(), Compare(self.me, self._hash.fingerprint())
        return self.sender(), Join(self.me)

    def leave(self, now: float) -> list[Output]:
        """Say farewell, unless this node has stopped already. The replica does nothing after this."""
        if not self._running:
            return []
        while self._content.dissemination.pending:
            self._flush(now)
        self.membership.me = replace(self.me, status=Status.LEFT)
        self._hash.touch(self.me.name)
        # Twice, since nobody will repair its loss.
        for _ in range(2):
            self._publish(Members((Claim(self.me),)))
        self._running = False
        return self._take(now)

    def disconnected(self, name: str, now: float) -> list[Output]:
        """The connection over which a member's publications came is broken."""
        self.membership.disconnected(name, now)
        self._detector.suspect(name, now)
        return self._take(now)

    def connected(self, name: str, now: float) -> list[Output]:
        """This node listens to a member from now on, and asks it for what it missed before."""
        if name in self.membership.linked and self._running:
            self.membership.connected(name, now)
            self._exchange.compare_with(name, now)
        return self._take(now)

    def receive(self, sender: Sender, message: Message, now: float) -> list[Output]:
        """A message came."""
        if not self._running:
            return []
        if self._encounters.estranged(now):
            self._advance(now)  # it slept; what it knew goes before it meets anybody, who will speak again
            if self.membership.others:
                return self._take(now)
        if sender.name == self.me.name:
            self._reply(self._encounters.meet_namesake(sender, message, now))
        elif self._encounters.meet(sender, message, now):
            self._handle(sender, message, now)
        return self._take(now)

    def tick(self, now: float) -> list[Output]:
        """Do what is due. To be called at `deadline`, or earlier or later."""
        if self._running:
            self._advance(now)
        return self._take(now)

    # What is known.

    @property
    def me(self) -> Member:
        """This node's record."""
        return self.membership.me

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        busy = not self.set.swept or self._content.rebasing or self._listening.busy
        return 0.0 if busy and self._running else self._due()

    def check(self) -> None:
        """Assert the invariants; linear in the size of the state."""
        self.membership.check()
        self.set.check()
        self.lookup.check()
        self._hash.check()
        self._exchange.check()
        assert self.set.at(self.me.name)[0] == self.me.epoch
        known = self.membership.others.keys()
        assert self.set.cells.keys() - known == {self.me.name}, "a set is held only of a member"
        for name, other in self.membership.others.items():
            assert self.set.at(name)[0] <= other.member.epoch, "no set is of an epoch that is not on record"
        self._content.gaps.check(known)

    # This node's own set, and its epochs.

    def _renew(self, now: float) -> None:
        """Speak in the epoch that stands in this node's record."""
        self._outputs.append(SaveEpoch(self.me.epoch.counter))
        self.set.renew(self.me.epoch)
        self._hash.touch(self.me.name)
        self._content.dissemination.forget(self.me.name)
        self._beat(now)

    def _changed(self, before: tuple[Epoch, int]) -> None:
        """This node's own set changed."""
        self._hash.touch(self.me.name)
        if self._running:
            self._content.dissemination.change(self.me.name, before)

    # What becomes of a message.

    def _handle(self, sender: Sender, message: Message, now: float) -> None:  # noqa: C901, PLR0912 - a table
        match message:
            case Heartbeat(_, head):
                self._content.consider(head, sender.name, now)
            case Members(claims):
                taught = not sender.sequence and now < self._taught_until
                for claim in claims:
                    self._encounters.learn(claim, now, source=sender.name, taught=taught)
            case Heads(heads):
                for head in heads:
                    self._content.consider(head, sender.name, now)
            case Deltas(deltas):
                for delta in deltas:
                    self._content.apply(delta, sender.name, now)
            case Join(member):
                self._reply([self._encounters.welcome(member)])
            case Ping(_, number):
                self._reply([Ack(self.me, number)])
            case PingRequest():
                self._detector.asked(message, now)
            case Ack(member):
                self._encounters.learn(Claim(member), now)
                self._detector.acknowledged(message)
                self._encounters.hear(member.name, now)
            case Nack(number):
                self._detector.refused(number)
            case Compare(_, fingerprint):
                self._reply(self._exchange.compared(sender.name, fingerprint, now))
            case Buckets(hashes):
                self.counters.syncs += 1
                self._reply(self._exchange.answered(sender.name, hashes, now))
            case Busy():
                self._exchange.refused(sender.name)
            case Versions():
                self._reply(self._exchange.asked(sender.name, message, now))
            case Pull(have):
                self._reply(self._exchange.pulled(sender.name, have, now))
            case Part():
                self._take_part(sender.name, message, now)
            case More():
                self._reply(self._exchange.more(sender.name, now))

    def _take_part(self, source: str, part: Part, now: float) -> None:
        taken = self._exchange.part(source, part, now)
        if taken is None:
            self.counters.dropped["part"] += 1
            return
        taught = now < self._taught_until
        for claim in part.claims:
            self._encounters.learn(claim, now, source=source, taught=taught)
        for delta in part.deltas:
            self._content.apply(delta, source, now, taught=taught)
        cells, answer = taken
        for owner, cell in cells:
            self._content.install(owner, cell, source, now, taught=taught)
        self._reply(answer)

    # What time brings.

    def _advance(self, now: float) -> None:
        pause_s = now - self._due()
        if pause_s > PAUSE_S:
            self.membership.excuse(pause_s, now)
            self._detector.excuse(pause_s)
        if now >= self._heartbeat_at:
            self._beat(now)
        if now >= self._revise_at:
            self._revise(now)
        self._outputs.extend(self._listening.tick(now))
        self._encounters.tick(now)
        self._detector.tick(now)
        self._exchange.tick(now)
        self._pull(now)
        self.set.sweep()

    def _due(self) -> float:
        if not self._running:
            return inf
        return min(
            self._heartbeat_at,
            self._revise_at,
            self._listening.due_at,
            self._exchange.sync_at,
            self._encounters.deadline,
            self._detector.deadline,
            self._content.gaps.deadline,
            self._flush_at if self._content.dissemination.pending else inf,
        )

    def _revise(self, now: float) -> None:
        self._revise_at = now
        if self.membership.revise(now):
            return  # very many are to be judged, and then forgotten: some in each tick
        unlinked, more = self._encounters.forget(now)
        self._revise_at = now if more else now + REVISE_S
        self._outputs.extend(map(Unlink, unlinked))
        self._outputs.extend(Link(member) for member in self.membership.relink(now))

    def _pull(self, now: float) -> None:
        for source, have in self._content.gaps.due(self.set, self.membership.others, now).items():
            self.counters.pulls += 1
            self._send(self.membership.others[source].member, Pull(tuple(have)))

    # Sending.

    def _flush(self, now: float) -> None:
        for message in self._content.dissemination.take():
            self._publish(message)
        self._flush_at = now + self._content.dissemination.pause_s(self.config.coalesce_s)

    def _beat(self, now: float) -> None:
        self._heartbeat_at = now + self.config.heartbeat_s
        self._publish(Heartbeat(self.me, self.set.head()))

    def _send(self, to: Member, message: Message) -> None:
        self._outputs.append(Send(self.sender(), to, message))

    def _reply(self, messages: Iterable[Message]) -> None:
        self._outputs.extend(Reply(self.sender(), message) for message in messages)

    def _publish(self, message: Message) -> None:
        self._sequence += 1
        sender = Sender(self.me.name, self.me.epoch, self._sequence, self._listening.protocol)
        self._outputs.append(Publish(sender, message))

    def sender(self) -> Sender:
        """Who speaks, in a message to one."""
        return Sender(self.me.name, self.me.epoch, 0, self._listening.protocol)

    def _take(self, now: float) -> list[Output]:
        """All that is to be done now, whichever part wants it."""
        if self._running:
            self._settle(now)
        outputs, self._outputs = self._outputs, []
        return outputs

    def _settle(self, now: float) -> None:
        """Act on what the parts found out, and collect what they want sent."""
        claims, self._detector.claims = self._detector.claims, []
        for claim in claims:
            self.counters.suspicions += claim.member.status is Status.SUSPECT
            self._encounters.learn(claim, now, witnessed=True)
        if (epoch := self._encounters.successor) is not None:
            self._encounters.successor = None
            self.membership.me = replace(self.me, epoch=epoch, refutation=0)
            self._renew(now)
        if (rival := self._encounters.rival) is not None:
            self._running = False
            self._outputs.append(Conflict(rival))
            return
        self._outputs.extend(self._listening.settle(now))
        self._content.work(now)
        for name in self.membership.changed:
            self.lookup.outdated(name)
        self.membership.changed.clear()
        if now >= self._flush_at and self._content.dissemination.pending:
            self._flush(now)
        moved, self._encounters.moved = self._encounters.moved, []
        self._outputs.extend(map(Link, moved))
        for part in (self._encounters, self._detector, self._exchange):
            sends, part.sends = part.sends, []
            for to, message in sends:
                self._send(to, message)
