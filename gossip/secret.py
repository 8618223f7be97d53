"""The cluster secret, and the keys that are derived from it.

Who holds the secret is a member, and is trusted as one; there is no other identity. The CURVE key pair of the gossip
sockets comes from it here, other keys (the mirror's peer requests) through `ClusterSecret.derive`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

import zmq
import zmq.utils.z85

from gossip.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES_MIN: Final = 32
SECRET_BYTES_MAX: Final = 4096
CURVE_KEY_BYTES: Final = 32
_HASH_BYTES: Final = 32
_SALT: Final = b"skvaller cluster secret"


class ClusterSecret:
    """At least 32 random bytes. They never show in a representation."""

    def __init__(self, material: bytes) -> None:
        if not SECRET_BYTES_MIN <= len(material) <= SECRET_BYTES_MAX:
            allowed = f"{SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes"
            raise ConfigError("secret", f"{len(material)} bytes", allowed)
        self._material = material

    @classmethod
    def from_file(cls, path: Path) -> ClusterSecret:
        """Read the secret: the whole file. Around text, white space does not count: an editor's newline is harmless."""
        try:
            with path.open("rb") as file:
                material = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError("secret", f"{path} ({reason})", "a file that can be read") from error
        return cls(material.strip() if material.isascii() else material)

    def derive(self, label: bytes, length: int = 32) -> bytes:
        """A key of `length` bytes for the use that `label` names; keys of different labels are independent."""
        return hkdf(self._material, _SALT, label, length)

    def curve_keys(self) -> tuple[bytes, bytes]:
        """The public and the secret CURVE key of the cluster, in Z85."""
        secret = zmq.utils.z85.encode(self.derive(b"gossip curve", CURVE_KEY_BYTES))
        return zmq.curve_public(secret), secret


def hkdf(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): extract a key from `material`, expand it to `length` bytes for the use `info` names."""
    assert 0 < length <= 255 * _HASH_BYTES
    key = hmac.digest(salt or bytes(_HASH_BYTES), material, hashlib.sha256)
    output = block = b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:length]
