"""The authentication handler's answers to libzmq (ZeroMQ RFC 27)."""

from __future__ import annotations

import pytest
import zmq
from zmq.utils import z85

from gossip.zap import DOMAIN, answer

PUBLIC, _ = zmq.curve_keypair()
OTHER, _ = zmq.curve_keypair()


def request(*, domain: bytes = DOMAIN, mechanism: bytes = b"CURVE", credentials: tuple[bytes, ...]) -> list[bytes]:
    return [b"1.0", b"7", domain, b"192.0.2.1", b"", mechanism, *credentials]


def test_the_clusters_key_is_let_in() -> None:
    reply = answer(request(credentials=(z85.decode(PUBLIC),)), PUBLIC)
    assert reply == [b"1.0", b"7", b"200", b"OK", b"member", b""]


@pytest.mark.parametrize(
    "frames",
    [
        request(credentials=(z85.decode(OTHER),)),
        request(credentials=(b"",)),
        request(credentials=()),
        request(credentials=(z85.decode(PUBLIC), b"more")),
        request(mechanism=b"NULL", credentials=()),
        request(mechanism=b"PLAIN", credentials=(b"user", b"password")),
        request(domain=b"", credentials=(z85.decode(PUBLIC),)),
        [],
        [b"1.0"],
    ],
)
def test_everybody_else_is_refused(frames: list[bytes]) -> None:
    assert answer(frames, PUBLIC)[2] == b"400"
