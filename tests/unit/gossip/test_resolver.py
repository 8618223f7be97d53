"""Looking up host names, also when no DNS server answers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gossip import resolver
from gossip.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A DNS server that does not answer until the event is set: the C library hangs."""
    answers = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        answers.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(resolver, "LOOK_UP_S_MAX", 0.05)
    yield answers
    answers.set()


async def test_a_name_and_an_address_are_looked_up() -> None:
    names = Resolver()
    assert "127.0.0.1" in await names.look_up("localhost")
    assert await names.look_up("::1") == ["::1"]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
async def test_what_has_no_address_is_an_error_of_the_system(host: str) -> None:
    with pytest.raises(OSError, match=r".+"):
        await Resolver().look_up(host)


async def test_a_look_up_that_hangs_takes_one_thread_however_often_it_is_tried(silence: threading.Event) -> None:
    names = Resolver()
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await names.look_up("seeds.example")
    assert threading.active_count() == before + 1
    assert await names.look_up("10.0.0.9") == ["10.0.0.9"]
    silence.set()
    async with asyncio.timeout(5):
        while threading.active_count() > before:
            await asyncio.sleep(0.01)
    assert await names.look_up("seeds.example") == ["10.0.0.1"]


def test_a_look_up_that_hangs_does_not_hold_up_the_end_of_the_loop(silence: threading.Event) -> None:
    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await Resolver().look_up("seeds.example")

    started = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - started < 5
    assert not silence.is_set()
