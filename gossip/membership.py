"""Who is in the cluster, and whose content may be named as a source.

Each member has one *record* (`Member`), and records of one name are totally ordered by (epoch, refutation, status), so
join is the maximum. Only the member itself raises its epoch (a restart) or its refutation (it answers an accusation);
others may raise the status, and say who they are when they suspect (`Claim`).

*Visibility* is derived, not replicated:

| record                                              | visibility                                          |
|-----------------------------------------------------|-----------------------------------------------------|
| ALIVE                                               | normal; last if this replica listens to it and its  |
|                                                     | connection broke or it is silent                    |
| SUSPECT                                             | last                                                |
| DOWN, from others, for less than 3 s and while this | last: it may be alive and deny it                   |
| replica would not have said so itself               |                                                     |
| DOWN, in a mass failure, for less than 60 s         | last: it is more likely that this node is cut off   |
| DOWN otherwise, LEFT                                | hidden; its content stays, so this costs no traffic |

*Forgetting.* The content of a member that is gone is dropped after ten minutes, and its record after `forget_s`. No
ghosts: (R1) a record of somebody unknown who is gone is ignored, (R2) a record that has been gone for half of
`forget_s` is told to nobody, (R3) who met nobody for as long forgets everything, (R4) newcomers are probed first.
All of this by a local clock that never jumps and goes on while the machine sleeps; clocks are never compared.

Invariants: this node is never among the others; a record never falls in the order; there are at most `MEMBERS_MAX`.
Source: SWIM (Das, Gupta, Motivala 2002), and memberlist and foca, which implement it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gossip.config import Config
    from gossip.or_set import Epoch

PROTOCOL: Final = 1
"""What this replica speaks. It also understands the one before, when there is one."""

MEMBERS_MAX: Final = 10_000
NAMES_KEPT: Final = 16_384
"""Names of which is remembered what follows from them: more than there may be members."""
REFUTATION_MAX: Final = 2**32 - 1
SERVER_KEY_BYTES: Final = 32
"""Of a CURVE public key."""

GRACE_S: Final = 3.0
"""A member that others call DOWN has so long to deny it before it is hidden. When a parted cluster meets again, each
side has called the other's healthy members DOWN; none of them is ever hidden on its own side."""
MASS_WINDOW_S: Final = 10.0
MASS_SHARE: Final = 0.3
MASS_MEMBERS_MIN: Final = 3
"""A mass failure: more than this share of the members, and at least so many, go DOWN within the window. One of two and
one of three are no mass."""
MASS_GRACE_S: Final = 60.0
JUDGED_MAX: Final = 1000
"""So many that are gone are hidden at a time: 1 to 2 ms of work."""
DROP_S: Final = 600.0
"""The content of a member that is gone is kept for so long: it returns without sending it again."""

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
    is the public key with which its sockets listen (32 bytes, or none without a secret); `protocol` is the version that
    it speaks.
    """

    name: str
    epoch: Epoch
    address: str
    publish_port: int
    router_port: int
    zone: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    server_key: bytes = b""
    protocol: int = PROTOCOL
    refutation: int = 0
    status: Status = Status.ALIVE

    @property
    def rank(self) -> tuple[Epoch, int, Status]:
        """Its place in the total order of the records of this name."""
        return (self.epoch, self.refutation, self.status)

    @property
    def life(self) -> tuple[Epoch, int]:
        """What only the member itself raises."""
        return (self.epoch, self.refutation)

    @property
    def endpoints(self) -> tuple[str, int, int]:
        """Where it is reached."""
        return (self.address, self.publish_port, self.router_port)


@dataclass(frozen=True, slots=True)
class Claim:
    """A record, and when it says SUSPECT, who suspects."""

    member: Member
    accuser: str = ""


@dataclass(slots=True)
class Other:
    """Another member, as this replica sees it.

    `heard_at` is when this replica heard it, or learned news of it. `linked_at` is when its connection was last opened,
    None while this replica does not listen to it; `sequence` is the last number heard on that connection, 0 before the
    first. `gone_at` is since when it is DOWN or LEFT, `hidden_at` from when a DOWN hides it. `corrected_at` is when it
    was last told that a higher record of it exists.
    """

    member: Member
    heard_at: float
    visibility: Visibility = Visibility.NORMAL
    linked_at: float | None = None
    disconnected: bool = False
    sequence: int = 0
    gone_at: float = inf
    hidden_at: float = inf
    corrected_at: float = -inf


class Membership:
    """All records of one replica. Times are seconds of the local clock.

    `changed` are the names of those of whom something changed that lookups depend on; `reshaped` is set when the set of
    live members changed, or what they speak. Who acts on them clears them.
    """

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
        self.gone: dict[str, Other] = {}
        """Those of the others that are DOWN or LEFT, in the order in which they went."""
        self.linked: dict[str, Other] = {}
        """Those of the others that this replica listens to."""
        self._fading: dict[str, Other] = {}
        """Those that are gone and not hidden yet."""
        self.changed: dict[str, None] = {}
        self.reshaped = False
        self._silence_s = config.silence_s
        self._forget_s = config.forget_s
        self._fell: dict[str, float] = {}
        """When members went DOWN, for those who did so within the window of a mass failure; the latest at the end."""
        self._mass = False

    def learn(self, member: Member, now: float, *, witnessed: bool = False, certain_at: float = inf) -> bool:
        """Join a record of another member; whether it is news.

        `witnessed`: this replica itself says DOWN. `certain_at`: when it would, if it suspects the member anyway.
        """
        assert member.name != self.me.name
        other = self.others.get(member.name)
        if other is None:
            if member.status >= Status.DOWN or len(self.others) + 1 >= MEMBERS_MAX:
                return False
            other = self.others[member.name] = Other(member, now)
            self.reshaped = True
        elif member.rank <= other.member.rank:
            return False
        else:
            before, other.member = other.member, member
            if member.life > before.life:
                # News of a life is as good as a chance to be heard: it may have moved.
                other.heard_at = now
                other.disconnected = False
            if member.epoch != before.epoch:
                other.sequence = 0
            if member.protocol != before.protocol:
                self.reshaped = True  # what all speak may be another
            if (member.status >= Status.DOWN) != (before.status >= Status.DOWN):
                self._turn(other, now)
            if member.status is Status.DOWN:
                other.hidden_at = self._hiding(other, now, now if witnessed else certain_at)
        self.changed[member.name] = None
        self._judge(other, now)
        return True

    def hear(self, name: str, now: float) -> None:
        """Note a sign of life of a known member."""
        other = self.others[name]
        other.heard_at = now
        if other.disconnected or other.visibility is not Visibility.NORMAL:
            other.disconnected = False
            self._judge(other, now)

    def disconnected(self, name: str, now: float) -> None:
        """Note that the connection to a member broke: it is ranked last until there is one again, or it is heard."""
        other = self.linked.get(name)
        if other is not None:
            other.disconnected = True
            self._judge(other, now)

    def connected(self, name: str, now: float) -> None:
        """Note that there is a connection to a member, perhaps again: what it says from now on comes over that."""
        other = self.linked.get(name)
        if other is not None:
            other.disconnected = False
            self._judge(other, now)

    def link(self, name: str, now: float) -> Member:
        """This replica listens to a member from now on, or anew; it has a moment to be heard."""
        other = self.linked[name] = self.others[name]
        other.linked_at = other.heard_at = now
        other.sequence = 0
        other.disconnected = False
        return other.member

    def unlink(self, name: str, now: float) -> None:
        """This replica does not listen to a member any more, and does not judge it by what it hears."""
        other = self.linked.pop(name)
        other.linked_at = None
        other.disconnected = False
        self._judge(other, now)

    def revise(self, now: float) -> bool:
        """Judge by the time those that time can change; whether some are left, since they are very many."""
        for other in self.linked.values():
            self._judge(other, now)
        due = [other for other in self._fading.values() if now >= other.hidden_at]
        for other in due[:JUDGED_MAX]:
            self._judge(other, now)
        return len(due) > JUDGED_MAX

    def silent(self, other: Other, now: float) -> bool:
        """Whether a member that this replica listens to owes it a sign of life."""
        return other.disconnected or now - other.heard_at > self._silence_s

    def relink(self, now: float) -> list[Member]:
        """The silent members whose connection is to be opened anew now."""
        silent = []
        for other in self.linked.values():
            assert other.linked_at is not None
            silent_then_s = other.linked_at - other.heard_at
            due_at = other.linked_at + min(max(silent_then_s, RELINK_S), RELINK_S_MAX)
            if now - other.heard_at > RELINK_S and now >= due_at:
                other.linked_at = now
                silent.append(other.member)
        return silent

    def excuse(self, pause_s: float, now: float) -> None:
        """This process itself slept until now: nobody is to blame for the silence meanwhile."""
        for other in self.linked.values():
            other.heard_at = min(other.heard_at + pause_s, now)

    def refute(self, accusation: Member) -> None:
        """Answer what is said of this node in its present epoch by a higher record."""
        assert accusation.epoch == self.me.epoch
        self.me = replace(self.me, refutation=max(self.me.refutation, accusation.refutation) + 1)

    def live(self) -> list[str]:
        """The names of the others that are below DOWN."""
        return [name for name in self.others if name not in self.gone]

    def ringed(self, now: float) -> tuple[list[str], bool]:
        """Those that the overlay is made of: the live, and whom others call DOWN while they still may deny it; and
        whether there are any of the latter, so that it is to be made again."""
        doubtful = [
            name
            for name, other in self.gone.items()
            if other.member.status is Status.DOWN and other.hidden_at > other.gone_at and now < other.gone_at + GRACE_S
        ]
        return [*self.live(), *doubtful], bool(doubtful)

    def told(self, name: str, now: float) -> bool:
        """Whether this replica tells others the record of this name (R2)."""
        other = self.gone.get(name)
        return other is None or now - other.gone_at < self._forget_s / 2

    def dropped(self, now: float) -> list[str]:
        """The names of those whose content is to be dropped."""
        return self._gone_for(min(DROP_S, self._forget_s / 2), now)

    def expired(self, now: float) -> list[str]:
        """The names of those to be forgotten."""
        return self._gone_for(self._forget_s, now)

    def forget(self, name: str) -> None:
        """Drop a record of a member that this replica does not listen to."""
        assert name not in self.linked
        del self.others[name]
        self.gone.pop(name, None)
        self._fading.pop(name, None)
        self._fell.pop(name, None)
        self.changed[name] = None
        self.reshaped = True

    def protocol(self) -> int:
        """What all live members speak, this one included: only what that version has may be said.

        Who knows nobody speaks the oldest that it understands, since the one that it asks to be let in may speak that.
        """
        live = (other.member.protocol for name, other in self.others.items() if name not in self.gone)
        return min(self.me.protocol, min(live, default=max(1, self.me.protocol - 1)))

    def check(self) -> None:
        """Assert the invariants."""
        assert self.me.name not in self.others
        assert len(self.others) < MEMBERS_MAX
        assert all(name == other.member.name for name, other in self.others.items())
        assert self.gone.keys() == {n for n, other in self.others.items() if other.member.status >= Status.DOWN}
        assert self.linked.keys() == {n for n, other in self.others.items() if other.linked_at is not None}
        assert all(other.visibility is not Visibility.NORMAL for other in self.gone.values())
        assert self._fading.keys() == {n for n, o in self.gone.items() if o.visibility is not Visibility.HIDDEN}
        went = [other.gone_at for other in self.gone.values()]
        assert went == sorted(went)

    def _gone_for(self, duration_s: float, now: float) -> list[str]:
        """The names of those that went so long ago."""
        return [name for name, _ in takewhile(lambda item: now - item[1].gone_at >= duration_s, self.gone.items())]

    def _turn(self, other: Other, now: float) -> None:
        """A member went, or came back."""
        self.reshaped = True
        if other.member.status >= Status.DOWN:
            other.gone_at = now
            self.gone[other.member.name] = other
        else:
            other.gone_at = other.hidden_at = inf
            del self.gone[other.member.name]
            self._fell.pop(other.member.name, None)

    def _hiding(self, other: Other, now: float, certain_at: float) -> float:
        """From when a member that is DOWN now is hidden."""
        self._fell.pop(other.member.name, None)
        self._fell[other.member.name] = now
        for name in list(takewhile(lambda name: now - self._fell[name] >= MASS_WINDOW_S, self._fell)):
            del self._fell[name]
        fell, live = len(self._fell), len(self.others) + 1 - len(self.gone)
        if fell < MASS_MEMBERS_MIN or fell <= MASS_SHARE * (fell + live):
            self._mass = False
            return min(now + GRACE_S, max(now, certain_at))
        if not self._mass:
            self._mass = True
            for name, at in self._fell.items():
                fallen = self.others[name]
                fallen.hidden_at = at + MASS_GRACE_S
                if fallen.visibility is Visibility.HIDDEN:  # the others are ranked last, as before
                    self._judge(fallen, now)
        return now + MASS_GRACE_S

    def _judge(self, other: Other, now: float) -> None:
        before, other.visibility = other.visibility, self._visibility(other, now)
        if before is not other.visibility:
            self.changed[other.member.name] = None
        if other.gone_at < inf and other.visibility is not Visibility.HIDDEN:
            self._fading[other.member.name] = other
        elif self._fading:
            self._fading.pop(other.member.name, None)

    def _visibility(self, other: Other, now: float) -> Visibility:
        status = other.member.status
        if status is Status.LEFT or (status is Status.DOWN and now >= other.hidden_at):
            return Visibility.HIDDEN
        if status is not Status.ALIVE or (other.linked_at is not None and self.silent(other, now)):
            return Visibility.LAST
        return Visibility.NORMAL
