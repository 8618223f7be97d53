"""A machine of the lab on which a bad server runs (`tests.integration.bad_server`), and what a test tells it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.integration.agents import ROOT, SECRET, eventually
from tests.integration.bad_server import PORT, Order, asked_file

if TYPE_CHECKING:
    from mirror.oci import Digest
    from tests.lab import Image, Node, Registry

READY_TIMEOUT_S = 20.0


class BadMachine:
    """Stands before `registry`; with a seed of the cluster, among its members. `process` is its server's."""

    def __init__(self, node: Node, registry: Registry, *seeds: str) -> None:
        self.url = f"http://{node.address}:{PORT}"
        self.asked_file = asked_file(node.directory)
        """Grows by a line with each object that is to be spoiled and was asked for."""
        self._address = node.address
        self._directory = node.directory
        self._order = Order()
        (node.directory / "secret").write_bytes(SECRET)
        program = [sys.executable, "-m", "tests.integration.bad_server"]
        self.process = node.process(
            "bad server", [*program, node.address, registry.url, node.directory, *seeds], {"PYTHONPATH": str(ROOT)}
        )

    async def start(self) -> None:
        """Start its server (again), well-behaved; returns when that answers."""
        self.heal()
        await self.process.start()
        await eventually(self._answers, READY_TIMEOUT_S)

    @property
    def asked(self) -> list[str]:
        """What was asked for of what is to be spoiled, since it is."""
        return self.asked_file.read_text().split()

    def spoil(self, image: Image, fault: str, *digests: Digest) -> None:
        """From now on do this to these objects of the image (by default its layers), and to no others."""
        spoiled = tuple(str(digest) for digest in digests or image.layers())
        self._give(replace(self._order, fault=fault, layout=str(image.layout), spoiled=spoiled))
        self.asked_file.write_text("")

    def claim(self, *digests: Digest) -> None:
        """Say that it has these, and nothing else."""
        self._give(replace(self._order, claimed=tuple(str(digest) for digest in digests)))

    def heal(self) -> None:
        """From now on answer well, and claim nothing."""
        self._give(Order())

    def _give(self, order: Order) -> None:
        self._order = order
        order.write(self._directory)

    async def _answers(self) -> bool:
        assert self.process.running, self.process.log()
        try:
            _, writer = await asyncio.open_connection(self._address, PORT)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
