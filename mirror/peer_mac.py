"""The peers' door: each request carries a MAC that only a holder of the cluster secret can make.

It covers the member that is asked and its epoch (so it is worth nothing at another node, nor after a restart), the
method, the whole path with its query, and the Range. Content itself is not secret to members; what the MAC keeps out
are strangers who reach the port.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

HEADER: Final = "Skvaller-Mac"
KEY_LABEL: Final = b"skvaller peer request"
"""Names the use of the key that is derived from the cluster secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """The member that a request is meant for: its name and its epoch."""

    name: str
    epoch: str


@dataclass(frozen=True, slots=True)
class PeerMac:
    """Makes and checks the MACs of peer requests. `key` is at least 32 bytes."""

    key: bytes

    def sign(self, target: Target, method: str, path: str, byte_range: str) -> str:
        """The header's value: HMAC-SHA256 in lower-case hexadecimal."""
        fields = (target.name, target.epoch, method, path, byte_range)
        # Each field is preceded by its length, so that no two lists of fields read alike.
        message = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (text.encode() for text in fields))
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()

    def verify(self, value: str, target: Target, method: str, path: str, byte_range: str) -> bool:
        """Whether `value` is the MAC of this request; takes the same time either way."""
        return hmac.compare_digest(value.encode(), self.sign(target, method, path, byte_range).encode())
