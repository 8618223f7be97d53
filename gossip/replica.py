"""One node's copy of the shared state, and the whole protocol: sans I/O.

Inputs are method calls, each with the time; outputs are what they return. The replica never sleeps, sends or reads a
clock, and given the same inputs and the same `random.Random` it returns the same outputs. `gossip.node` drives it with
sockets, `gossip.simulation` with a simulated network.

How a change travels: the owner publishes it at once, or within `coalesce_s` of its last publication. Whoever misses
one sees a gap at the next, or at the next heartbeat, and pulls from the one who told. What nobody told is found by
comparing the whole state with one random member every `sync_s`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gossip import comparison
from gossip.gaps import Gaps
from gossip.lookup import Lookup
from gossip.membership import REFUTATION_MAX, Member, Membership, Sighting, Status
from gossip.messages import Compare, Deltas, Heartbeat, Join, Members, Pull, Sender, Version, Versions
from gossip.or_set import Epoch, ORSet, Outcome, Snapshot
from gossip.outputs import Link, Publish, Reply, SaveEpoch, Send, Unlink
from gossip.payload import content_bytes

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from gossip.config import Config
    from gossip.counters import Counters
    from gossip.messages import Message
    from gossip.or_set import Delta, Head
    from gossip.outputs import Output

PUBLISHED_BYTES_MAX: Final = 64 * 1024
"""A larger change is only announced, and everybody pulls it at a moment of its own."""
REVISE_S: Final = 0.5
"""How often silence is judged."""
PAUSE_S: Final = 1.0
"""A tick later than this means that this process slept, and that the others' silence is not theirs."""
CORRECTION_S: Final = 1.0
"""A member is told at most once in this time that a higher record of it exists."""
RENEWAL_S: Final = 1.0
"""An epoch lasts at least this long, so that two nodes of one name do not chase each other."""


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
        self._outputs: list[Output] = []
        self._started = False
        self._sequence = 0
        self._published = 0
        self._gaps = Gaps(rng)
        self._renewed_at = float("-inf")
        self._sync_with: str | None = None
        self._flush_at = self._heartbeat_at = self._sync_at = self._revise_at = 0.0

    # Inputs.

    def start(self, now: float) -> list[Output]:
        """Begin. Nothing was sent before."""
        self._started = True
        self._revise_at = now + REVISE_S
        self._sync_at = now + self._rng.uniform(0, self.config.sync_s)
        self._flush_at = now
        self._renew(now)
        return self._take()

    def add(self, key: bytes, now: float) -> list[Output]:
        """Add an element of this node's own; nothing happens when it is there. Too much is refused and counted."""
        if not self.set.holds(key):
            if self.set.add(key):
                self._changed(now)
            else:
                self.counters.refused_keys += 1
        return self._take()

    def remove(self, key: bytes, now: float) -> list[Output]:
        """Remove an element of this node's own; nothing happens when it is not there."""
        if self.set.remove(key):
            self._changed(now)
        return self._take()

    def join(self) -> tuple[Sender, Join]:
        """The message to send to a seed, whose name is not known yet."""
        return self._sender(), Join(self.me)

    def leave(self, now: float) -> list[Output]:
        """Say farewell. The replica does nothing after this."""
        if self._published != self.set.at(self.me.name)[1]:
            self._flush(now)
        self.membership.me = replace(self.me, status=Status.LEFT)
        # Twice, since nobody will repair its loss.
        for _ in range(2):
            self._publish(Members((Sighting(self.me, 0.0),)))
        return self._take()

    def disconnected(self, name: str, now: float) -> None:
        """The connection over which a member's publications came is broken."""
        if self.membership.disconnected(name, now):
            self.lookup.outdated()

    def connected(self, name: str) -> list[Output]:
        """This node listens to a member from now on, and asks it for what it missed before."""
        other = self.membership.others.get(name)
        if other is not None and not self.left:
            self._outputs.append(Send(self._sender(), other.member, Versions((Version(name, *self.set.at(name)),))))
        return self._take()

    def receive(self, sender: Sender, message: Message, now: float) -> list[Output]:
        """A message came."""
        if self.left:
            return []
        if sender.name == self.me.name:
            # Its own words, from a seed that is itself; or another node of this name, which the others' records tell.
            if sender.epoch != self.me.epoch:
                self.counters.dropped["own_name"] += 1
            return []
        if self._meet(sender, message, now):
            self._handle(sender, message, now)
        return self._take()

    def tick(self, now: float) -> list[Output]:
        """Do what is due. To be called at `deadline`, or earlier or later."""
        if self.left or not self._started:
            return []
        pause_s = now - self.deadline
        if pause_s > PAUSE_S:
            self.membership.excuse(pause_s)
        if self._published != self.set.at(self.me.name)[1] and now >= self._flush_at:
            self._flush(now)
        if now >= self._heartbeat_at:
            self._beat(now)
        if now >= self._revise_at:
            self._revise(now)
        self._pull(now)
        if now >= self._sync_at:
            self._sync(now)
        return self._take()

    # What is known.

    @property
    def me(self) -> Member:
        """This node's record."""
        return self.membership.me

    @property
    def left(self) -> bool:
        """Whether this node has said farewell."""
        return self.me.status is Status.LEFT

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        times = [self._heartbeat_at, self._revise_at, self._sync_at, self._gaps.deadline]
        if self._published != self.set.at(self.me.name)[1]:
            times.append(self._flush_at)
        return min(times)

    def check(self) -> None:
        """Assert the invariants; linear in the size of the state."""
        self.membership.check()
        self.set.check()
        self.lookup.check()
        assert self.set.at(self.me.name)[0] == self.me.epoch
        known = self.membership.others.keys()
        assert self.set.cells.keys() - known == {self.me.name}, "a set is held only of a member"
        for name, other in self.membership.others.items():
            assert self.set.at(name)[0] <= other.member.epoch, "no set is of an epoch that is not on record"
        self._gaps.check(known)

    # Members.

    def _meet(self, sender: Sender, message: Message, now: float) -> bool:
        """Note who speaks; whether the message is to be handled."""
        if isinstance(message, Heartbeat | Join | Compare):
            news = self._learn(Sighting(message.member, 0.0), now)
            if news and not isinstance(message, Heartbeat):
                # It came to this node alone: introduce the newcomer.
                self._publish(Members((Sighting(message.member, 0.0),)))
        other = self.membership.others.get(sender.name)
        if other is None:
            return True
        if other.member.epoch > sender.epoch or other.member.status >= Status.DOWN:
            if isinstance(message, Heartbeat | Join | Compare) and now >= other.corrected_at + CORRECTION_S:
                other.corrected_at = now
                correction = Members((Sighting(other.member, 0.0),))
                self._outputs.append(Send(self._sender(), message.member, correction))
            self.counters.dropped["stale_epoch"] += 1
            return False
        if other.member.epoch == sender.epoch:
            if self.membership.hear(sender.name, now):
                self.lookup.outdated()
            if sender.sequence:
                if other.sequence and sender.sequence > other.sequence + 1:
                    self.counters.gaps += 1
                    self._sync_with = sender.name
                    self._sync_at = min(self._sync_at, now + self._gaps.delay_s())
                other.sequence = max(other.sequence, sender.sequence)
        return True

    def _learn(self, sighting: Sighting, now: float) -> bool:
        member = sighting.member
        if member.name == self.me.name:
            self._defend(member, now)
            return False
        known = self.membership.others.get(member.name)
        before = None if known is None else known.member
        if not self.membership.learn(sighting, now):
            return False
        self.lookup.outdated()
        if member.status is Status.LEFT:
            self._outputs.append(Unlink(member.name))
        elif before is None or before.epoch != member.epoch or before.endpoints != member.endpoints:
            self.membership.others[member.name].linked_at = now
            self._outputs.append(Link(member))
        return True

    def _defend(self, accusation: Member, now: float) -> None:
        """Somebody has a higher record of this node than its own."""
        if accusation.rank <= self.me.rank:
            return
        if accusation.epoch == self.me.epoch and accusation.refutation < REFUTATION_MAX:
            self.membership.refute(accusation)
            self._publish(Members((Sighting(self.me, 0.0),)))
        elif now < self._renewed_at + RENEWAL_S:
            self.counters.conflicts += 1
        else:
            self._renewed_at = now
            epoch = Epoch(accusation.epoch.counter + 1, self._rng.getrandbits(64))
            self.membership.me = replace(self.me, epoch=epoch, refutation=0)
            self._renew(now)

    def _renew(self, now: float) -> None:
        """Begin the epoch that stands in this node's record."""
        self._outputs.append(SaveEpoch(self.me.epoch.counter))
        self.set.renew(self.me.epoch)
        self._published = self.set.at(self.me.name)[1]
        self._beat(now)

    def _revise(self, now: float) -> None:
        self._revise_at = now + REVISE_S
        if self.membership.revise(now):
            self.lookup.outdated()
        for name in self.membership.expired(now):
            self.membership.forget(name)
            self.set.forget(name)
            self._gaps.forget(name)
            self.lookup.outdated()
            self._outputs.append(Unlink(name))
        self._outputs.extend(Link(member) for member in self.membership.relink(now))

    # Content.

    def _handle(self, sender: Sender, message: Message, now: float) -> None:
        match message:
            case Heartbeat(_, head):
                self._consider(head, now)
            case Deltas(deltas):
                for delta in deltas:
                    self._apply(delta, sender.name, now)
            case Members(sightings):
                for sighting in sightings:
                    self._learn(sighting, now)
            case Join(_):
                self._reply(comparison.records(self.membership, now))
            case Pull(have):
                self._reply(comparison.missing(self.set, have))
            case Compare(_, fingerprint):
                if fingerprint != comparison.fingerprint(self.membership, self.set, now):
                    self._reply(comparison.records(self.membership, now))
                    self._reply(comparison.outline(self.membership, self.set, now))
            case Versions(versions):
                self.counters.syncs += 1
                behind, ahead = comparison.difference(self.membership, self.set, versions)
                self._reply([Versions(tuple(behind))] if behind else [])
                self._reply(comparison.push(self.membership, self.set, ahead))

    def _consider(self, head: Head, now: float) -> None:
        """Catch up with the head of a member's set."""
        owner = head.owner
        if owner not in self.membership.others:
            return
        if (head.epoch, head.version) == self.set.at(owner):
            if head.audit != self.set.audit(owner):
                self._repair(owner, head.epoch, head.version, owner, now)
            return
        if self.set.rebase(head):
            self.counters.rebases += 1
            self.lookup.outdated()
        if head.version == 0:
            self._apply(Snapshot(owner, head.epoch, 0, ()), owner, now)
        elif (head.epoch, head.version) > self.set.at(owner):
            self._gaps.want(owner, head.epoch, head.version, owner, now)

    def _apply(self, delta: Delta, source: str, now: float) -> None:
        owner = delta.owner
        if owner == self.me.name:
            return
        other = self.membership.others.get(owner)
        # A cell never runs ahead of its owner's record: an owner that lost its disk learns from the records which
        # epochs there were, and would else choose one below that of a cell.
        if other is None or delta.epoch > other.member.epoch:
            self.counters.dropped["unknown_owner"] += 1
            return
        if owner not in self.set.cells:
            self.lookup.outdated()
        outcome = self.set.apply(delta)
        if outcome is Outcome.APPLIED:
            for early in self._gaps.release(owner):
                self._apply(early, source, now)
        elif outcome is Outcome.GAP:
            self.counters.gaps += 1
            self._gaps.keep(delta)
            self._gaps.want(owner, delta.epoch, delta.version, source, now)
        elif outcome is Outcome.CORRUPT:
            self._repair(owner, delta.epoch, delta.version, source, now)

    def _repair(self, owner: str, epoch: Epoch, version: int, source: str, now: float) -> None:
        """What is held contradicts the owner: drop it, and pull it whole."""
        self.counters.audit_mismatches += 1
        self.set.forget(owner)
        self._gaps.forget(owner)
        self.lookup.outdated()
        self._gaps.want(owner, epoch, version, source, now)

    def _pull(self, now: float) -> None:
        for source, have in self._gaps.due(self.set, self.membership.others, now).items():
            self.counters.pulls += 1
            self._outputs.append(Send(self._sender(), self.membership.others[source].member, Pull(tuple(have))))

    def _sync(self, now: float) -> None:
        """Compare the whole state with one member."""
        self._sync_at = now + self.config.sync_s * self._rng.uniform(0.8, 1.2)
        visible = [member.name for member in self.lookup.members()]
        name, self._sync_with = self._sync_with, None
        if name not in visible:
            if not visible:
                return
            name = self._rng.choice(visible)
        to = self.membership.others[name].member
        fingerprint = comparison.fingerprint(self.membership, self.set, now)
        self._outputs.append(Send(self._sender(), to, Compare(self.me, fingerprint)))

    # Sending.

    def _changed(self, now: float) -> None:
        if self._started and not self.left and now >= self._flush_at:
            self._flush(now)

    def _flush(self, now: float) -> None:
        self._flush_at = now + self.config.coalesce_s
        delta = self.set.diff(self.me.name, self.me.epoch, self._published)
        assert delta is not None
        self._published = delta.version
        if content_bytes(delta) > PUBLISHED_BYTES_MAX:
            self._beat(now)
        else:
            self._publish(Deltas((delta,)))

    def _beat(self, now: float) -> None:
        self._heartbeat_at = now + self.config.heartbeat_s
        self._publish(Heartbeat(self.me, self.set.head()))

    def _reply(self, messages: Iterable[Message]) -> None:
        self._outputs.extend(Reply(self._sender(), message) for message in messages)

    def _publish(self, message: Message) -> None:
        self._sequence += 1
        self._outputs.append(Publish(Sender(self.me.name, self.me.epoch, self._sequence), message))

    def _sender(self) -> Sender:
        return Sender(self.me.name, self.me.epoch)

    def _take(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs
