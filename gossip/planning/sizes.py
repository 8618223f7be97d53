"""How large messages are: found by encoding an example of each with the product's codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gossip.codec import encode
from gossip.config import Config
from gossip.membership import Claim, Membership
from gossip.messages import (
    BUCKETS,
    FINGERPRINT_BYTES,
    Buckets,
    Compare,
    Deltas,
    Heartbeat,
    Members,
    Sender,
    Version,
    Versions,
)
from gossip.or_set import Epoch, Head, Interval

if TYPE_CHECKING:
    from gossip.messages import Message

KEY_BYTES = 33
EPOCH = Epoch(1, 2**63)
SEQUENCE = 10_000


class Sizes:
    """Bytes of the messages of a cluster whose nodes have names like that one, in such a zone."""

    def __init__(self, name: str, zone: str) -> None:
        self._sender = Sender(name, EPOCH, SEQUENCE)
        me = Membership(Config(name, zone=zone, advertise_address="10.10.10.10"), EPOCH).me
        delta = Interval(name, EPOCH, 20, 21, ((21, bytes(KEY_BYTES)),), ())
        version = Version(name, EPOCH, 20, me.life, me.status)
        self.heartbeat = self._of(Heartbeat(me, Head(name, EPOCH, 20, 2**63, 20, bytes(16))))
        self.compare = self._of(Compare(me, bytes(FINGERPRINT_BYTES)))
        self.buckets = self._of(Buckets((2**63,) * BUCKETS))
        self._deltas = self._of(Deltas(()))
        self._delta = self._of(Deltas((delta,))) - self._deltas
        self._members = self._of(Members(()))
        self._claim = self._of(Members((Claim(me, name),))) - self._members
        self._versions = self._of(Versions((), ()))
        self._version = self._of(Versions((), (version,))) - self._versions

    def news(self, additions: int, claims: int) -> int:
        """What is published at a time."""
        size = self._deltas + additions * self._delta if additions else 0
        return size + (self._members + claims * self._claim if claims else 0)

    def versions(self, members: float, buckets: float) -> int:
        """Where somebody stands with so many members, in so many buckets."""
        return round(self._versions + members * (self._version + 1) + 4 * buckets)

    def _of(self, message: Message) -> int:
        return sum(map(len, encode("skvaller", self._sender, message)))
