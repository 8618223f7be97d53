"""What stands for the cluster where a test is of one node alone."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mirror.choice import Holder, Search
from mirror.herd import Claims, Herd, Pace
from mirror.herd.roster import Place, Roster
from mirror.herd.source import Givers, Index
from mirror.herd.words import Lead, write
from mirror.oci import Digest, Repository, Tag
from mirror.peer_mac import Target
from mirror.peers import Peers
from mirror.source import Content, FirstOf, Request, Source

ME = Target("me", "1.1")


class Listed:
    """An index of nothing but the holders that it is made with, whatever they hold; they are all the members."""

    def __init__(self, holders: Sequence[Holder] = ()) -> None:
        self.everything = list(holders)

    def me(self) -> Target:
        return ME

    def holders(self, digest: Digest) -> list[Holder]:
        return self.everything

    def member(self, name: str) -> Holder | None:
        return next((holder for holder in self.everything if holder.target.name == name), None)

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        return None


class _Itself:
    """The only coordinator there is; whoever asks it leads."""

    async def ask(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        return write(Lead())


class _Peers(FirstOf):
    def __init__(self, peers: Source) -> None:
        super().__init__([peers])

    async def open_from(self, holders: Sequence[Holder], request: Request, search: Search) -> Content:
        return await self.open(request)


async def nobody_says(registry: str, digest: Digest, relays: set[str]) -> tuple[set[str], bool]:
    """What a node hears that asks relays who gave an object, when there are none."""
    return set(), False


def lone_herd(peers: Source, upstream: Source, index: Index) -> Herd:
    """The herd of a node that has nobody to ask: it leads whatever is not given by `peers`."""
    claims = Claims(_Itself(), lambda: Roster(Place(ME.name, ""), ()))
    givers: Givers = peers if isinstance(peers, Peers) else _Peers(peers)
    return Herd(givers, upstream, index, claims, Pace(lambda _object, _position: 0.0, time.monotonic))
