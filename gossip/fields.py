"""The fields of message headers, out and in: records, epochs, versions, numbers and names as JSON values.

Reading raises only `DecodeError`, and what it lets in satisfies what the types of `gossip.membership` and
`gossip.messages` promise. Fields that are not known are ignored.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from gossip.errors import DecodeError
from gossip.membership import REFUTATION_MAX, SERVER_KEY_BYTES, Claim, Member, Status
from gossip.messages import VERSIONS_PER_MESSAGE_MAX, Version
from gossip.or_set import SEQUENCE_MAX, Epoch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gossip.messages import Standing

NAME_CHARACTERS_MAX: Final = 253
ATTRIBUTES_MAX: Final = 16
ATTRIBUTE_CHARACTERS_MAX: Final = 256
SERVER_KEY_CHARACTERS: Final = 44
"""A key's 32 bytes in base64."""
COUNTER_MAX: Final = 2**63 - 1
"""Of epochs. No member counts so far; where it is reached nonetheless, the nonce rises (`Encounters`)."""
U64_MAX: Final = 2**64 - 1
PROTOCOL_FIRST: Final = 1
"""A record that does not say otherwise speaks this protocol."""
PROTOCOL_MAX: Final = 2**16 - 1


# Out.


def epoch_out(epoch: Epoch) -> list[int]:
    """[counter, nonce]."""
    return [epoch.counter, epoch.nonce]


def member_out(member: Member) -> dict[str, Any]:
    """A record. What is as usual is left out."""
    out: dict[str, Any] = {
        "n": member.name,
        "e": epoch_out(member.epoch),
        "a": member.address,
        "p": [member.publish_port, member.router_port],
    }
    if member.zone:
        out["z"] = member.zone
    if member.attributes:
        out["x"] = dict(member.attributes)
    if member.server_key:
        out["k"] = base64.b64encode(member.server_key).decode()
    if member.protocol != PROTOCOL_FIRST:
        out["v"] = member.protocol
    if member.refutation:
        out["i"] = member.refutation
    if member.status:
        out["t"] = int(member.status)
    return out


def claims_out(claims: Iterable[Claim]) -> list[Any]:
    """For each claim its record, and the accuser if there is one."""
    return [[member_out(claim.member), *filter(None, [claim.accuser])] for claim in claims]


def standings_out(standings: Iterable[Standing]) -> list[Any]:
    """[owner, counter, nonce, version] each."""
    return [[owner, *epoch_out(epoch), version] for owner, epoch, version in standings]


def versions_out(versions: Iterable[Version]) -> list[Any]:
    """[owner, counter, nonce, version], and of the record [counter, nonce, refutation, status], or from it on only what
    differs from [the same counter, the same nonce, 0, 0]."""
    out = []
    for version in versions:
        entry = [version.owner, *epoch_out(version.epoch), version.version]
        epoch, refutation = version.life
        if (epoch, refutation, version.status) != (version.epoch, 0, Status.ALIVE):
            entry += [*epoch_out(epoch), refutation, int(version.status)]
        out.append(entry)
    return out


# In.


def listed(value: object, length: int) -> list[Any]:
    """An array of exactly so many."""
    if not isinstance(value, list) or len(value) != length:
        raise DecodeError(f"not an array of {length}")
    return value


def array(value: object, length_max: int) -> list[Any]:
    """An array of at most so many."""
    if not isinstance(value, list) or len(value) > length_max:
        raise DecodeError(f"not an array of at most {length_max}")
    return value


def integer(value: object, least: int, most: int) -> int:
    """A whole number within bounds."""
    if type(value) is not int or not least <= value <= most:
        raise DecodeError(f"not a whole number from {least} to {most}")
    return value


def text(value: object, characters_max: int) -> str:
    """Printable text."""
    if not isinstance(value, str) or len(value) > characters_max or not value.isprintable():
        raise DecodeError(f"not printable text of at most {characters_max} characters")
    return value


def name(value: object) -> str:
    """The name of a member, or an address."""
    found = text(value, NAME_CHARACTERS_MAX)
    if not found:
        raise DecodeError("an empty name")
    return found


def epoch(value: object, least: int = 1) -> Epoch:
    """An epoch; with `least` 0 also the one before all."""
    counter, nonce = listed(value, 2)
    return Epoch(integer(counter, least, COUNTER_MAX), integer(nonce, 0, U64_MAX))


def member(value: object) -> Member:
    """A record."""
    if not isinstance(value, dict):
        raise DecodeError("a member is an object")
    publish_port, router_port = (integer(port, 1, 65535) for port in listed(value.get("p"), 2))
    attributes = value.get("x", {})
    if not isinstance(attributes, dict) or len(attributes) > ATTRIBUTES_MAX:
        raise DecodeError(f"attributes are an object of at most {ATTRIBUTES_MAX} entries")
    return Member(
        name=name(value.get("n")),
        epoch=epoch(value.get("e")),
        address=name(value.get("a")),
        publish_port=publish_port,
        router_port=router_port,
        zone=text(value.get("z", ""), NAME_CHARACTERS_MAX),
        attributes={
            text(k, ATTRIBUTE_CHARACTERS_MAX): text(v, ATTRIBUTE_CHARACTERS_MAX) for k, v in attributes.items()
        },
        server_key=_server_key(value.get("k", "")),
        protocol=integer(value.get("v", PROTOCOL_FIRST), 1, PROTOCOL_MAX),
        refutation=integer(value.get("i", 0), 0, REFUTATION_MAX),
        status=_status(value.get("t", 0)),
    )


def claims(value: object, most: int) -> tuple[Claim, ...]:
    """Claims; only a suspicion has an accuser."""
    found = []
    for entry in array(value, most):
        record, *accuser = array(entry, 2) or [None]
        claim = Claim(member(record), name(accuser[0]) if accuser else "")
        if accuser and claim.member.status is not Status.SUSPECT:
            raise DecodeError("an accuser of one who is not suspected")
        found.append(claim)
    return tuple(found)


def standings(value: object) -> tuple[Standing, ...]:
    """Where the sender stands with some owners."""
    found = []
    for entry in array(value, VERSIONS_PER_MESSAGE_MAX):
        owner, counter, nonce, version = listed(entry, 4)
        found.append((name(owner), epoch([counter, nonce], 0), integer(version, 0, SEQUENCE_MAX)))
    return tuple(found)


def versions(value: object) -> tuple[Version, ...]:
    """The same with the record of each."""
    found = []
    for entry in array(value, VERSIONS_PER_MESSAGE_MAX):
        owner, *numbers = array(entry, 8) or [None]
        if len(numbers) == 3:
            numbers += [*numbers[:2], 0, 0]
        counter, nonce, version, life_counter, life_nonce, refutation, status = listed(numbers, 7)
        found.append(
            Version(
                name(owner),
                epoch([counter, nonce], 0),
                integer(version, 0, SEQUENCE_MAX),
                (epoch([life_counter, life_nonce]), integer(refutation, 0, REFUTATION_MAX)),
                _status(status),
            )
        )
    return tuple(found)


def _status(value: object) -> Status:
    return Status(integer(value, Status.ALIVE, Status.LEFT))


def _server_key(value: object) -> bytes:
    encoded = text(value, SERVER_KEY_CHARACTERS)
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise DecodeError("a key that is not base64") from error
    if len(key) not in (0, SERVER_KEY_BYTES):
        raise DecodeError(f"a key is of {SERVER_KEY_BYTES} bytes")
    return key
