"""Who is in the cluster, and whose content may be named as a source.

Each member has one *record* (`Member`), and records of one name are totally ordered by (epoch, refutation, status), so
join is the maximum. Only the member itself raises its epoch (a restart) or its refutation (it answers an accusation);
others may raise the status.

*Visibility* is derived, not replicated: each replica judges by what it hears itself. A member that is silent for a
little while is ranked last, for longer it is hidden, and it is visible again as soon as it is heard. Its content stays,
so all of this costs no traffic.

A member that nobody has heard for `forget_s` is forgotten with everything it held. So that replicas do not teach each
other a forgotten member again, a record travels with its *age* (seconds since anybody is known to have heard the
member), and is not told any more when half of `forget_s` has gone by. Ages are differences, so no clocks are compared.

Invariants: this node is never among the others; a record never falls in the order; there are at most `MEMBERS_MAX`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gossip.config import Config
    from gossip.or_set import Epoch

MEMBERS_MAX: Final = 10_000
REFUTATION_MAX: Final = 2**32 - 1
SERVER_KEY_BYTES: Final = 32
"""Of a CURVE public key."""

RELINK_S: Final = 10.0
RELINK_S_MAX: Final = 60.0
"""A silent member's connection is opened anew, each time after twice as long a silence, within these bounds."""


class Status(IntEnum):
    """What a record says of its member; in the order in which one statement overrides another."""

    ALIVE = 0
    SUSPECT = 1
    DOWN = 2
    LEFT = 3


class Visibility(IntEnum):
    """How this replica treats a member's content."""

    NORMAL = 0
    LAST = 1
    HIDDEN = 2


@dataclass(frozen=True, slots=True)
class Member:
    """A member's record: what it says of itself, and what is said of it.

    `address` is where it is reached, an IP address or a host name; `attributes` mean nothing to gossip; `server_key`
    is the public CURVE key with which its sockets listen; empty without a secret.
    """

    name: str
    epoch: Epoch
    address: str
    publish_port: int
    router_port: int
    zone: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    server_key: bytes = b""
    refutation: int = 0
    status: Status = Status.ALIVE

    @property
    def rank(self) -> tuple[Epoch, int, Status]:
        """Its place in the total order of the records of this name."""
        return (self.epoch, self.refutation, self.status)

    @property
    def endpoints(self) -> tuple[str, int, int]:
        """Where it is reached."""
        return (self.address, self.publish_port, self.router_port)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record, and how many seconds ago the member was last heard by anybody."""

    member: Member
    age_s: float


@dataclass(slots=True)
class Other:
    """Another member, as this replica sees it.

    `heard_at` is when this replica heard it, `alive_at` the same including what others told. `sequence` is the last
    number of its published messages, 0 before the first. `linked_at` is when its connection was last opened,
    `corrected_at` when it was last told that a higher record of it exists.
    """

    member: Member
    heard_at: float
    alive_at: float
    visibility: Visibility
    linked_at: float
    disconnected: bool = False
    corrected_at: float = float("-inf")
    sequence: int = 0


class Membership:
    """All records of one replica. Times are monotonic seconds of the local clock."""

    def __init__(self, config: Config, epoch: Epoch) -> None:
        self.me = Member(
            name=config.name,
            epoch=epoch,
            address=config.advertise_address,
            publish_port=config.publish_port,
            router_port=config.router_port,
            zone=config.zone,
            attributes=dict(config.attributes),
            server_key=config.secret.curve_keys()[0].public if config.secret else b"",
        )
        self.others: dict[str, Other] = {}
        self._last_s = config.silent_last_s
        self._hidden_s = config.silent_hidden_s
        self._forget_s = config.forget_s

    def learn(self, sighting: Sighting, now: float) -> bool:
        """Join a record of another member; whether it is news."""
        member = sighting.member
        assert member.name != self.me.name
        alive_at = now - sighting.age_s
        other = self.others.get(member.name)
        if other is None:
            # A stub is never created by hearsay: who is gone and unknown stays unknown.
            if member.status > Status.SUSPECT or len(self.others) + 1 >= MEMBERS_MAX:
                return False
            if sighting.age_s >= self._forget_s / 2:
                return False
            other = Other(member, alive_at, alive_at, Visibility.NORMAL, linked_at=now)
            self.others[member.name] = other
        elif member.rank <= other.member.rank:
            other.alive_at = max(other.alive_at, alive_at)
            return False
        else:
            if member.epoch != other.member.epoch:
                other.sequence = 0
            other.member = member
            # News of a member is as good as a chance to be heard: it may have moved.
            other.heard_at = max(other.heard_at, alive_at)
            other.alive_at = max(other.alive_at, alive_at)
            other.disconnected = False
        other.visibility = self._visibility(other, now)
        return True

    def hear(self, name: str, now: float) -> bool:
        """Note a sign of life of a known member; whether its visibility changed."""
        other = self.others[name]
        other.heard_at = other.alive_at = now
        other.disconnected = False
        return self._judge(other, now)

    def disconnected(self, name: str, now: float) -> bool:
        """Note that the connection to a member broke: it is ranked last until it is heard again."""
        other = self.others.get(name)
        if other is None:
            return False
        other.disconnected = True
        return self._judge(other, now)

    def revise(self, now: float) -> bool:
        """Judge everybody by the time; whether any visibility changed."""
        changed = [self._judge(other, now) for other in self.others.values()]
        return any(changed)

    def relink(self, now: float) -> list[Member]:
        """The silent members whose connection is to be opened anew now."""
        silent = []
        for other in self.others.values():
            silent_then_s = other.linked_at - other.heard_at
            due_at = other.linked_at + min(max(silent_then_s, RELINK_S), RELINK_S_MAX)
            silent_now = now - other.heard_at > RELINK_S
            if silent_now and now >= due_at and other.member.status is not Status.LEFT:
                other.linked_at = now
                silent.append(other.member)
        return silent

    def excuse(self, pause_s: float) -> None:
        """This process itself slept: nobody is to blame for the silence meanwhile."""
        for other in self.others.values():
            other.heard_at += pause_s
            other.alive_at += pause_s

    def refute(self, accusation: Member) -> None:
        """Answer what is said of this node in its present epoch by a higher record."""
        assert accusation.epoch == self.me.epoch
        self.me = replace(self.me, refutation=max(self.me.refutation, accusation.refutation) + 1)

    def told(self, now: float) -> list[Sighting]:
        """The records that this replica passes on, its own first."""
        mine = [Sighting(self.me, 0.0)]
        for other in self.others.values():
            age_s = now - other.alive_at
            if age_s < self._forget_s / 2:
                mine.append(Sighting(other.member, max(age_s, 0.0)))
        return mine

    def expired(self, now: float) -> list[str]:
        """The names of those to be forgotten."""
        return [name for name, other in self.others.items() if now - other.alive_at >= self._forget_s]

    def forget(self, name: str) -> None:
        """Drop a record."""
        del self.others[name]

    def check(self) -> None:
        """Assert the invariants."""
        assert self.me.name not in self.others
        assert len(self.others) < MEMBERS_MAX
        assert all(name == other.member.name for name, other in self.others.items())

    def _judge(self, other: Other, now: float) -> bool:
        before = other.visibility
        other.visibility = self._visibility(other, now)
        return before is not other.visibility

    def _visibility(self, other: Other, now: float) -> Visibility:
        silence_s = now - other.heard_at
        if other.member.status >= Status.DOWN or silence_s > self._hidden_s:
            return Visibility.HIDDEN
        if other.member.status is Status.SUSPECT or other.disconnected or silence_s > self._last_s:
            return Visibility.LAST
        return Visibility.NORMAL
