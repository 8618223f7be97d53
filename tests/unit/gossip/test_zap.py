"""The authentication handler's answers to libzmq (ZeroMQ RFC 27)."""

from __future__ import annotations

import pytest
import zmq
from zmq.utils import z85

from gossip.zap import DOMAIN, answer

CURRENT, PREVIOUS, OTHER = (z85.decode(zmq.curve_keypair()[0]) for _ in range(3))
ALLOWED = [CURRENT, PREVIOUS]


def request(*, domain: bytes = DOMAIN, mechanism: bytes = b"CURVE", credentials: tuple[bytes, ...]) -> list[bytes]:
    return [b"1.0", b"7", domain, b"192.0.2.1", b"", mechanism, *credentials]


@pytest.mark.parametrize("key", ALLOWED, ids=["current", "previous"])
def test_the_clusters_keys_are_let_in(key: bytes) -> None:
    assert answer(request(credentials=(key,)), ALLOWED) == [b"1.0", b"7", b"200", b"OK", b"member", b""]


@pytest.mark.parametrize(
    "frames",
    [
        request(credentials=(OTHER,)),
        request(credentials=(b"",)),
        request(credentials=()),
        request(credentials=(CURRENT, b"more")),
        request(mechanism=b"NULL", credentials=()),
        request(mechanism=b"PLAIN", credentials=(b"user", b"password")),
        request(domain=b"", credentials=(CURRENT,)),
        [],
        [b"1.0"],
    ],
)
def test_everybody_else_is_refused(frames: list[bytes]) -> None:
    assert answer(frames, ALLOWED)[2] == b"400"
