"""The peers' door: each request carries a MAC that only a holder of the cluster secret can make.

While the cluster changes its secret, nodes list several: a request carries a MAC by each secret of the one who asks,
and one that the other side can make as well is enough.

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
"""Names the use of the keys that are derived from the cluster's secrets."""
KEYS_MAX: Final = 4
"""As many secrets as a cluster lists at most; more MACs in a header are not looked at."""


@dataclass(frozen=True, slots=True)
class Target:
    """The member that a request is meant for: its name and its epoch."""

    name: str
    epoch: str


class PeerMac:
    """Makes and checks the MACs of peer requests. `keys` are at least 32 bytes each, the current one first."""

    def __init__(self, *keys: bytes) -> None:
        assert 0 < len(keys) <= KEYS_MAX
        self._keys = keys

    def sign(self, target: Target, method: str, path: str, byte_range: str) -> str:
        """The header's value: for each key HMAC-SHA256 in lower-case hexadecimal, separated by commas."""
        return ",".join(self._macs(target, method, path, byte_range))

    def verify(self, value: str, target: Target, method: str, path: str, byte_range: str) -> bool:
        """Whether one of the MACs in `value` is one of this request; the time it takes tells nothing of them."""
        shown = [mac.encode() for mac in value.split(",", KEYS_MAX)[:KEYS_MAX]]
        expected = [mac.encode() for mac in self._macs(target, method, path, byte_range)]
        return any(hmac.compare_digest(one, other) for one in shown for other in expected)

    def _macs(self, target: Target, method: str, path: str, byte_range: str) -> list[str]:
        fields = (target.name, target.epoch, method, path, byte_range)
        # Each field is preceded by its length, so that no two lists of fields read alike.
        message = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (text.encode() for text in fields))
        return [hmac.new(key, message, hashlib.sha256).hexdigest() for key in self._keys]
