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
name them when they begin to give, and may have gone on from others since: so before the object is fetched anew, all of
them are asked who gave it. They are in the same case, and remember. Does one of them not say, then nobody is to blame.

Time is an argument of the constructor; nothing here does I/O but log.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mirror.stores import ContentAdded, ContentRemoved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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

    Of the relays of that one some are yet `to_ask`, and some are `silent`: they did not say yet who gave it, or never.

    It was delivered once its end was, and not before the last part was: a runtime that fetches parallel ranges may get
    the end first.
    """

    begun_at: float
    givers: set[str] = field(default_factory=set)
    relays: set[str] = field(default_factory=set)
    delivered_at: float | None = None
    verified: bool = True
    committed: bool = False
    suspects: set[str] = field(default_factory=set)
    to_ask: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Another delivery begins."""
        self.givers, self.relays = set(), set()
        self.delivered_at = None
        self.verified = True


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

    def gave(
        self, digest: Digest, givers: Iterable[str], relays: Iterable[str] = (), *, to_end: bool, verified: bool
    ) -> None:
        """The runtime was given an object, or a part of it, through relays. A part adds to what was given before."""
        case = self._known(digest) or self._new(digest)
        case.givers.update(givers)
        case.relays.update(relays)
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
            case.suspects |= case.givers
            case.to_ask |= case.relays
            case.silent |= case.relays
            self._observer.suspected()
            log.warning(
                "%s was delivered whole by %s, but not committed: this try comes from elsewhere and is hashed",
                digest,
                ", ".join(sorted(case.givers)),
            )
        if uncommitted or from_start:
            case.begin()
        return bool(case.suspects)

    def givers(self, digest: Digest) -> set[str]:
        """Who gave what is taken to be wrong, as far as this node knows: those to blame, the suspects, or all."""
        if to_blame := {name for name in list(self._blamed) if digest in self._still_blamed(name)}:
            return to_blame
        case = self._known(digest)
        return set(case.suspects or case.givers) if case else set()

    def to_ask(self, digest: Digest) -> set[str]:
        """The relays of what is in doubt that are to be asked who gave it; each is named once."""
        case = self._known(digest)
        if case is None:
            return set()
        relays, case.to_ask = case.to_ask, set()
        return relays

    def told(self, digest: Digest, told: Mapping[str, Iterable[str]]) -> None:
        """What relays that were asked say: who gave them the object."""
        case = self._known(digest)
        if case is not None:
            case.silent.difference_update(told)
            case.suspects.update(*told.values())

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
        if case.verified and not case.silent:
            self.blame(digest, case.suspects)

    def blame(self, digest: Digest, givers: Iterable[str]) -> None:
        """These gave an object whose bytes are wrong. Are there several, then one of them did: all are suspect."""
        names = sorted(set(givers))
        if len(names) > 1:
            (self._known(digest) or self._new(digest)).suspects.update(names)
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
