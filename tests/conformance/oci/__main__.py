"""The OCI distribution specification's own conformance suite, against agents: `python -m tests.conformance.oci`.

An agent is read-only, so the suite is told what there is (`OCI_RO_DATA_*`) and pulls and lists it: through an agent
that takes it from upstream, again when it is in that agent's store, through a second agent that takes it from the
first, and through either once the registry has been stopped. In this mode the suite looks at statuses, headers and
lists; that the bytes are right is for `test_registry`.

Suite and upstream registry are Go programs from the module proxy, built once and kept in the user's cache directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp

from mirror.demo.scene import LOOPBACK, REPOSITORY, Agent, known_everywhere, running_agents
from mirror.image_builder import build_image
from mirror.oci import OCI_INDEX, OCI_MANIFEST, Digest
from tests.lab.cache import FetchError, cached, go_install, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SUITE: Final = "github.com/opencontainers/distribution-spec/conformance"
REGISTRY_MODULE: Final = "github.com/google/go-containerregistry"
TAGS: Final = ("v1", "v2", "v3", "v4")
EMPTY: Final = b"{}"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.example.sbom.v1+json"
START_TIMEOUT_S: Final = 20.0
SUITE_TIMEOUT_S: Final = 120.0

UNKNOWN_WITHOUT_A_REGISTRY: Final = frozenset(
    {"empty/referrers", "missing-manifest/by-digest", "missing-manifest/by-tag"}
)
"""These ask for what does not exist. While the registry is away an agent does not know that, and answers 503."""

_RESULT = re.compile(r"^( *)OCI Conformance Test/(.+): (Pass|Skip|Disabled|FAIL|Error)$", re.MULTILINE)


@dataclass
class Published:
    """What the upstream registry was given, in the order of its pushes; `subjects` are what others refer to."""

    manifests: dict[Digest, bytes] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    subjects: list[Digest] = field(default_factory=list)

    def add_blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Count a blob in; returns its descriptor."""
        self.blobs[Digest.of(data)] = data
        return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}

    def add_artifact(self, subject: Digest) -> None:
        """An artifact without an image, that refers to `subject`: its layer is JSON, its config empty."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": self.add_blob(EMPTY, EMPTY_TYPE),
            "layers": [self.add_blob(b'{"packages": []}', ARTIFACT_TYPE)],
            "subject": {"mediaType": OCI_INDEX, "digest": str(subject), "size": len(self.manifests[subject])},
        }
        data = json.dumps(document).encode()
        self.manifests[Digest.of(data)] = data
        self.subjects.append(subject)

    def add_layout(self, layout: Path) -> None:
        """Count in what an image layout has."""
        objects = [file.read_bytes() for file in sorted((layout / "blobs" / "sha256").iterdir())]
        # An index comes after what it names.
        for data in sorted(objects, key=lambda data: _media_type(data) == OCI_INDEX):
            kind = self.manifests if _media_type(data) else self.blobs
            kind[Digest.of(data)] = data


async def main() -> int:
    """Build, run and report; returns the exit code: 0 when nothing failed."""
    try:
        suite = cached("oci-conformance", lambda work: go_install(work / "bin", f"{SUITE}@latest")) / "conformance"
        registry = cached("oci-registry", _build_registry) / "registry"
    except FetchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(AsyncExitStack())
            registry_url = await upstream.enter_async_context(_running_registry(registry, work))
            published = await _publish(registry_url, work / "layout")
            agents = running_agents(["first", "second"], work, registry_url)
            async with agents as (first, second):
                passed = [
                    await _passes("from upstream", suite, first, published, work),
                    await _passes("from its store", suite, first, published, work),
                ]
                pairs = len(published.manifests) + len(published.blobs) + len(TAGS)
                await known_everywhere([first, second], pairs)
                passed.append(await _passes("from a peer", suite, second, published, work))
                if not await _came_from_the_peer(second):
                    sys.stdout.write("the second agent took content from elsewhere than its peer\n")
                    passed.append(False)
                await upstream.aclose()
                for title, agent in (("the first without the registry", first), ("the second likewise", second)):
                    passed += [await _passes(title, suite, agent, published, work, failing=UNKNOWN_WITHOUT_A_REGISTRY)]
    return 0 if all(passed) else 1


def _build_registry(work: Path) -> Path:
    programs = work / "bin"
    (work / "main.go").write_bytes(Path(__file__).with_name("main.go").read_bytes())
    run("go", "mod", "init", "registry", directory=work)
    run("go", "get", f"{REGISTRY_MODULE}@latest", directory=work)
    run("nice", "-n", "15", "go", "build", "-o", f"{programs}/registry", ".", directory=work)
    return programs


@asynccontextmanager
async def _running_registry(program: Path, work: Path) -> AsyncIterator[str]:
    """The upstream registry, on a free port; gives its URL."""
    with (work / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, f"{LOOPBACK}:0", stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (words := (work / "registry.log").read_text().split()):
                await asyncio.sleep(0.02)
        yield f"http://{words[0]}"
    finally:
        process.kill()
        await process.wait()


async def _publish(registry_url: str, layout: Path) -> Published:
    """Push an image of two architectures under several tags, and an artifact that refers to it."""
    published = Published()
    index = build_image(
        layout, "app", {name: [[("name", name.encode())], [("data", bytes(99_000))]] for name in ("amd64", "arm64")}
    )
    published.add_layout(layout)
    published.add_artifact(index.digest)
    async with aiohttp.ClientSession(f"{registry_url}/v2/{REPOSITORY.name}/", raise_for_status=True) as session:
        for digest, data in published.blobs.items():
            await session.post("blobs/uploads/", params={"digest": str(digest)}, data=data)
        names = {str(digest): data for digest, data in published.manifests.items()}
        for name, data in (names | dict.fromkeys(TAGS, published.manifests[index.digest])).items():
            media_type = _media_type(data)
            assert media_type is not None
            await session.put(f"manifests/{name}", data=data, headers={"Content-Type": media_type})
    return published


def _media_type(data: bytes) -> str | None:
    """The media type of a manifest or index; None for what is neither."""
    if not data.startswith(b"{"):
        return None
    media_type = json.loads(data).get("mediaType")
    assert media_type is None or isinstance(media_type, str)
    return media_type


async def _passes(
    title: str, suite: Path, agent: Agent, published: Published, work: Path, failing: frozenset[str] = frozenset()
) -> bool:
    """Run the suite against an agent and print what came of it; returns whether just the tests of `failing` failed."""
    process = await asyncio.create_subprocess_exec(
        suite,
        env=os.environ | _configuration(agent, published),
        cwd=work,  # its reports go there, and there is no configuration of somebody else's
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
    report = output.decode()
    outcomes = _outcomes(report)
    total = Counter(outcome for _, outcome in outcomes.elements())
    sys.stdout.write(f"{title}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(total.items()))}\n")
    for (name, outcome), number in outcomes.items():
        if outcome != "Pass":
            reason = ", as an agent takes no pushes and deletes nothing" if outcome == "Disabled" else ""
            reason = ", as only the registry knows what there is not" if name in failing else reason
            sys.stdout.write(f"  {outcome}{reason}: {name} (x{number})\n")
    passed = {name for name, outcome in outcomes if outcome not in {"Pass", "Disabled"}} == failing and bool(outcomes)
    if not passed:
        sys.stdout.write(report)
    return passed


def _outcomes(report: str) -> Counter[tuple[str, str]]:
    """How often each test had each outcome. The report is an indented tree, whose leaves are the tests."""
    lines = _RESULT.findall(report)
    depths = [len(indent) for indent, _, _ in lines] + [0]
    return Counter(
        (name, outcome)
        for (_, name, outcome), depth, next_depth in zip(lines, depths, depths[1:], strict=False)
        if next_depth <= depth
    )


def _configuration(agent: Agent, published: Published) -> Mapping[str, str]:
    """The suite's settings; it sends no `ns`, so the registry is the first component of the path."""
    switched_off = (
        "PUSH",
        "BLOBS_DELETE",
        "MANIFESTS_DELETE",
        "TAGS_DELETE",
        "BLOBS_MOUNT_ANONYMOUS",
    )
    return {
        "OCI_REGISTRY": urlsplit(agent.url).netloc,
        "OCI_TLS": "disabled",
        "OCI_REPO1": str(REPOSITORY),
        "OCI_API_BLOBS_DIGEST_HEADER": "true",
        **{f"OCI_API_{name}": "false" for name in switched_off},
        "OCI_RO_DATA_TAGS": " ".join(TAGS),
        "OCI_RO_DATA_MANIFESTS": " ".join(str(digest) for digest in published.manifests),
        "OCI_RO_DATA_BLOBS": " ".join(str(digest) for digest in published.blobs),
        "OCI_RO_DATA_REFERRERS": " ".join(str(digest) for digest in published.subjects),
    }


async def _came_from_the_peer(agent: Agent) -> bool:
    """Whether an agent gave its clients bytes from a peer and none from upstream."""
    async with aiohttp.ClientSession() as session, session.get(f"{agent.metrics_url}/metrics") as response:
        text = await response.text()
    samples = re.findall(r'^skvaller_content_bytes_total\{face="client",.*source="(\w+)"\} (\S+)$', text, re.MULTILINE)
    given = Counter[str]()
    for source, value in samples:
        given[source] += int(float(value))
    return given["peer"] > 0 and given["upstream"] == 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
