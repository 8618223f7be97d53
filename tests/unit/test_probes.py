"""What those who look after an agent are told by its client face."""

from __future__ import annotations

import aiohttp
from starlette.applications import Starlette

from mirror.app import probe_routes
from tests.serving import serving


async def test_an_agent_is_ready_until_it_stops_and_live_until_it_ends() -> None:
    stopping = False
    async with serving(Starlette(routes=probe_routes(lambda: stopping))) as url, aiohttp.ClientSession(url) as session:

        async def probe(page: str) -> tuple[int, str]:
            async with session.get(page) as response:
                return response.status, await response.text()

        assert [await probe("/livez"), await probe("/readyz")] == [(200, "ok\n")] * 2
        stopping = True
        assert [await probe("/livez"), await probe("/readyz")] == [(200, "ok\n"), (503, "stopping\n")]
