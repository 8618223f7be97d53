"""What a replica wants done. The driver does it in the order in which it is returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossip.membership import Member
    from gossip.messages import Message, Sender


@dataclass(frozen=True, slots=True)
class Publish:
    """To all who listen to this node."""

    sender: Sender
    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """To one member, at the address in its record."""

    sender: Sender
    to: Member
    message: Message


@dataclass(frozen=True, slots=True)
class Reply:
    """To whoever sent the message that was just received, the way it came."""

    sender: Sender
    message: Message


@dataclass(frozen=True, slots=True)
class Link:
    """Listen to what this member publishes; anew, when it was listened to before."""

    to: Member


@dataclass(frozen=True, slots=True)
class Unlink:
    """Stop listening to this member."""

    name: str


@dataclass(frozen=True, slots=True)
class SaveEpoch:
    """Store the epoch's counter durably before anything that follows is sent."""

    counter: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another node has this node's name, and runs. This one says nothing more; it is for a human to see to."""

    other: Member


Output = Publish | Send | Reply | Link | Unlink | SaveEpoch | Conflict
