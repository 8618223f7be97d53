"""Who may connect: the authentication handler that libzmq asks (ZAP, ZeroMQ RFC 27).

Without a handler a CURVE server accepts every client that knows its public key. This one lets in only clients that
prove to have a key pair of the cluster's own.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDPOINT: Final = "inproc://zeromq.zap.01"
DOMAIN: Final = b"gossip"
_VERSION: Final = b"1.0"


def answer(request: Sequence[bytes], public_keys: Sequence[bytes]) -> list[bytes]:
    """The reply to libzmq's request: 200 for a client whose public key is one of `public_keys` (32 bytes), else 400.

    A request is [version, request id, domain, address, identity, mechanism, credentials ...]; the credentials of
    CURVE are the client's public key in 32 raw bytes.
    """
    request_id = request[1] if len(request) > 1 else b""
    domain_and_mechanism = (*request[2:3], *request[5:6])
    credentials = request[6:]
    if (
        domain_and_mechanism == (DOMAIN, b"CURVE")
        and len(credentials) == 1
        and any(hmac.compare_digest(credentials[0], public_key) for public_key in public_keys)
    ):
        return [_VERSION, request_id, b"200", b"OK", b"member", b""]
    return [_VERSION, request_id, b"400", b"not a member", b"", b""]
