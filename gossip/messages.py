"""What members say to each other: the types. Their bytes are the business of `gossip.codec`.

Published to all who listen:

- `Heartbeat`: I am here, and this is where my set stands;
- `Deltas`: content; also the answer to a `Pull`;
- `Members`: records of members; also the answer to a `Join` and to a `Compare`.

Sent to one member:

- `Join`: let me in, and tell me who is there;
- `Pull`: give me what I miss of these owners, of which I saw a gap;
- `Compare`: is your state the same as mine?
- `Versions`: this is how far I have come. Who is ahead pushes what is missing; who is behind answers with its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gossip.membership import Member, Sighting
    from gossip.or_set import Delta, Epoch, Head

FINGERPRINT_BYTES: Final = 16

DELTAS_PER_MESSAGE_MAX: Final = 256
SIGHTINGS_PER_MESSAGE_MAX: Final = 256
VERSIONS_PER_MESSAGE_MAX: Final = 8192
"""What is more than these goes in several messages."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who says it: a name and its epoch. Published messages are numbered from 1, others have sequence 0."""

    name: str
    epoch: Epoch
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """Where somebody stands with an owner's set."""

    owner: str
    epoch: Epoch
    version: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender's own record, and the head of its own set."""

    member: Member
    head: Head


@dataclass(frozen=True, slots=True)
class Deltas:
    """Content of any owners."""

    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """Records of any members."""

    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """The sender's own record; answered by all records the receiver has, the joiner's former one among them."""

    member: Member


@dataclass(frozen=True, slots=True)
class Pull:
    """Where the sender stands with the owners it wants more of; answered by `Deltas`."""

    have: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The sender's own record, and the fingerprint of its whole state; answered only when it differs."""

    member: Member
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Versions:
    """Where the sender stands with each owner it tells others about, or with a part of them."""

    versions: tuple[Version, ...]


Message = Heartbeat | Deltas | Members | Join | Pull | Compare | Versions
