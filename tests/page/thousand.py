"""A simulated cluster of many nodes behind the real local API: members and content as a replica learns them.

`python -m tests.page.thousand` serves it, to look at.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gossip import Config, Member, Node, Status
from gossip.or_set import Epoch, Snapshot
from mirror.cluster import Cluster
from mirror.elements import TagElement, Word, content_key, group_of, tag_group
from mirror.feed import Feed
from mirror.journal import Journal
from mirror.local_api import PREFIX, create_local_api
from mirror.metrics import Metrics
from mirror.oci import Digest, Repository, Tag
from mirror.page import PAGE_PREFIX, create_page
from mirror.registry import create_registry
from mirror.settings import load
from mirror.single_flight import Transfers
from mirror.source import FirstOf
from mirror.spool import Spool
from mirror.stores.oci_layout import OciLayout
from mirror.views import Views
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
IMAGES = ("nginx:1.27", "redis:7.4", "postgres:17", "python:3.12", "busybox:1.37", "golang:1.25")
EPOCH = Epoch(1, 1)


def simulated_node(members: int) -> Node:
    """A node that learned of so many others, some of which are not well, and of the images that they have."""
    rng = random.Random(1)
    node = Node(Config(name="node-0000", zone=ZONES[0]), group_of=group_of)
    replica = node._replica
    for number in range(1, members):
        name, zone = f"node-{number:04}", ZONES[number % len(ZONES)]
        fate = rng.choices((Status.ALIVE, Status.SUSPECT, Status.DOWN, Status.LEFT), (970, 10, 15, 5))[0]
        member = Member(name, EPOCH, f"10.0.{number // 256}.{number % 256}", 29992, 29993, zone)
        replica.membership.learn(member, 0.0)
        images = [image for place, image in enumerate(IMAGES) if rng.random() < 0.9 / (place + 1)]
        keys = sorted(key for image in images for key in image_keys(image))
        replica.set.apply(Snapshot(name, EPOCH, len(keys), tuple(enumerate(keys, 1))))
        if fate is not Status.ALIVE:
            replica.membership.learn(replace(member, status=fate), 0.0)
        replica.lookup.outdated(name)
    for key in image_keys(IMAGES[0]):
        node.add(key)
    return node


def image_keys(image: str) -> list[bytes]:
    """The elements of a node that has an image: its tag and some objects."""
    name, _, tag = image.partition(":")
    group = tag_group(Repository.parse("docker.io", f"library/{name}"), Tag.parse(tag))
    objects = [Digest.of(f"{image} {number}".encode()) for number in range(9)]
    return [TagElement(Word.STORED, int(time.time()), objects[0], group).key, *map(content_key, objects)]


def simulated_agent(directory: Path, members: int) -> ASGIApp:
    """The client face of that node, with its page."""
    node = simulated_node(members)
    settings = load({"name": node.me.name, "zone": ZONES[0], "layout_dir": str(directory)}, {}, None)
    metrics, journal = Metrics(ZONES[0]), Journal()
    transfers = Transfers(Spool(directory, 0), OciLayout(directory, 10**6), lambda _digest, _givers, _relays: None)
    views = Views(node, Cluster(node), settings, metrics, journal, transfers, lambda: None, time.monotonic())
    app = create_registry(FirstOf([]), journal.face("client", metrics.face("client")))
    app.mount(PREFIX, create_local_api(views.answers(), Feed(views, lambda: False)))
    app.mount(PAGE_PREFIX, create_page())
    return app


@asynccontextmanager
async def thousand(directory: Path, members: int = 1000) -> AsyncIterator[str]:
    """Serve it; gives its URL."""
    async with serving(simulated_agent(directory, members)) as url:
        yield url


async def main() -> None:
    """Serve it until the process is ended."""
    with tempfile.TemporaryDirectory() as directory:
        async with thousand(Path(directory)) as url:
            sys.stdout.write(f"{url}/-/\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
