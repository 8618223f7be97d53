"""The coordinator's decisions: who leads, and whom the others follow. Pure: time is an argument.

What is known of an object is soft state: when this node goes, whoever coordinates next learns it anew from the renewals
that come in. A lease that nobody renews is over after `RENEWED_S`. When a follower said that it lost the leader, the
lease is over after `DOUBTED_S` in which it was not renewed with more of the object than before. When one said that the
leader has nothing, it is over `BARREN_S` after it was given, or in a zone `STARVED_S`, unless something came; and so
long after one said that the leader has gone past what it wants (`mirror.window`). Who lost its lease that way may only
have been slow: it leads again when it comes further, or has first bytes in hand, while its successor has nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mirror.herd.words import (
    Claim,
    Closed,
    End,
    Follow,
    Given,
    Lead,
    Noted,
    Probe,
    Release,
    Renewal,
    Scope,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.herd.words import Question, Small, Verdict

RENEW_S: Final = 0.4
"""How often a leader renews its lease."""
RENEWED_S: Final = 5.0
"""How long a lease holds that is not renewed: a leader that stalls for less is left in peace."""
DOUBTED_S: Final = 2.0
"""The same after a follower said that the leader is gone, if it comes no further meanwhile: five renewals. They share
the leader's link with all that it gives, and some are late. One that renews and comes no further is stuck."""
BARREN_S: Final = 8.0
"""How old a lease is, whose leader answers that it has nothing, when another goes upstream. Shorter costs more copies
where a registry is slow; longer, where a leader is stuck and each who waits goes its own way."""
STARVED_S: Final = 3.0
"""How long a zone may be without a source before one of it looks beyond. So old is a zone's lease whose leader has
nothing, when another leads that zone: it takes what others have elsewhere, and else waits for it as well."""
NEARLY_S: Final = 1.0
"""So long before, the one that is to take over waits for that instead of following: it would come back later."""
AHEAD_BYTES: Final = 8_000_000
"""A leader that has so much more than who doubts it is not stuck: its own client pauses, or their connection broke."""
GONE_S: Final = 2.5
"""The same when gossip has it that the leader is gone: what it says of its life is late as well."""
DONE_S: Final = 5.0
"""How long a lease is remembered whose leader has the object: by then gossip has told everybody."""
AGAIN_S: Final = 0.2
"""When to ask again where something is about to be decided."""
CONTEST_S: Final = 0.15
"""How long followers that lost their leader are heard before the most advanced of them is chosen."""
GRACE_S: Final = 0.5
"""A coordinator that took over, or is new, waits so long for a leader to show up before it makes another: one tells
its coordinators at once, and every `RENEW_S`."""
REFUSED_S: Final = 5.0
"""How long a refusal is remembered, and others are told to ask by HEAD first."""
CLOSED_S_MAX: Final = 120.0
"""A registry is asked again after so long, whatever it said."""
PATIENCE_S: Final = 12.0
"""How long a client may have waited before it is let go upstream on its own: a few are before all are, who have waited
for `mirror.herd.quest.HOLD_S`."""
STRANDED_S: Final = 8.0
"""The same for one that cannot follow a leader that others can: it did not answer twice, for `SILENCE_S` each."""
UNANSWERED_MAX: Final = 2
"""So many members find that the registry does not answer before the others are told, and leave it alone as long as
their clients would wait."""
ESCAPES_S: Final = 2.0
"""The number of escapes allowed doubles after so long: 1, 2, 4 and so on."""
OBJECTS_MAX: Final = 10_000
"""Objects remembered; the one that was not asked about for longest goes first."""
OBJECT_IDLE_S: Final = 60.0


@dataclass(slots=True)
class Ration:
    """Allows `first` in the first period after a time of rest, then twice as many in each period."""

    first: int
    period_s: float
    begun_at: float = float("-inf")
    used: int = 0

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        periods = int((now - self.begun_at) / self.period_s) if self.used else -1
        if not 0 <= periods <= 16:
            self.begun_at, self.used, periods = now, 0, 0
        if self.used >= self.first * (2 ** (periods + 1) - 1):
            return False
        self.used += 1
        return True


@dataclass(slots=True)
class _Lease:
    leader: str
    begun_at: float
    offset: int
    barren_s: float
    heard_at: float = field(init=False)
    done_at: float | None = None
    doubted_at: float | None = None
    stuck: bool = False
    barren: bool = False
    passed_at: float = float("inf")
    heir: str = ""
    begun_with: int = field(init=False)

    def __post_init__(self) -> None:
        self.heard_at, self.begun_with = self.begun_at, self.offset

    @property
    def has_nothing(self) -> bool:
        """Whether nothing came since it was given."""
        return self.done_at is None and self.offset <= self.begun_with

    def doubt(self, claim: Claim, now: float) -> None:
        """Note that a follower gets nothing from the leader: it is lost, has no bytes yet, or has gone past them."""
        self.barren |= self.leader in claim.barren
        if self.leader in claim.absent and claim.offset < self.offset:
            self.passed_at = min(self.passed_at, now)
        if self.doubted_at is None and self.leader in claim.lost:
            self.doubted_at, self.stuck = now, self.offset < claim.offset + AHEAD_BYTES

    def barren_until(self) -> float:
        """When it is over if the leader still has nothing, or not any more what a follower wants."""
        since = self.begun_at if self.barren and self.has_nothing else self.passed_at
        return since + self.barren_s if self.done_at is None else float("inf")

    def renew(self, offset: int, now: float) -> bool:
        """Note that the leader lives and is so far; whether it came further."""
        further = offset > self.offset
        self.heard_at, self.offset = now, max(offset, self.offset)
        if further or not self.stuck:
            self.doubted_at = None
        return further

    def holds(self, now: float) -> bool:
        if self.done_at is not None:
            return now - self.done_at <= DONE_S and self.doubted_at is None
        doubted_for_s = now - self.doubted_at if self.doubted_at is not None else 0.0
        return now - self.heard_at <= RENEWED_S and doubted_for_s <= DOUBTED_S and now < self.barren_until()


@dataclass(slots=True)
class _Object:
    known_since: float
    asked_at: float
    barren_s: float
    lease: _Lease | None = None
    deposed: _Lease | None = None
    small: Small | None = None
    small_at: float = 0.0
    refused_until: float = 0.0
    closed_until: float = 0.0
    registry_closed: bool = False
    unanswered: set[str] = field(default_factory=set)
    contest_since: float | None = None
    contenders: dict[str, int] = field(default_factory=dict)
    escapes: Ration = field(default_factory=lambda: Ration(1, ESCAPES_S))

    def lead(self, member: str, offset: int, now: float) -> None:
        """From now on this one leads."""
        self.lease = _Lease(member, now, offset, self.barren_s)

    def still_leads(self, lease: _Lease, claim: Claim, now: float) -> Lead | Wait:
        """What the leader is told that claims once more; not that it leads, while another is to take over."""
        overdue_s = now - lease.barren_until()
        if 0 <= overdue_s < DOUBTED_S:
            return Wait(AGAIN_S)
        if overdue_s >= 0 or lease.done_at is not None or claim.offset < lease.offset:
            self.lead(lease.leader, claim.offset, now)
        else:
            lease.renew(claim.offset, now)
        return Lead()

    def takes(self, member: str, offset: int, now: float) -> None:
        """This one has its first bytes in hand: it leads on, or again."""
        if self.lease is None or self.lease.leader != member or self.lease.done_at is not None:
            self.lead(member, offset, now)
            self.deposed = None
            self.settle()
        assert self.lease is not None
        self.lease.renew(offset + 1, now)

    def settle(self) -> None:
        """Somebody leads: nobody contends any more."""
        self.contest_since = None
        self.contenders.clear()

    def given(self, claim: Claim, now: float) -> Given | None:
        """The object itself, if it is here and new enough; one that is not is to be fetched anew."""
        if self.small is None:
            return None
        age_s = self.small.age_s + now - self.small_at
        if age_s <= min(DONE_S, claim.age_max_s):
            return Given(replace(self.small, age_s=age_s))
        self.small = self.lease = None
        return None

    def former(self, member: str, now: float) -> _Lease | None:
        """The lease that was passed on, if it was this member's and it is heard of still."""
        former = self.deposed
        return former if former and former.leader == member and now - former.heard_at <= RENEWED_S else None

    def restored(self, former: _Lease) -> bool:
        """Let the one lead again whose lease was passed on, if its successor has nothing yet; whether it does."""
        if self.lease is None or not self.lease.has_nothing:
            return False
        self.lease, self.deposed = former, None
        return True


class Leases:
    """All objects that this node coordinates. `alive` tells whether a member is; `young` whether this node is new."""

    def __init__(self, alive: Callable[[str], bool], young: Callable[[], bool]) -> None:
        self._alive = alive
        self._young = young
        self._objects: OrderedDict[tuple[Scope, str], _Object] = OrderedDict()
        self._smalls: deque[tuple[float, _Object]] = deque()  # those that came with the object itself, oldest first

    def __len__(self) -> int:
        return len(self._objects)

    def leaders(self, object_name: str) -> list[str]:
        """Who leads an object, as far as is known here."""
        known = (self._objects.get((scope, object_name)) for scope in Scope)
        return [each.lease.leader for each in known if each is not None and each.lease is not None]

    def answer(self, member: str, question: Question, now: float) -> Verdict:
        """What a member is told."""
        match question:
            case Claim():
                return self._claim(member, question, self._object(question, now), now)
            case Renewal():
                self._renew(member, question, self._object(question, now), now)
            case Release():
                self._release(member, question, self._object(question, now), now)
        return Noted()

    def _claim(self, member: str, claim: Claim, known: _Object, now: float) -> Verdict:  # noqa: PLR0911 - a table
        if given := known.given(claim, now):
            return given
        lease = known.lease
        if claim.got and (lease is None or lease.leader == member or lease.has_nothing or not self._held(lease, now)):
            known.takes(member, claim.offset, now)
            return Lead()
        if lease is not None and lease.leader == member:
            return known.still_leads(lease, claim, now)
        if lease is not None:
            lease.doubt(claim, now)
        if lease is not None and self._held(lease, now):
            return _behind(lease, member, claim, known, now)
        if now < known.closed_until:
            return Closed(known.closed_until - now, known.registry_closed)
        if now < known.refused_until and not claim.known:
            return Probe()  # at once: each client needs a challenge of its own before it comes with credentials
        if (rest_s := self._grace_s(claim, known, now)) > 0:
            return Wait(min(AGAIN_S, rest_s))
        # Who lost a giver that had all of it is seldom the only one, nor the one that it gave most.
        orphaned = claim.lost or known.contest_since is not None or (lease is not None and lease.done_at is None)
        if orphaned and (waiting := _contend(member, claim, known, now, held=False)):
            return waiting
        if lease is not None and lease.done_at is None:
            known.deposed = lease if lease.passed_at > now else None
        known.lead(member, claim.offset, now)
        known.settle()
        return Lead()

    def _grace_s(self, claim: Claim, known: _Object, now: float) -> float:
        """How long a leader that is not known here may still show up. Where this node only took over, it had the time
        too in which the one before it did not answer: leaders tell all that would be next."""
        waited_s = now - known.known_since
        if self._young():
            return GRACE_S - waited_s
        return GRACE_S - max(waited_s, claim.waited_s) if claim.second else 0.0

    def _held(self, lease: _Lease, now: float) -> bool:
        """Whether the lease holds, and its leader lives: it is thought to, or was heard of late."""
        return lease.holds(now) and (self._alive(lease.leader) or now - lease.heard_at <= GONE_S)

    def _renew(self, member: str, renewal: Renewal, known: _Object, now: float) -> None:
        lease = known.lease
        if lease is not None and lease.leader == member:
            if not lease.renew(renewal.offset, now):
                return
        elif former := known.former(member, now):
            if not former.renew(renewal.offset, now) or not known.restored(former):
                return
        elif lease is not None and self._held(lease, now):
            return
        else:
            known.lead(member, renewal.offset, now)
        known.settle()

    def _release(self, member: str, release: Release, known: _Object, now: float) -> None:
        if former := known.former(member, now):
            known.deposed = None
            if release.end is End.DONE:
                known.restored(former)
        if known.lease is None or known.lease.leader != member:
            return
        known.small = None
        match release.end:
            case End.DONE:
                known.lease.done_at, known.lease.doubted_at = now, None
                known.small, known.small_at = release.small, now
                if known.small is not None:
                    self._smalls.append((now, known))
                return
            case End.REFUSED:
                known.refused_until = now + REFUSED_S
                if known.lease.offset:
                    # It was the most advanced. One far behind would make all who are further wait, or escape.
                    known.contest_since = now
                    known.contenders = {member: known.lease.offset}
            case End.CLOSED:
                if not self._close(member, release, known, now):
                    known.contest_since = now
            case End.LOST:
                # Its followers lose it as well, and the most advanced of them is to lead.
                known.contest_since = now
        known.lease = None

    @staticmethod
    def _close(member: str, release: Release, known: _Object, now: float) -> bool:
        """Whether the registry is left alone. That it does not answer at all may be the fault of the leader's node."""
        if release.retry_s:
            known.closed_until = now + min(release.retry_s, CLOSED_S_MAX)
            known.registry_closed = release.registry
            return True
        known.unanswered.add(member)
        if len(known.unanswered) < UNANSWERED_MAX:
            return False
        known.unanswered.clear()
        known.closed_until = now + PATIENCE_S
        known.registry_closed = False
        return True

    def _forget_smalls(self, now: float) -> None:
        """What is too old to be given takes no memory, and is to be fetched anew."""
        while self._smalls and now - self._smalls[0][0] > DONE_S:
            at, known = self._smalls.popleft()
            if known.small is not None and known.small_at == at:
                known.small = known.lease = None

    def _object(self, question: Question, now: float) -> _Object:
        self._forget_smalls(now)
        key = question.scope, question.object
        known = self._objects.pop(key, None)
        if known is None or now - max(known.asked_at, known.closed_until) > OBJECT_IDLE_S:
            known = _Object(now, now, STARVED_S if question.scope is Scope.ZONE else BARREN_S)
        known.asked_at = now
        self._objects[key] = known
        while len(self._objects) > OBJECTS_MAX:
            self._objects.popitem(last=False)
        return known


def _behind(lease: _Lease, member: str, claim: Claim, known: _Object, now: float) -> Verdict:
    """What one is told while the lease holds that another has."""
    patience_s = STRANDED_S if lease.leader in claim.lost + claim.absent else PATIENCE_S
    if claim.waited_s >= patience_s and known.escapes.take(now):
        return Lead(escape=True)
    if lease.doubted_at is not None and lease.leader in claim.lost:
        return _contend(member, claim, known, now, held=True) or Wait(AGAIN_S)
    rest_s = lease.barren_until() - now
    if rest_s <= NEARLY_S and lease.heir in {"", member}:
        lease.heir = member
        return Wait(rest_s)
    return Follow(lease.leader)


def _contend(member: str, claim: Claim, known: _Object, now: float, *, held: bool) -> Wait | None:
    """The leader was lost: let the one that has most lead. None: it is this one's turn.

    While the lease is still `held`, nothing is decided.
    """
    if known.contest_since is None:
        known.contest_since = now
    known.contenders[member] = claim.offset
    undecided = held or now - known.contest_since < CONTEST_S
    late = now - known.contest_since > 2 * CONTEST_S + DOUBTED_S + 2 * AGAIN_S
    best = max(known.contenders.values())
    return Wait(AGAIN_S) if undecided or (claim.offset < best and not late) else None
