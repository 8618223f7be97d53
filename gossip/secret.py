"""The cluster secret, and the keys that are derived from it.

Who holds the secret is a member, and is trusted as one; there is no other identity. The CURVE key pair of the gossip
sockets comes from it here, other keys (the mirror's peer requests) through `ClusterSecret.derive_all`.

**The file.** A text file holds one secret in each line, the current one first, then those that were current before; 32
bytes or more of any text, as `openssl rand -base64 32` prints them. White space around them and empty lines do not
count. A file that is not text (ASCII) is one secret, taken as it is; in a list it is written `base64:` and its bytes
in base64.

**Rotation.** All secrets of the file are let in; what this node itself listens with is made from the current one, which
its record tells the others. So a cluster changes to a new secret without a pause: write it above the old one and
restart the nodes one after another; when all have it, delete the old line and restart them once more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

import zmq
import zmq.utils.z85

from gossip.errors import ConfigError
from gossip.membership import SERVER_KEY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES_MIN: Final = 32
SECRET_BYTES_MAX: Final = 4096
SECRETS_MAX: Final = 4
"""The current one and those before it: each costs every peer request and every connection a comparison."""

FILE_BYTES_MAX: Final = 2 * SECRETS_MAX * SECRET_BYTES_MAX
"""More than this is not read; a file that is cut there has a line that is too long, or one too many."""

_BASE64: Final = b"base64:"
_HASH_BYTES: Final = 32
_SALT: Final = b"skvaller cluster secret"


class CurveKeys(NamedTuple):
    """A CURVE key pair; 32 raw bytes each."""

    public: bytes
    private: bytes


class ClusterSecret:
    """At least 32 random bytes, and those that were the secret before. They never show in a representation."""

    def __init__(self, current: bytes, *previous: bytes) -> None:
        self._materials = (current, *previous)
        for material in self._materials:
            if not SECRET_BYTES_MIN <= len(material) <= SECRET_BYTES_MAX:
                allowed = f"{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes"
                raise ConfigError("secret", f"{len(material)} bytes", allowed)
        if len(self._materials) > SECRETS_MAX:
            raise ConfigError(
                "secret", f"{len(self._materials)} lines", f"at most {SECRETS_MAX}, the current one first"
            )

    @classmethod
    def from_file(cls, path: Path) -> ClusterSecret:
        """Read the file described above; raises `ConfigError`."""
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError("secret", f"{path} ({reason})", "a file that can be read") from error
        if not content.isascii():
            return cls(content)
        lines = [line.strip() for line in content.split(b"\n")]
        return cls(*([_material(line) for line in lines if line] or [b""]))

    def derive_all(self, label: bytes, length: int = 32) -> list[bytes]:
        """A key of `length` bytes for the use that `label` names, from each secret, the current one first.

        Keys of different labels are independent.
        """
        return [hkdf(material, _SALT, label, length) for material in self._materials]

    def curve_keys(self) -> list[CurveKeys]:
        """The CURVE key pair that each secret means, the current one first."""
        return [_pair(private) for private in self.derive_all(b"gossip curve", SERVER_KEY_BYTES)]


def _material(line: bytes) -> bytes:
    if not line.startswith(_BASE64):
        return line
    try:
        return base64.b64decode(line.removeprefix(_BASE64), validate=True)
    except ValueError as error:
        raise ConfigError("secret", "a line that is not base64", f"base64 after {_BASE64.decode()}") from error


def _pair(private: bytes) -> CurveKeys:
    public = zmq.curve_public(zmq.utils.z85.encode(private))
    return CurveKeys(zmq.utils.z85.decode(public), private)


def hkdf(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): extract a key from `material`, expand it to `length` bytes for the use `info` names."""
    assert 0 < length <= 255 * _HASH_BYTES
    key = hmac.digest(salt or bytes(_HASH_BYTES), material, hashlib.sha256)
    output = block = b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:length]
