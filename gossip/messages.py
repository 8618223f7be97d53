"""What members say to each other: the types. Their bytes are the business of `gossip.codec`.

Published to all who listen:

- `Heartbeat`: I am here, and this is where my set stands;
- `Members`: records of members, which each receiver passes on if they are news to it; also sent to one;
- `Heads`: where sets stand, for content too large to publish, and for restarts that change none;
- `Deltas`: content; also the answer to a `Pull`.

Sent to one member, about who is there:

- `Join`: let me in, and tell me who is there; answered by `Members`;
- `Ping`: are you there? Answered by `Ack`;
- `PingRequest`: ask that one for me. Answered by the `Ack` of that one, or by `Nack`.

Sent to one member, about the state of both (`gossip.comparison`):

- `Compare`: is your state the same as mine? Answered by `Buckets` when it is not, or by `Busy`;
- `Buckets`: hashes of my state in parts;
- `Versions`: how far I have come in these parts; answered by `Part`s of what I miss;
- `Pull`: give me what I miss of these owners, of which I saw a gap; answered by `Deltas`, or by `Part`s of much;
- `More`: the last `Part` arrived; send another one.

Sent to one member, of no meaning to gossip itself:

- `Question`: from the application there to the application here; answered by `Answer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gossip.membership import PROTOCOL, Status

if TYPE_CHECKING:
    from gossip.membership import Claim, Member
    from gossip.or_set import Delta, Epoch, Head

FINGERPRINT_BYTES: Final = 16
BUCKETS: Final = 256
BUCKET_BYTES: Final = 8
QUESTION_BYTES_MAX: Final = 128 * 1024
"""What an application may ask or answer at once."""

DELTAS_PER_MESSAGE_MAX: Final = 256
HEADS_PER_MESSAGE_MAX: Final = 256
CLAIMS_PER_MESSAGE_MAX: Final = 128
VERSIONS_PER_MESSAGE_MAX: Final = 16_384
"""What is more than these goes in several messages; of versions there are never more, see `MEMBERS_MAX`."""
PIECES_PER_PART_MAX: Final = 256
PAIRS_PER_PART_MAX: Final = 256
"""More than this does not come at a time; less is sent (`gossip.transfer.PART_WORK_MAX`)."""


Standing = tuple[str, "Epoch", int]
"""How far somebody has come with an owner's set: the owner, the epoch, the version."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says it: a name, its epoch, and the protocol in which it is said.

    Published messages are numbered from 1, others have sequence 0.
    """

    name: str
    epoch: Epoch
    sequence: int = 0
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Version:
    """Where somebody stands with an owner's set, and which record of the owner it has."""

    owner: str
    epoch: Epoch
    version: int
    life: tuple[Epoch, int]
    status: Status


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender's own record, and the head of its own set."""

    member: Member
    head: Head


@dataclass(frozen=True, slots=True)
class Members:
    """Records of any members."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Heads:
    """Where the sets of any owners stand; the sender has come as far."""

    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class Deltas:
    """Content of any owners."""

    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """The sender's own record; answered by some of the records that the receiver has of others, or by one of the sender
    itself when that is of a higher epoch."""

    member: Member


@dataclass(frozen=True, slots=True)
class Ping:
    """The sender's own record, and a number of its choice."""

    member: Member
    number: int


@dataclass(frozen=True, slots=True)
class PingRequest:
    """The sender's own record, a number of its choice, and whom to ping."""

    member: Member
    number: int
    target: Member


@dataclass(frozen=True, slots=True)
class Ack:
    """The record of the member that was pinged, in its own words, and the number of the ping or of the request."""

    member: Member
    number: int


@dataclass(frozen=True, slots=True)
class Nack:
    """The sender is there, but has not heard of the target of that request so far."""

    number: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Where the sender stands with the owners it wants more of."""

    have: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The sender's own record, and the fingerprint of its whole state."""

    member: Member
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Buckets:
    """A hash for each of the `BUCKETS` parts of the sender's state."""

    hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Busy:
    """Too many compare with the sender already."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Where the sender stands with each owner in these buckets. Owners it does not name it does not know."""

    buckets: tuple[int, ...]
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an owner's snapshot: its next elements, each a sequence number and the number of its key.

    `last` says that the snapshot is complete with it.
    """

    owner: str
    epoch: Epoch
    version: int
    last: bool
    sequences: tuple[int, ...]
    references: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of all that the receiver misses; `last` says that nothing follows.

    Parts are numbered from 1. Keys are numbered from 0 through all parts of one answer, in the order in which they
    first appear, and `keys` are those that appear for the first time.
    """

    number: int
    last: bool
    claims: tuple[Claim, ...] = ()
    deltas: tuple[Delta, ...] = ()
    keys: tuple[bytes, ...] = ()
    pieces: tuple[Piece, ...] = ()

    @property
    def substantial(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.claims or self.deltas or self.pieces)


@dataclass(frozen=True, slots=True)
class More:
    """The sender has room for one more `Part`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the sender's application asks, and a number of its choice."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver's application says to the question of that number."""

    number: int
    payload: bytes


Message = (
    Heartbeat
    | Members
    | Heads
    | Deltas
    | Join
    | Ping
    | PingRequest
    | Ack
    | Nack
    | Compare
    | Buckets
    | Busy
    | Versions
    | Pull
    | Part
    | More
    | Question
    | Answer
)
