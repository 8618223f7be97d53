"""Two nodes of one name on real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gossip import DuplicateNameError, Node
from tests.integration.gossip.nodes import WAIT_S, configs, until


async def test_of_two_nodes_of_one_name_one_stops_with_an_error_and_the_other_stays() -> None:
    seed, first, second = configs(3)
    second = replace(second, name=first.name)
    async with Node(seed) as node, Node(first) as one, Node(second) as other:
        runs = [asyncio.create_task(one.run()), asyncio.create_task(other.run())]
        done, pending = await asyncio.wait(runs, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        loser = one if runs[0] in done else other
        with pytest.raises(DuplicateNameError, match="node1"):
            await done.pop()
        assert loser._seeker is not None
        assert loser._seeker.done(), "it says nothing more, to seeds neither"
        await until(lambda: [member.name for member in node.members()] == ["node1"])
        [left] = pending
        assert not left.done()
        left.cancel()
