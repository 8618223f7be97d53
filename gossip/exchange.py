"""The repair of what was lost on the way, by comparing states with one member after another.

A member whose state may differ is put in line (`compare_with`); every `sync_s` a neighbour or a random member is. To
the one that is compared with goes the fingerprint; the further steps are those of `gossip.comparison`, and the answer
comes in parts (`gossip.transfer`). It flows one way: who sees that it is behind itself puts the other in line.

Limits: this replica asks two members at once and takes parts from one; it answers four at once, to others it is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossip import comparison
from gossip.messages import HEADS_PER_MESSAGE_MAX, Buckets, Busy, Compare, Heads, More, Versions
from gossip.or_set import BOTTOM
from gossip.transfer import Incoming, Outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossip.cell import Cell
    from gossip.detector import Detector
    from gossip.membership import Claim, Member
    from gossip.messages import Message, Part, Standing
    from gossip.state import State

ASKED_MAX: Final = 2
SERVED_MAX: Final = 4
ANSWER_S: Final = 2.0
"""How long an answer to a comparison is waited for; equal states are not answered at all."""
PART_S: Final = 5.0
"""How long the next part, or the question for it, is waited for."""
CREDIT: Final = 2
"""Parts that may be on their way at once: one, while the one before is worked on. With more the receiver would find
one waiting whenever it looks, and do nothing else."""
LINE_MAX: Final = 64


class Exchange:
    """The comparisons of one replica. What it wants sent to a member is in `sends`; what answers the message that was
    just received is returned."""

    def __init__(self, state: State, detector: Detector) -> None:
        self.sends: list[tuple[Member, Message]] = []
        self.sync_at = 0.0
        self.incoming: Incoming | None = None
        self._config = state.config
        self._membership = state.membership
        self._held = state.set
        self._hash = state.hash
        self._rng = state.rng
        self._detector = detector
        self._line: dict[str, None] = {}
        self._asked: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._outgoing: dict[str, Outgoing] = {}

    # As the one that asks.

    def compare_with(self, name: str, at: float) -> None:
        """Compare with this member, at that time or a little later."""
        if len(self._line) < LINE_MAX:
            self._line[name] = None
        self.sync_at = min(self.sync_at, at)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now < self.sync_at:
            return
        self._expire(now)
        if not self._line and (chosen := self._choose()):
            self._line[chosen] = None
        while self._line and len(self._asked) < ASKED_MAX and self.incoming is None:
            name = next(iter(self._line))
            del self._line[name]
            other = self._membership.others.get(name)
            if other is not None and name not in self._asked:
                self._asked[name] = now + ANSWER_S
                self.sends.append((other.member, Compare(self._membership.me, self._hash.fingerprint())))
        self.sync_at = now + self._config.sync_s * self._rng.uniform(0.8, 1.2)
        if self._line:
            self.sync_at = min(self.sync_at, now + ANSWER_S / 4)

    def answered(self, source: str, hashes: Sequence[int], now: float) -> list[Message]:
        """A member's state is another; its buckets."""
        if self._asked.pop(source, None) is None:
            return []
        if self.incoming is not None:
            self.compare_with(source, now + ANSWER_S / 4)
            return []
        mine = self._hash.buckets()
        differing = [number for number, theirs in enumerate(hashes) if theirs != mine[number]]
        if not differing:
            return []
        # Those that come first are compared first, so each gets its turn at being it.
        start = self._rng.randrange(len(differing))
        some = self._hash.portion([*differing[start:], *differing[:start]], comparison.TOLD_MAX)
        self._expect(source, now, whole=len(some) == len(differing))
        versions = comparison.versions(self._membership, self._held, self._hash.members(some), now)
        return [Versions(some, tuple(versions)), *[More()] * (CREDIT - 1)]

    def refused(self, source: str) -> None:
        """A member is too busy to compare."""
        self._asked.pop(source, None)

    def part(self, source: str, part: Part, now: float) -> tuple[list[tuple[str, Cell]], list[Message]] | None:
        """A part came: the cells that it completes, and the answer. None when it is of no use."""
        if part.number == 1:
            self._expect(source, now)  # it may answer a `Pull` for which one message is too little
        incoming = self.incoming
        if incoming is None or incoming.source != source:
            return None
        cells = incoming.take(part)
        if cells is None or part.last:
            incoming.abandon()
            self.incoming = None
            # Much has changed meanwhile, or something got lost, or there is more: see what still differs.
            if cells is None or part.number > 1 or (not incoming.whole and part.substantial):
                self.compare_with(source, now)
            elif self._line:
                self.sync_at = now
        else:
            incoming.expires = now + PART_S
        return None if cells is None else (cells, [] if part.last else [More()])

    # As the one that is asked.

    def compared(self, asker: str, fingerprint: bytes, now: float) -> list[Message]:
        """A member compares its state with this one."""
        if fingerprint == self._hash.fingerprint():
            return []
        self._expire(now)
        if asker not in self._served and len(self._served) >= SERVED_MAX:
            return [Busy()]
        self._served[asker] = now + ANSWER_S
        return [Buckets(self._hash.buckets())]

    def asked(self, asker: str, versions: Versions, now: float) -> list[Message]:
        """A member tells where it stands; answer with what it lacks, and note what this replica lacks."""
        some = self._hash.portion(versions.buckets, comparison.ANSWERED_MAX)
        members, wanted = self._hash.members(some), frozenset(some)
        theirs = [version for version in versions.versions if comparison.bucket_of(version.owner) in wanted]
        claims, have, behind = comparison.difference(
            self._membership, self._held, members, theirs, accuser=self._detector.accuser, now=now
        )
        if behind:
            self.compare_with(asker, now)
        # Who has a set of a former epoch may hold the same keys, and need none of them: the head tells.
        former = [owner for owner, epoch, _ in have if epoch not in (BOTTOM, self._held.at(owner)[0])]
        heads = [head for owner in former if (head := self._held.head(owner)).base_hash][:HEADS_PER_MESSAGE_MAX]
        shown = {head.owner for head in heads}
        have = [entry for entry in have if entry[0] not in shown]
        return [*([Heads(tuple(heads))] if heads else []), *self._serve(asker, claims, have, now)]

    def pulled(self, asker: str, have: Sequence[Standing], now: float) -> list[Message]:
        """A member misses something of these owners; answer at once, or in parts if it is much."""
        answer = comparison.small_answer(self._held, have)
        return [answer] if answer else self._serve(asker, (), have, now)

    def more(self, asker: str, now: float) -> list[Message]:
        """The next part for a member."""
        outgoing = self._outgoing.get(asker)
        part = None if outgoing is None else outgoing.next()
        if part is None:
            return []
        self._served[asker] = now + PART_S
        if part.last:
            del self._served[asker], self._outgoing[asker]
        return [part]

    def forget(self, name: str) -> None:
        """This member is not known any more."""
        self._line.pop(name, None)
        self._asked.pop(name, None)
        self._served.pop(name, None)
        self._outgoing.pop(name, None)
        if self.incoming is not None and self.incoming.source == name:
            self.incoming.abandon()
            self.incoming = None

    def check(self) -> None:
        """Assert the limits."""
        assert len(self._asked) <= ASKED_MAX
        assert self._outgoing.keys() <= self._served.keys()
        assert len(self._served) <= SERVED_MAX
        assert len(self._line) <= LINE_MAX

    def _serve(self, asker: str, claims: Sequence[Claim], have: Sequence[Standing], now: float) -> list[Message]:
        """Begin to answer a member in parts."""
        self._expire(now)
        if asker not in self._served and len(self._served) >= SERVED_MAX:
            return [Busy()]
        self._outgoing[asker] = Outgoing(self._held, claims, have)
        return self.more(asker, now)

    def _expect(self, source: str, now: float, *, whole: bool = True) -> None:
        """Parts will come from this member, if none come from another now. `whole`: they are all that it has."""
        if self.incoming is None:
            self.incoming = Incoming(source, self._held, now + PART_S, whole=whole)

    def _choose(self) -> str | None:
        """A neighbour or any live member, in equal shares."""
        names = list(self._membership.linked) if self._rng.random() < 0.5 else self._membership.live()
        return self._rng.choice(names) if names else None

    def _expire(self, now: float) -> None:
        self._asked = {name: due for name, due in self._asked.items() if now < due}
        self._served = {name: due for name, due in self._served.items() if now < due}
        self._outgoing = {name: answer for name, answer in self._outgoing.items() if name in self._served}
        if self.incoming is not None and now >= self.incoming.expires:
            self.incoming.abandon()
            self.incoming = None
