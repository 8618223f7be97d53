"""One node's copy of the shared state, and the whole protocol: sans I/O.

Inputs are method calls, each with the time; outputs are what they return. The replica never sleeps, sends or reads a
clock, and given the same inputs and the same `random.Random` it returns the same outputs. `gossip.node` drives it with
sockets, `gossip.simulation` with a simulated network.

How a change travels: the owner publishes it at once, or within `coalesce_s` of its last publication. Whoever misses
one sees a gap at the next, or at the next heartbeat, and pulls from the one who told. What nobody told is found by
comparing the whole state with one random member every `sync_s`.

Invariants: see `Replica.check`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gossip.codec import content_bytes
from gossip.membership import REFUTATION_MAX, Member, Membership, Sighting, Status, Visibility
from gossip.messages import (
    DELTAS_PER_MESSAGE_MAX,
    FINGERPRINT_BYTES,
    SIGHTINGS_PER_MESSAGE_MAX,
    VERSIONS_PER_MESSAGE_MAX,
    Compare,
    Deltas,
    Heartbeat,
    Join,
    Members,
    Pull,
    Sender,
    Version,
    Versions,
)
from gossip.or_set import Epoch, ORSet, Outcome, Snapshot
from gossip.outputs import Link, Publish, Reply, SaveEpoch, Send, Unlink

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gossip.config import Config
    from gossip.counters import Counters
    from gossip.messages import Message
    from gossip.or_set import Delta, Head
    from gossip.outputs import Output

PUBLISHED_BYTES_MAX: Final = 64 * 1024
"""A larger change is only announced, and everybody pulls it at a moment of its own."""
CHUNK_BYTES: Final = 256 * 1024
"""An answer of many deltas goes in messages of about this size; one delta is never divided."""

GAPS_PER_OWNER_MAX: Final = 4
GAP_BYTES_MAX: Final = 1024 * 1024
"""Deltas kept until what comes before them arrives; what is more is dropped and pulled."""

PULL_DELAY_S: Final = 0.02
"""How long a missing delta may still arrive by itself. As much again is added at random."""
PULL_RETRY_S: Final = 1.0
PULLS_MAX: Final = 3
"""Pulls for one gap; then the comparison with a random member has to find it."""

REVISE_S: Final = 0.5
"""How often silence is judged."""
PAUSE_S: Final = 1.0
"""A tick later than this means that this process slept, and that the others' silence is not theirs."""
RELINK_S: Final = 10.0
RELINK_S_MAX: Final = 60.0
"""A silent member's connection is opened anew after as long as it has been silent, within these bounds."""
CORRECTION_S: Final = 1.0
"""A member is told at most once in this time that a higher record of it exists."""
RENEWAL_S: Final = 1.0
"""An epoch lasts at least this long, so that two nodes of one name do not chase each other."""


@dataclass(slots=True)
class _Want:
    """An owner's version that exists but is not here: whom to ask for it, and when."""

    epoch: Epoch
    version: int
    source: str
    due: float
    pulls: int = 0


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
        me = Member(
            name=config.name,
            epoch=epoch,
            address=config.advertise_address,
            publish_port=config.publish_port,
            router_port=config.router_port,
            zone=config.zone,
            attributes=dict(config.attributes),
        )
        self.membership = Membership(
            me, last_s=config.silent_last_s, hidden_s=config.silent_hidden_s, forget_s=config.forget_s
        )
        self.set = ORSet(config.name, epoch, group_of)
        self._outputs: list[Output] = []
        self._started = False
        self._sequence = 0
        self._published = 0
        self._wants: dict[str, _Want] = {}
        self._gaps: dict[str, list[Delta]] = {}
        self._corrections: dict[str, float] = {}
        self._renewed_at = float("-inf")
        self._sync_with: str | None = None
        self._flush_at = self._heartbeat_at = self._sync_at = self._revise_at = 0.0
        self._ranking: tuple[list[Member | None], list[Member | None]] | None = None

    # Inputs.

    def start(self, now: float) -> list[Output]:
        """Begin. Nothing was sent before."""
        self._started = True
        self._outputs.append(SaveEpoch(self.me.epoch.counter))
        self.set.renew(self.me.epoch)
        self._published = self.set.at(self.me.name)[1]
        self._revise_at = now + REVISE_S
        self._sync_at = now + self._rng.uniform(0, self.config.sync_s)
        self._flush_at = now
        self._beat(now)
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
            self._ranking = None

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
        times = [self._heartbeat_at, self._revise_at, self._sync_at]
        if self._published != self.set.at(self.me.name)[1]:
            times.append(self._flush_at)
        times.extend(want.due for want in self._wants.values())
        return min(times)

    def holders(self, key: bytes) -> list[Member]:
        """The visible members that hold a key, those ranked last at the end; without this node."""
        normal, last = self._ranking or self._rank()
        slots = self.set.index.slots(key)
        holders = [member for slot in slots if (member := normal[slot]) is not None]
        holders.extend(member for slot in slots if (member := last[slot]) is not None)
        return holders

    def members(self) -> list[Member]:
        """The visible others, those ranked last at the end, each part by name."""
        visible = [o for o in self.membership.others.values() if o.visibility is not Visibility.HIDDEN]
        return [o.member for o in sorted(visible, key=lambda o: (o.visibility, o.member.name))]

    def check(self) -> None:
        """Assert the invariants; linear in the size of the state."""
        self.membership.check()
        self.set.check()
        assert self.set.at(self.me.name)[0] == self.me.epoch
        known = self.membership.others.keys()
        assert self.set.cells.keys() - known == {self.me.name}, "a set is held only of a member"
        for name, other in self.membership.others.items():
            assert self.set.at(name)[0] <= other.member.epoch, "no set is of an epoch that is not on record"
        assert self._wants.keys() <= known
        assert self._gaps.keys() <= known
        assert all(len(gaps) <= GAPS_PER_OWNER_MAX for gaps in self._gaps.values())

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
            if isinstance(message, Heartbeat | Join | Compare):
                self._correct(message.member, other.member, now)
            self.counters.dropped["stale_epoch"] += 1
            return False
        if other.member.epoch == sender.epoch:
            if self.membership.hear(sender.name, now):
                self._ranking = None
            if sender.sequence:
                if other.sequence and sender.sequence > other.sequence + 1:
                    self.counters.gaps += 1
                    self._sync_soon(sender.name, now)
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
        self._ranking = None
        if member.status is Status.LEFT:
            self._outputs.append(Unlink(member.name))
        elif before is None or before.epoch != member.epoch or _endpoint(before) != _endpoint(member):
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
            self.set.renew(epoch)
            self._published = self.set.at(self.me.name)[1]
            self._outputs.append(SaveEpoch(epoch.counter))
            self._beat(now)

    def _correct(self, speaker: Member, held: Member, now: float) -> None:
        if now >= self._corrections.get(speaker.name, float("-inf")) + CORRECTION_S:
            self._corrections[speaker.name] = now
            self._outputs.append(Send(self._sender(), speaker, Members((Sighting(held, 0.0),))))

    def _revise(self, now: float) -> None:
        self._revise_at = now + REVISE_S
        if self.membership.revise(now):
            self._ranking = None
        for name in self.membership.expired(now):
            self._forget(name)
        for other in self.membership.others.values():
            silence_s = now - other.heard_at
            patience_s = min(max(silence_s, RELINK_S), RELINK_S_MAX)
            if silence_s > RELINK_S and now - other.linked_at >= patience_s and other.member.status < Status.LEFT:
                other.linked_at = now
                self._outputs.append(Link(other.member))

    def _forget(self, name: str) -> None:
        self.membership.forget(name)
        self.set.forget(name)
        for state in (self._wants, self._gaps, self._corrections):
            state.pop(name, None)
        self._ranking = None
        self._outputs.append(Unlink(name))

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
                self._reply_members(now)
            case Pull(have):
                self._reply_deltas(have)
            case Compare(_, fingerprint):
                if fingerprint != self._fingerprint(now):
                    self._reply_members(now)
                    self._reply_versions(now)
            case Versions(versions):
                self.counters.syncs += 1
                self._reconcile(versions)

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
            self._ranking = None
        if head.version == 0:
            self._apply(Snapshot(owner, head.epoch, 0, ()), owner, now)
        elif (head.epoch, head.version) > self.set.at(owner):
            self._want(owner, head.epoch, head.version, owner, now)

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
            self._ranking = None
        outcome = self.set.apply(delta)
        if outcome is Outcome.APPLIED:
            waiting = self._gaps.pop(owner, [])
            for later in sorted(waiting, key=lambda gap: gap.version):
                self._apply(later, source, now)
        elif outcome is Outcome.GAP:
            self.counters.gaps += 1
            self._buffer(delta)
            self._want(owner, delta.epoch, delta.version, source, now)
        elif outcome is Outcome.CORRUPT:
            self._repair(owner, delta.epoch, delta.version, source, now)

    def _repair(self, owner: str, epoch: Epoch, version: int, source: str, now: float) -> None:
        """What is held contradicts the owner: drop it, and pull it whole."""
        self.counters.audit_mismatches += 1
        self.set.forget(owner)
        self._gaps.pop(owner, None)
        self._ranking = None
        self._want(owner, epoch, version, source, now)

    def _buffer(self, delta: Delta) -> None:
        waiting = self._gaps.setdefault(delta.owner, [])
        size = sum(content_bytes(gap) for gaps in self._gaps.values() for gap in gaps)
        if len(waiting) < GAPS_PER_OWNER_MAX and size + content_bytes(delta) <= GAP_BYTES_MAX:
            waiting.append(delta)

    def _want(self, owner: str, epoch: Epoch, version: int, source: str, now: float) -> None:
        want = self._wants.get(owner)
        if want is None:
            due = now + PULL_DELAY_S * self._rng.uniform(1, 2)
            self._wants[owner] = _Want(epoch, version, source, due)
        elif (epoch, version) > (want.epoch, want.version):
            want.epoch, want.version = epoch, version

    def _pull(self, now: float) -> None:
        """Ask for what is missing, and give up what came or was asked for too often."""
        asked: dict[str, list[Version]] = {}
        for owner, want in list(self._wants.items()):
            if want.due > now:
                continue
            epoch, version = self.set.at(owner)
            if (epoch, version) >= (want.epoch, want.version) or want.pulls == PULLS_MAX:
                del self._wants[owner]
                continue
            source = want.source if want.pulls == 0 and want.source in self.membership.others else owner
            want.pulls += 1
            want.due = now + PULL_RETRY_S
            self.counters.pulls += 1
            asked.setdefault(source, []).append(Version(owner, epoch, version))
        for source, have in asked.items():
            to = self.membership.others[source].member
            self._outputs.append(Send(self._sender(), to, Pull(tuple(have))))

    def _sync(self, now: float) -> None:
        """Compare the whole state with one member."""
        self._sync_at = now + self.config.sync_s * self._rng.uniform(0.8, 1.2)
        visible = [member.name for member in self.members()]
        name, self._sync_with = self._sync_with, None
        if name not in visible:
            if not visible:
                return
            name = self._rng.choice(visible)
        to = self.membership.others[name].member
        self._outputs.append(Send(self._sender(), to, Compare(self.me, self._fingerprint(now))))

    def _sync_soon(self, name: str, now: float) -> None:
        self._sync_with = name
        self._sync_at = min(self._sync_at, now + PULL_DELAY_S * self._rng.uniform(1, 2))

    def _reconcile(self, versions: tuple[Version, ...]) -> None:
        """Pull where the other is ahead, and push where it is behind."""
        behind: list[Version] = []
        ahead: list[Version] = []
        for theirs in versions:
            other = self.membership.others.get(theirs.owner)
            if theirs.owner != self.me.name and (other is None or theirs.epoch > other.member.epoch):
                continue
            epoch, version = self.set.at(theirs.owner)
            if (theirs.epoch, theirs.version) < (epoch, version):
                ahead.append(theirs)
            elif (theirs.epoch, theirs.version) > (epoch, version) and theirs.owner != self.me.name:
                behind.append(Version(theirs.owner, epoch, version))
        if behind:
            self.counters.pulls += 1
            self._reply(Pull(tuple(behind)))
        self._reply_deltas(tuple(ahead))

    def _fingerprint(self, now: float) -> bytes:
        """A hash of everything that this replica tells others."""
        hasher = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
        for sighting in sorted(self.membership.told(now), key=lambda s: s.member.name):
            member, (epoch, version) = sighting.member, self.set.at(sighting.member.name)
            numbers = (member.epoch.counter, member.epoch.nonce, member.refutation, int(member.status))
            hasher.update(f"{member.name}{numbers}{epoch.counter},{epoch.nonce},{version};".encode())
        return hasher.digest()

    # Ranks by slot, for lookups that take microseconds.

    def _rank(self) -> tuple[list[Member | None], list[Member | None]]:
        slots = self.set.index.slots_claimed
        normal: list[Member | None] = [None] * slots
        last: list[Member | None] = [None] * slots
        for name, other in self.membership.others.items():
            cell = self.set.cells.get(name)
            if cell is not None and other.visibility is not Visibility.HIDDEN:
                (normal if other.visibility is Visibility.NORMAL else last)[cell.slot] = other.member
        self._ranking = (normal, last)
        return self._ranking

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

    def _reply_members(self, now: float) -> None:
        told = self.membership.told(now)
        for start in range(0, len(told), SIGHTINGS_PER_MESSAGE_MAX):
            self._reply(Members(tuple(told[start : start + SIGHTINGS_PER_MESSAGE_MAX])))

    def _reply_versions(self, now: float) -> None:
        names = [sighting.member.name for sighting in self.membership.told(now)]
        versions = [Version(name, *self.set.at(name)) for name in names]
        for start in range(0, len(versions), VERSIONS_PER_MESSAGE_MAX):
            self._reply(Versions(tuple(versions[start : start + VERSIONS_PER_MESSAGE_MAX])))

    def _reply_deltas(self, have: tuple[Version, ...]) -> None:
        """What the other misses of these owners, in messages of bounded size."""
        chunk: list[Delta] = []
        size = 0
        for owner, theirs in {version.owner: version for version in have}.items():
            delta = self.set.diff(owner, theirs.epoch, theirs.version)
            if delta is None:
                continue
            if chunk and (size > CHUNK_BYTES or len(chunk) == DELTAS_PER_MESSAGE_MAX):
                self._reply(Deltas(tuple(chunk)))
                chunk, size = [], 0
            chunk.append(delta)
            size += content_bytes(delta)
        if chunk:
            self._reply(Deltas(tuple(chunk)))

    def _reply(self, message: Message) -> None:
        self._outputs.append(Reply(self._sender(), message))

    def _publish(self, message: Message) -> None:
        self._sequence += 1
        self._outputs.append(Publish(Sender(self.me.name, self.me.epoch, self._sequence), message))

    def _sender(self) -> Sender:
        return Sender(self.me.name, self.me.epoch)

    def _take(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs


def _endpoint(member: Member) -> tuple[str, int, int]:
    return (member.address, member.publish_port, member.router_port)
