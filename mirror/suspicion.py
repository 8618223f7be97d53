"""Who gave wrong bytes? The agent watches what becomes of the large objects that it delivers.

An object above 8 MB goes to the runtime unverified, and the runtime verifies it when it commits. So one that was
delivered whole, was not committed within `COMMIT_S` while the runtime was at work, and is asked for again, makes those
who gave it *suspect* for that digest. They are left out when it is asked for again, and what comes then is hashed on
its way. Is it right, and committed, then the suspect is to blame, if there is just one. Bytes that were hashed and
are wrong blame their giver at once.

A runtime that gives up for reasons of its own (its user cancels the pull) after the last byte went to the kernel looks
the same from here: it does not commit, and begins anew. If it asks again within `SUSPECT_S`, and commits, an innocent
giver is left out for that one digest for `BLAME_S`. Nothing that can be seen tells the two apart: containerd keeps what
it has in either case, and parts asked for from further on are no sign either, since parallel ranges begin there. It
takes a cancellation within the moments that the last megabytes lie in the buffers of the connection, and costs no pull.

Of clients that keep images elsewhere than in this node's store (podman and its kin) nothing is seen, so they make
nobody suspect; they verify what they get as well.

Blame means quarantine: `BLAME_S` for the digest, and for everything after `DIGESTS_MAX` digests within that time.
Only origins are blamed (a complete holder, or the registry), never a *relay* in between that passed bytes on. Relays
name them when they begin to give, and may go on from others, or through others, afterwards: so before the object is
fetched anew, all of them are asked who gave it. They are in the same case, and remember. Does one of them not say, then
nobody is to blame.

Time is an argument of the constructor; nothing here does I/O but log.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from mirror.stores import ContentAdded, ContentRemoved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.choice import Holder
    from mirror.oci import Digest
    from mirror.peer_mac import Target
    from mirror.stores import StoreEvent

COMMIT_S: Final = 0.5
"""How long a runtime may take to commit before another request for the object is taken for a retry. Too short costs a
needless hash; too long lets a quick retry get the same bytes again."""
SUSPECT_S: Final = 600.0
"""How long a delivery that was not committed is remembered, and its givers are suspect."""
BLAME_S: Final = 300.0
LISTS_MAX: Final = 64
"""Of how many answers for one digest the givers are followed while they grow; of the oldest they are kept as they were.
"""
DIGESTS_MAX: Final = 3
"""How many wrong digests make a bad member: one may be a bad sector, three are a bad disk."""
CASES_MAX: Final = 1024
"""Deliveries remembered; the oldest goes first."""

log = logging.getLogger(__name__)


class Index(Protocol):
    """Who holds what, and who is who."""

    def me(self) -> Target:
        """Who this node is."""
        ...

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest, this node excluded."""
        ...

    def member(self, name: str) -> Holder | None:
        """How to reach a member."""
        ...


class SuspicionObserver(Protocol):
    """Is told of deliveries that came to nothing, for metrics."""

    def suspected(self) -> None:
        """An object was delivered whole, not committed, and asked for again."""
        ...

    def blamed(self) -> None:
        """A giver was found to have given wrong bytes."""
        ...


Lists: TypeAlias = tuple[list[str], list[str]]
"""Givers and relays."""


class Given(NamedTuple):
    """Who gave an object, and who passed it on."""

    givers: frozenset[str] = frozenset()
    relays: frozenset[str] = frozenset()


class TrustedIndex:
    """An index without the holders that are in doubt."""

    def __init__(self, index: Index, suspicion: Suspicion) -> None:
        self._index = index
        self._suspicion = suspicion
        self.me = index.me
        self.member = index.member

    def holders(self, digest: Digest) -> Sequence[Holder]:
        """The visible holders of a digest that may be asked for it."""
        return self._suspicion.trusted(digest, self._index.holders(digest))


@dataclass(slots=True)
class _Case:
    """What became of one digest: who gave a part of the last delivery, and who is suspect since an earlier one.

    `lists` has the givers and the relays of each answer, and may grow after its end: others may read on what this node
    fetches. `relays` passed on what the suspects gave. Those `to_ask` are to say who that was; until all of them did,
    this node is `unsure` that the suspects are all.

    It was delivered once its end was, and not before the last part was: a runtime that fetches parallel ranges may get
    the end first.
    """

    begun_at: float
    lists: list[Lists] = field(default_factory=list)
    delivered_at: float | None = None
    verified: bool = True
    committed: bool = False
    suspects: set[str] = field(default_factory=set)
    relays: set[str] = field(default_factory=set)
    to_ask: set[str] = field(default_factory=set)
    unsure: bool = False

    def begin(self) -> None:
        """Another delivery begins."""
        self.lists = []
        self.delivered_at = None
        self.verified = True

    def given(self) -> Given:
        """Who gave the last delivery, and who passed it on."""
        givers = chain.from_iterable(givers for givers, _ in self.lists)
        return Given(frozenset(givers), frozenset(chain.from_iterable(relays for _, relays in self.lists)))

    def suspect(self, given: Given) -> None:
        """These gave wrong bytes, or some of them did."""
        self.suspects |= given.givers
        self.relays |= given.relays
        if given.relays:
            self.to_ask, self.unsure = set(self.relays), True


class Suspicion:
    """What this node knows of wrong bytes. `answering_since` tells since when the runtime answers; None: it is away."""

    def __init__(
        self, clock: Callable[[], float], answering_since: Callable[[], float | None], observer: SuspicionObserver
    ) -> None:
        self._clock = clock
        self._answering_since = answering_since
        self._observer = observer
        self._cases: OrderedDict[Digest, _Case] = OrderedDict()
        self._blamed: dict[str, dict[Digest, float]] = {}

    def gives(self, digest: Digest, lists: Lists) -> None:
        """The runtime begins to be given an object, or a part of it. The lists may grow afterwards."""
        case = self._known(digest) or self._new(digest)
        if not any(each[0] is lists[0] for each in case.lists):
            case.lists.append(lists)
        if len(case.lists) > LISTS_MAX:
            oldest, second = case.lists[:2]
            case.lists[:2] = [([*{*oldest[0], *second[0]}], [*{*oldest[1], *second[1]}])]

    def gave(self, digest: Digest, lists: Lists, *, to_end: bool, verified: bool) -> None:
        """The runtime was given an object, or a part of it. A part adds to what was given before."""
        self.gives(digest, lists)
        case = self._cases[digest]
        case.verified &= verified
        if to_end or case.delivered_at is not None:
            case.delivered_at = self._clock()
        if case.committed:  # it was told before this
            self.committed(digest)

    def doubted(self, digest: Digest, *, from_start: bool) -> bool:
        """An object that the store does not have is asked for: is it to be fetched from elsewhere and hashed?"""
        case = self._known(digest)
        if case is None:
            return False
        if case.delivered_at is not None and case.delivered_at > self._clock() - COMMIT_S:
            return bool(case.suspects)  # it may be committed yet
        uncommitted = case.delivered_at is not None and self._answered_at(case.delivered_at)
        if uncommitted and not case.verified:
            given = case.given()
            case.suspect(given)
            self._observer.suspected()
            log.warning(
                "%s was delivered whole by %s, but not committed: this try comes from elsewhere and is hashed",
                digest,
                ", ".join(sorted(given.givers)),
            )
        if uncommitted or from_start:
            case.begin()
        return bool(case.suspects)

    def given(self, digest: Digest) -> Given:
        """Who gave this node what may be wrong, as far as it knows: those to blame, the suspects, or all."""
        if to_blame := frozenset(name for name in list(self._blamed) if digest in self._still_blamed(name)):
            return Given(to_blame)
        case = self._known(digest)
        if case is None:
            return Given()
        return Given(frozenset(case.suspects), frozenset(case.relays)) if case.suspects else case.given()

    def to_ask(self, digest: Digest) -> set[str]:
        """The relays of what is in doubt that are to be asked who gave it; each is named once."""
        case = self._known(digest)
        if case is None:
            return set()
        relays, case.to_ask = case.to_ask, set()
        return relays

    def told(self, digest: Digest, givers: Iterable[str], *, all_said: bool) -> None:
        """Who gave it, as the relays say that were asked and those that they named; `all_said`: not one is silent."""
        case = self._known(digest)
        if case is not None:
            case.suspects.update(givers)
            case.unsure = not all_said

    def heard(self, event: StoreEvent) -> None:
        """Something happened in the runtime's store."""
        if isinstance(event, ContentAdded):
            self.committed(event.digest)
        elif isinstance(event, ContentRemoved):  # what became of it says nothing of who gives it next
            self._cases.pop(event.digest, None)

    def committed(self, digest: Digest) -> None:
        """The runtime's store has the object: whoever gave it last gave the right bytes."""
        case = self._known(digest)
        if case is None:
            return
        if case.delivered_at is None:
            case.committed = True
            return
        del self._cases[digest]
        if case.verified and not case.unsure:
            self.blame(digest, case.suspects)

    def blame(self, digest: Digest, givers: Iterable[str], relays: Iterable[str] = ()) -> None:
        """These gave an object whose bytes are wrong. Are there several, or relays, then all of them are suspect."""
        names, given = sorted(set(givers)), Given(frozenset(givers), frozenset(relays))
        if len(names) > 1 or given.relays:
            (self._known(digest) or self._new(digest)).suspect(given)
        elif names:
            self._observer.blamed()
            log.error(
                "%s gave wrong bytes for %s, and is not asked for it for %.0f s; if it does so again, look at its disk",
                names[0],
                digest,
                BLAME_S,
            )
            self._still_blamed(names[0])
            self._blamed.setdefault(names[0], {})[digest] = self._clock() + BLAME_S

    def trusted(self, digest: Digest, holders: Sequence[Holder]) -> list[Holder]:
        """The holders that are neither suspect nor to blame for the digest."""
        case = self._known(digest)
        suspects = case.suspects if case else set[str]()
        return [each for each in holders if each.target.name not in suspects and self._may(each.target.name, digest)]

    def _may(self, name: str, digest: Digest) -> bool:
        blamed = self._still_blamed(name)
        return digest not in blamed and len(blamed) < DIGESTS_MAX

    def _still_blamed(self, name: str) -> dict[Digest, float]:
        now = self._clock()
        blamed = {digest: until for digest, until in self._blamed.pop(name, {}).items() if until > now}
        if blamed:
            self._blamed[name] = blamed
        return blamed

    def _answered_at(self, delivered_at: float) -> bool:
        """Whether the runtime has been there since, to commit."""
        since = self._answering_since()
        return since is not None and since <= delivered_at

    def _known(self, digest: Digest) -> _Case | None:
        while self._cases and next(iter(self._cases.values())).begun_at <= self._clock() - SUSPECT_S:
            self._cases.popitem(last=False)
        return self._cases.get(digest)

    def _new(self, digest: Digest) -> _Case:
        if len(self._cases) >= CASES_MAX:
            self._cases.popitem(last=False)
        case = self._cases[digest] = _Case(self._clock())
        return case
