"""The OCI distribution specification's own conformance suite, against agents: `python -m tests.conformance.oci`.

An agent is read-only, so the suite is told what there is (`OCI_RO_DATA_*`) and pulls and lists it: through agents whose
store is an image layout or a real containerd and has it, through agents whose store stays empty and that take all from
the registry or from their peers, and once the registry has been stopped. It runs twice on each, as podman asks and as
containerd does: with the registry in the path, and with `ns` (see `naming`). What each run gave is counted, and must
have come from where it says. In this mode the suite looks at statuses, headers and lists; that the bytes are right is
for `test_registry`.

Suite, registry and containerd are Go programs from the module proxy, built once and kept in the user's cache directory.
Needs root and the lab's tools.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from mirror.oci import Repository
from tests.conformance.oci.naming import LOOPBACK, REGISTRY
from tests.conformance.oci.published import Published, published
from tests.integration.agents import CLIENT_PORT, ROOT, ROUTER_PORT, Agent, eventually, tag_pages
from tests.lab import Lab, fetch_containerd, olareg
from tests.lab.cache import FetchError, cached, go_install
from tests.lab.lab import FIRST_PORT
from tests.lab.process import within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab import Node

SUITE: Final = "github.com/opencontainers/distribution-spec/conformance"
REPOSITORY: Final = Repository.parse("registry.test", "lib/app")
TAGS: Final = ("v1", "v2", "v3", "v4")
SPREAD_TIMEOUT_S: Final = 20.0
SUITE_TIMEOUT_S: Final = 120.0

NAMING: Final = (sys.executable, "-m", "tests.conformance.oci.naming", REPOSITORY.registry)
FORMS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "by path": ((), str(REPOSITORY)),
    "with ns": (NAMING, REPOSITORY.name),
}
"""How the registry is named: what runs the suite, and the repository that it is told."""

UNKNOWN_WITHOUT_A_REGISTRY: Final = frozenset(
    {"empty/referrers", "missing-manifest/by-digest", "missing-manifest/by-tag"}
)
"""These ask for what does not exist. While the registry is away an agent does not know that, and answers 503."""
UNKNOWN_TO_AN_EMPTY_STORE: Final = frozenset({"read-only/referrers"})
"""While the registry is away, an agent's own store says what refers to something."""

_RESULT = re.compile(r"^( *)OCI Conformance Test/(.+): (Pass|Skip|Disabled|FAIL|Error)$", re.MULTILINE)
_GIVEN = re.compile(r'^skvaller_content_bytes_total\{face="client",.*source="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """An agent to run the suite on, where what it gives may come from, and the tests that fail as they should."""

    title: str
    agent: Agent
    sources: frozenset[str]
    failing: frozenset[str] = frozenset()


async def main() -> int:
    """Build, run and report; returns the exit code: 0 when nothing failed."""
    try:
        program = cached("oci-conformance", lambda work: go_install(work / "bin", f"{SUITE}@latest")) / "conformance"
        registry = olareg.build()
        containerd = fetch_containerd.fetch(fetch_containerd.NEWEST)
    except FetchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.environ["PATH"] = f"{containerd}{os.pathsep}{os.environ['PATH']}"
    sys.stdout.write(f"containerd {fetch_containerd.version()}\n")
    things, tagged = published()
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        lab = await stack.enter_async_context(Lab.open())
        upstream = await stack.enter_async_context(AsyncExitStack())
        url = await upstream.enter_async_context(olareg.running(registry, lab.gateway, FIRST_PORT, work / "olareg.log"))
        tags = dict.fromkeys(TAGS, things.manifests[tagged])
        named = {str(digest): manifest for digest, manifest in things.manifests.items()}
        await olareg.push(f"{url}/v2/{REPOSITORY.name}", things.blobs, named | tags)
        suite = Suite(program, things, work)
        agents = await _start_agents(lab, url)
        passed = await _all_pass(suite, agents, url, upstream)
    sys.stdout.write("left out of each run, as an agent takes no pushes and deletes nothing:\n")
    sys.stdout.writelines(f"  {name} (x{number})\n" for name, number in suite.left_out.items())
    return 0 if passed else 1


@dataclass(frozen=True, slots=True)
class Agents:
    """Of four nodes; a layout that may keep nothing stays empty, as does a containerd that pulls nothing."""

    layout: Agent
    empty_layout: Agent
    containerd: Agent
    empty_containerd: Agent


async def _start_agents(lab: Lab, url: str) -> Agents:
    nodes = [*await lab.add_machines(2), *await lab.add_nodes(2)]
    seeds = f"{nodes[0].address}:{ROUTER_PORT}"
    agents = []
    for node, layout_bytes_max in zip(nodes, (10**9, 0, None, None), strict=True):
        extra = ["--registries", f"{REPOSITORY.registry}={url}"]
        if layout_bytes_max is not None:
            extra += ["--store", "oci-layout", "--layout-dir", str(node.directory / "layout")]
            extra += ["--layout-bytes-max", str(layout_bytes_max)]
        agents.append(Agent(node, seeds, (), extra))
    await asyncio.gather(*(agent.start() for agent in agents))

    async def met() -> bool:
        return {await agent.metric("skvaller_gossip_members_normal") for agent in agents} == {len(agents) - 1}

    await eventually(met, SPREAD_TIMEOUT_S)
    return Agents(*agents)


async def _all_pass(suite: Suite, agents: Agents, url: str, upstream: AsyncExitStack) -> bool:
    # What a transfer brought is kept for some seconds, for who asks next: here, or on a node that asks here.
    from_registry = frozenset({"upstream", "in_flight", "peer_in_flight"})
    from_store, from_peers = frozenset({"store"}), frozenset({"peer", "in_flight"})
    passed = [
        await suite.passes(run)
        for run in (
            Run("empty containerd, from the registry", agents.empty_containerd, from_registry),
            Run("layout that keeps what passes", agents.layout, from_registry | from_store),
        )
    ]
    passed.append(await _pages_follow(agents.layout.node))
    await _pull_all(agents.containerd.node, url, suite.things)
    await _known_everywhere(agents, suite.things)
    runs = (
        Run("layout that has all", agents.layout, from_store),
        Run("containerd that has all", agents.containerd, from_store),
        Run("empty layout, from peers", agents.empty_layout, from_peers),
        Run("empty containerd, from peers", agents.empty_containerd, from_peers),
    )
    passed += [await suite.passes(run) for run in runs]
    await upstream.aclose()
    for run in runs:
        unknown = UNKNOWN_WITHOUT_A_REGISTRY | (UNKNOWN_TO_AN_EMPTY_STORE if run.sources == from_peers else set())
        away = replace(run, title=f"{run.title}, without the registry", failing=unknown)
        passed.append(await suite.passes(away))
    return all(passed)


async def _pages_follow(node: Node) -> bool:
    """Whether the registry's pages of tags lead on through the agent: the suite does not follow a `Link`."""
    listings = [
        await tag_pages(node, f"/v2/{first}")
        for first in (f"{REPOSITORY}/tags/list?n=3", f"{REPOSITORY.name}/tags/list?n=3&ns={REPOSITORY.registry}")
    ]
    sys.stdout.write(f"tags in pages of three, by path and with ns: {listings}\n")
    return listings == [([[*TAGS[:3]], [*TAGS[3:]]], False)] * 2


async def _pull_all(node: Node, url: str, things: Published) -> None:
    """Let a containerd fetch everything, without unpacking it."""
    node.add_registry(REPOSITORY.registry, url)
    for name in (*(f":{tag}" for tag in TAGS), *(f"@{digest}" for digest in things.manifests)):
        options = ("--all-platforms", "--hosts-dir", str(node.certs_d))
        await node.ctr("content", "fetch", *options, f"{REPOSITORY}{name}")
    assert node.content() == {*things.manifests, *things.blobs}


async def _known_everywhere(agents: Agents, things: Published) -> None:
    """Wait until all know that two nodes have everything."""
    pairs = 2 * (len(things.manifests) + len(things.blobs) + len(TAGS))

    async def known() -> bool:
        every = (agents.layout, agents.empty_layout, agents.containerd, agents.empty_containerd)
        return min([await agent.metric("skvaller_gossip_pairs") for agent in every]) >= pairs

    await eventually(known, SPREAD_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Suite:
    """The program, what it is told that there is, and a directory for its reports. `left_out` counts cases by name."""

    program: Path
    things: Published
    work: Path
    left_out: dict[str, int] = field(default_factory=dict)

    async def passes(self, run: Run) -> bool:
        """Run it in both forms and print what came of it; returns whether all was as it should be."""
        return all([await self._passes(run, form) for form in FORMS])

    async def _passes(self, run: Run, form: str) -> bool:
        before = await _given(run.agent)
        report = await self._report(run.agent, form)
        sources = {source for source, bytes_given in (await _given(run.agent) - before).items() if bytes_given}
        outcomes = _outcomes(report)
        total = Counter(outcome for _, outcome in outcomes.elements())
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(total.items()))
        sys.stdout.write(f"{run.title}, {form}: {counts}; bytes from {', '.join(sorted(sources))}\n")
        for (name, outcome), number in outcomes.items():
            if outcome == "Disabled":
                self.left_out[name] = number
            elif outcome != "Pass":
                reason = ", as the registry is away and nobody here can know" if name in run.failing else ""
                sys.stdout.write(f"  {outcome}{reason}: {name} (x{number})\n")
        sys.stdout.flush()
        failed = {name for name, outcome in outcomes if outcome not in {"Pass", "Disabled"}}
        passed = failed == run.failing and bool(outcomes) and bool(sources) and sources <= run.sources
        if not passed:
            sys.stdout.write(report)
        return passed

    async def _report(self, agent: Agent, form: str) -> str:
        runner, repository = FORMS[form]
        process = await asyncio.create_subprocess_exec(
            *within(agent.node.namespace),
            *runner,
            self.program,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self._configuration(repository),
            cwd=self.work,  # its reports go there, and there is no configuration of somebody else's
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(SUITE_TIMEOUT_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        # Its exit code says nothing: without pushes it crashes over the reports that it writes after this one.
        return output.decode()

    def _configuration(self, repository: str) -> dict[str, str]:
        switched_off = ("PUSH", "BLOBS_DELETE", "MANIFESTS_DELETE", "TAGS_DELETE", "BLOBS_MOUNT_ANONYMOUS")
        return {
            REGISTRY: f"{LOOPBACK}:{CLIENT_PORT}",
            "OCI_TLS": "disabled",
            "OCI_REPO1": repository,
            # Not of manifests: it looks for that in answers that it keeps of what it pushed alone.
            "OCI_API_BLOBS_DIGEST_HEADER": "true",
            **{f"OCI_API_{name}": "false" for name in switched_off},
            "OCI_RO_DATA_TAGS": " ".join(TAGS),
            "OCI_RO_DATA_MANIFESTS": " ".join(str(digest) for digest in self.things.manifests),
            "OCI_RO_DATA_BLOBS": " ".join(str(digest) for digest in self.things.blobs),
            "OCI_RO_DATA_REFERRERS": " ".join(str(digest) for digest in self.things.subjects),
        }


def _outcomes(report: str) -> Counter[tuple[str, str]]:
    """How often each test had each outcome. The report is an indented tree, whose leaves are the tests."""
    lines = _RESULT.findall(report)
    depths = [len(indent) for indent, _, _ in lines] + [0]
    return Counter(
        (name, outcome)
        for (_, name, outcome), depth, next_depth in zip(lines, depths, depths[1:], strict=False)
        if next_depth <= depth
    )


async def _given(agent: Agent) -> Counter[str]:
    """How many bytes an agent has given to its clients, by where it had them from."""
    given = Counter[str]()
    for source, value in _GIVEN.findall(await agent.fetch("metrics") or ""):
        given[source] += int(float(value))
    return given


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
