"""A real Prometheus scrapes three real agents that pull: every query of the dashboard and every rule works on that."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from mirror.demo.client import pull
from mirror.demo.scene import REPOSITORY, TAG, DemoRegistry, build_demo_image, running_agents
from tests.lab.requirements import require
from tests.observability.dashboard import FILE
from tests.observability.test_rules import RULES
from tests.serving import HOST, free_port
from tests.unwatched import Unwatched

NODES = ("node-a", "node-b", "node-c")
PULLS = 3
"""By each node: its store answers from the second on, and no rate is seen before something is counted twice."""
PATIENCE_S = 60.0
HOW = {"$__rate_interval": "30s", "$__range": "5m", "$instance": ".*"}
"""What Grafana puts in the place of its variables."""
QUIET = ("resumes", "corrupt", "refused_requests", "incomplete")
"""What has no series in a cluster that is well: their labels come with what they count."""


class Prometheus:
    """A Prometheus that scrapes some agents once a second."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """What its API answers."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=query) as response:
            answer = await response.json()
            assert answer["status"] == "success", answer
            return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        return list((await self.get("query", query=expression))["result"])


@asynccontextmanager
async def prometheus(directory: Path, targets: list[str]) -> AsyncGenerator[Prometheus]:
    require("prometheus")
    scrape = {"job_name": "skvaller", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
    file, port = directory / "prometheus.json", free_port()
    file.write_text(
        json.dumps({"global": {"evaluation_interval": "1s"}, "rule_files": [str(RULES)], "scrape_configs": [scrape]})
    )
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        *(f"--config.file={file}", f"--web.listen-address={HOST}:{port}", f"--storage.tsdb.path={directory / 'data'}"),
        env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://{HOST}:{port}", session)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_every_query_and_every_rule_works_on_what_agents_tell(tmp_path: Path) -> None:
    await asyncio.to_thread(build_demo_image, tmp_path / "registry")
    async with DemoRegistry(tmp_path / "registry") as registry, running_agents(NODES, tmp_path, registry.url) as agents:
        targets = [agent.metrics_url.removeprefix("http://") for agent in agents]
        async with prometheus(tmp_path, targets) as server, asyncio.timeout(PATIENCE_S):
            await _until_scraped(server)
            for _ in range(PULLS):
                for agent in agents:
                    await pull(agent.url, REPOSITORY, TAG, Unwatched())
                await asyncio.sleep(2)
            await _check_queries(server)
            await _check_rules(server)
            (given,) = await server.query('sum(skvaller_content_bytes_total{face="client"})')
            (fetched,) = await server.query("sum(skvaller_upstream_bytes_total)")
    assert float(given["value"][1]) == PULLS * len(NODES) * float(fetched["value"][1]), "once from the registry"


async def _until_scraped(server: Prometheus) -> None:
    while True:
        with suppress(aiohttp.ClientError):
            if len(await server.query("skvaller_build_info")) == len(NODES):
                return
        await asyncio.sleep(0.2)


async def _check_queries(server: Prometheus) -> None:
    for panel in json.loads(FILE.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in HOW.items():
                query = query.replace(name, value)
            samples = [sample for sample in await server.query(query) if sample["value"][1] != "NaN"]
            assert samples or any(word in query for word in QUIET), f"{panel['title']} shows nothing: {query}"


async def _check_rules(server: Prometheus) -> None:
    rules = [rule for group in (await server.get("rules"))["groups"] for rule in group["rules"]]
    assert len(rules) == RULES.read_text().count("- alert:")
    assert {rule["health"] for rule in rules} == {"ok"}, [rule["lastError"] for rule in rules if "lastError" in rule]
    assert {rule["state"] for rule in rules} == {"inactive"}, "nothing is wrong here"
