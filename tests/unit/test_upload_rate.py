"""What peers are given stays below the rate, and each of them gets its share."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import aiohttp
import pytest

from mirror.metrics import Metrics
from mirror.oci import Digest
from mirror.registry import create_registry
from mirror.stores.oci_layout import OciLayout
from mirror.upload_rate import ROUND_S, SAVED_S, TURN_BYTES_MAX, TURN_BYTES_MIN, Paced, UploadRate
from tests.serving import serving

MEGABYTE = 1_000_000
DATA = random.Random(4).randbytes(6 * MEGABYTE)
DIGEST = Digest.of(DATA)


def store(tmp_path: Path) -> OciLayout:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / DIGEST.hex).write_bytes(DATA)
    return OciLayout(tmp_path, 10 * MEGABYTE)


def url(base: str) -> str:
    return f"{base}/v2/lib/app/blobs/{DIGEST}?ns=registry.test"


def test_turns_follow_each_other_at_the_rate_and_little_is_saved() -> None:
    rate = UploadRate(1000)
    assert rate.book(500, now=100.0) == 0
    assert rate.book(500, now=100.0) == pytest.approx(0.5 - SAVED_S)
    assert rate.book(500, now=100.2) == pytest.approx(1.0 - SAVED_S - 0.2)
    assert rate.book(500, now=200.0) == 0
    assert rate.book(1, now=200.0) == pytest.approx(0.5 - SAVED_S)


@pytest.mark.parametrize("bytes_per_s", [1, 10**6, 10**8, 10**12])
def test_turns_are_so_small_that_each_has_one_in_every_round(bytes_per_s: int) -> None:
    rate = UploadRate(bytes_per_s)
    for rate.uploads in (1, 64, 1000):
        assert TURN_BYTES_MIN <= rate.turn_bytes <= TURN_BYTES_MAX
        assert rate.turn_bytes == TURN_BYTES_MIN or rate.turn_bytes * rate.uploads <= bytes_per_s * ROUND_S


async def test_several_uploads_together_keep_to_the_rate_and_share_it_evenly(tmp_path: Path) -> None:
    bytes_per_s = 12 * MEGABYTE
    rate = UploadRate(bytes_per_s)
    app = create_registry(Paced(store(tmp_path), rate), Metrics().face("peer"))
    ended = []

    async def fetch(session: aiohttp.ClientSession, base: str) -> bytes:
        async with session.get(url(base)) as response:
            data = await response.read()
        ended.append(time.monotonic())
        return data

    async with serving(app) as base, aiohttp.ClientSession() as session:
        began = time.monotonic()
        got = await asyncio.gather(*(fetch(session, base) for _ in range(4)))
    assert got == [DATA] * 4
    least_s = 4 * len(DATA) / bytes_per_s
    assert ended[-1] - began >= least_s - SAVED_S - 4 * rate.turn_bytes / bytes_per_s
    assert ended[0] - began >= 0.6 * (ended[-1] - began)  # one after the other, the first would end at 0.25
    assert rate.uploads == 0


async def test_the_bytes_of_a_part_are_the_same_in_turns(tmp_path: Path) -> None:
    rate = UploadRate(50 * MEGABYTE)
    app = create_registry(Paced(store(tmp_path), rate), Metrics().face("peer"))
    headers = {"Range": "bytes=1000-1500000"}
    async with serving(app) as base, aiohttp.ClientSession() as session:
        async with session.get(url(base), headers=headers) as response:
            assert response.status == 206
            assert await response.read() == DATA[1000:1500001]


async def test_a_peer_that_leaves_gives_its_share_back(tmp_path: Path) -> None:
    rate = UploadRate(MEGABYTE)
    app = create_registry(Paced(store(tmp_path), rate), Metrics().face("peer"))
    async with serving(app) as base:
        async with aiohttp.ClientSession() as session, session.get(url(base)) as response:
            await response.content.read(1)
            assert rate.uploads == 1
        async with asyncio.timeout(10):
            while rate.uploads:
                await asyncio.sleep(0.02)
