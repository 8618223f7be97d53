"""What a runtime may rely on, whoever gives the content: one suite for every source behind the same HTTP edge.

Each case runs against a registry in front of the store itself, of a peer that has it, and of an upstream that has it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from starlette.middleware import Middleware
from yarl import URL

from mirror.choice import Holder, Standing
from mirror.doors import PeerDoor
from mirror.image_builder import NAME_ANNOTATION, Layer, build_image
from mirror.metrics import Metrics
from mirror.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from mirror.peer_mac import PeerMac, Target
from mirror.peers import Peers
from mirror.pull import Pull
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.single_flight import Transfers
from mirror.spool import Spool
from mirror.stores.oci_layout import OciLayout
from mirror.suspicion import Suspicion
from mirror.upstream import Upstream
from tests.gating import gated
from tests.herds import Listed, lone_herd, nobody_says
from tests.serving import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

REGISTRY = "registry.test"
NAME = "lib/app"
MAC = PeerMac(b"k" * 32)
TARGET = Target("b", "1.1")
SPOILED = Digest.of(b"bytes", "sha512")
CONFIG = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
MANIFESTS: list[dict[str, object]] = [
    {"mediaType": OCI_MANIFEST, "config": CONFIG, "layers": []},
    {"mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example+json", "config": CONFIG, "layers": []},
    {"mediaType": OCI_INDEX, "manifests": []},
    {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b", "blobs": []},
    {"mediaType": DOCKER_MANIFEST, "config": CONFIG, "layers": []},
    {"mediaType": DOCKER_LIST, "manifests": []},
]


@dataclass
class Image:
    layout: Path
    manifest: Digest
    layers: list[tuple[Digest, int]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    layout = tmp_path_factory.mktemp("image")
    generator = random.Random(1)
    layers: list[Layer] = [
        [("data/small", generator.randbytes(100_000))],
        [("data/large", generator.randbytes(9_000_000))],
    ]
    manifest = build_image(layout, f"{REGISTRY}/{NAME}:v1", {"amd64": layers}).digest
    index = json.loads((layout / "index.json").read_bytes())
    for number, each in enumerate(MANIFESTS):
        data = encoded(each)
        (layout / "blobs/sha256" / Digest.of(data).hex).write_bytes(data)
        entry = {"mediaType": each["mediaType"], "digest": str(Digest.of(data)), "size": len(data)}
        index["manifests"].append(entry | {"annotations": {NAME_ANNOTATION: f"{REGISTRY}/{NAME}:kind-{number}"}})
    (layout / "index.json").write_text(json.dumps(index))
    document = json.loads((layout / "blobs/sha256" / manifest.hex).read_bytes())
    for file in (layout / "blobs/sha256").iterdir():
        (layout / "blobs/sha512").mkdir(exist_ok=True)
        (layout / "blobs/sha512" / by_sha512(layout, Digest("sha256", file.name)).hex).write_bytes(file.read_bytes())
    (layout / "blobs/sha512" / SPOILED.hex).write_bytes(b"other bytes")
    return Image(layout, manifest, [(Digest.parse(layer["digest"]), layer["size"]) for layer in document["layers"]])


def encoded(document: dict[str, object]) -> bytes:
    """A manifest's bytes."""
    return json.dumps({"schemaVersion": 2} | document).encode()


def by_sha512(layout: Path, digest: Digest) -> Digest:
    """The other name of an object."""
    return Digest.of((layout / "blobs/sha256" / digest.hex).read_bytes(), "sha512")


@dataclass
class Face:
    url: str
    layout: Path
    session: aiohttp.ClientSession
    manifest: Digest
    layers: list[tuple[Digest, int]]
    origin: str

    def request(self, method: str, path: str, **headers: str) -> aiohttp.client._RequestContextManager:
        return self.session.request(method, f"{self.url}/v2/{path}?ns={REGISTRY}", headers=headers)


@pytest_asyncio.fixture(params=["store", "peer", "upstream"], scope="module", loop_scope="module")
async def face(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image: Image
) -> AsyncGenerator[Face]:
    full, empty = OciLayout(image.layout, 10**9), OciLayout(tmp_path_factory.mktemp("empty"), 1)
    metrics = Metrics()
    standing = Standing("", random.Random(1), asyncio.get_running_loop().time)
    async with AsyncExitStack() as stack:
        door = Middleware(PeerDoor, observer=metrics.face("peer"), mac=MAC, me=lambda: TARGET)
        peer_url = await stack.enter_async_context(serving(create_registry(full, metrics.face("peer"), [door])))
        upstream_url = await stack.enter_async_context(
            serving(create_registry(full, metrics.face("upstream"), itself=REGISTRY))
        )
        index = Listed([Holder(TARGET, peer_url, "")] if request.param == "peer" else [])
        peers = await stack.enter_async_context(Peers(index, MAC, standing))
        registries = Registries({REGISTRY: (Endpoint(upstream_url),)})
        upstream = await stack.enter_async_context(Upstream(registries))
        store = full if request.param == "store" else empty
        suspicion = Suspicion(time.monotonic, lambda: None, metrics.suspicion())
        spool = Spool(tmp_path_factory.mktemp("spool"), 10**9)
        transfers = await stack.enter_async_context(Transfers(spool, store, suspicion.blame))
        herd = lone_herd(peers, upstream, index)
        pull = Pull(store, peers, upstream, herd, transfers=transfers, suspicion=suspicion, relayed=nobody_says)
        url = await stack.enter_async_context(serving(create_registry(gated(pull, upstream), metrics.face("client"))))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Face(url, image.layout, session, image.manifest, image.layers, request.param)


async def test_the_version_endpoint_answers(face: Face) -> None:
    async with face.session.get(f"{face.url}/v2/") as response:
        assert response.status == 200
        assert await response.json() == {}


async def test_a_manifest_is_found_by_tag_and_by_digest(face: Face) -> None:
    for reference in ("v1", str(face.manifest)):
        async with face.request("HEAD", f"{NAME}/manifests/{reference}") as head:
            assert head.status == 200
            assert head.headers["Docker-Content-Digest"] == str(face.manifest)
            assert head.headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
        async with face.request("GET", f"{NAME}/manifests/{reference}") as response:
            data = await response.read()
            assert response.status == 200
            assert face.manifest.matches(data)
            assert response.headers["Content-Length"] == head.headers["Content-Length"] == str(len(data))
            assert response.headers["Skvaller-Source"] == face.origin


@pytest.mark.parametrize(("number", "document"), [*enumerate(MANIFESTS)])
async def test_a_manifest_of_every_kind_comes_as_what_it_is(
    face: Face, number: int, document: dict[str, object]
) -> None:
    data = encoded(document)
    for reference in (f"kind-{number}", str(Digest.of(data))):
        for method, body in (("HEAD", b""), ("GET", data)):
            async with face.request(method, f"{NAME}/manifests/{reference}") as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == document["mediaType"]
                assert response.headers["Docker-Content-Digest"] == str(Digest.of(data))
                assert response.headers["Content-Length"] == str(len(data))
                assert await response.read() == body
    async with face.request("GET", f"{NAME}/blobs/{Digest.of(data)}") as response:
        assert response.status == 200, "whoever asks for it as a blob gets its bytes"
        assert await response.read() == data


async def test_objects_are_found_by_sha512_too(face: Face) -> None:
    objects = [(f"{NAME}/manifests", face.manifest), *((f"{NAME}/blobs", digest) for digest, _ in face.layers)]
    for path, digest in objects:
        other = by_sha512(face.layout, digest)
        async with face.request("HEAD", f"{path}/{other}") as head:
            assert (head.status, head.headers["Docker-Content-Digest"]) == (200, str(other))
        async with face.request("GET", f"{path}/{other}") as response:
            data = await response.read()
            assert (response.status, response.headers["Docker-Content-Digest"]) == (200, str(other))
            assert response.headers["Skvaller-Source"] == face.origin
            assert other.matches(data)
        async with face.request("GET", f"{path}/{other}", Range="bytes=100-") as part:
            assert (part.status, await part.read()) == (206, data[100:])


@pytest.mark.parametrize("face", ["peer", "upstream"], indirect=True)  # the own store verified what it has
async def test_bytes_that_a_sha512_does_not_stand_for_are_not_passed_on(face: Face) -> None:
    async with face.request("GET", f"{NAME}/blobs/{SPOILED}") as response:
        assert response.status in {404, 503}
        assert b"other bytes" not in await response.read()


async def test_a_blob_is_given_whole(face: Face) -> None:
    for digest, size in face.layers:
        async with face.request("GET", f"{NAME}/blobs/{digest}") as response:
            data = await response.read()
        assert response.status == 200
        assert len(data) == size
        assert digest.matches(data)
        assert response.headers["Docker-Content-Digest"] == str(digest)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "Content-Encoding" not in response.headers


async def test_a_head_of_a_blob_tells_its_size(face: Face) -> None:
    digest, size = face.layers[1]
    async with face.request("HEAD", f"{NAME}/blobs/{digest}") as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == str(size)
        assert response.headers["Accept-Ranges"] == "bytes"


async def test_a_range_of_a_blob_is_given(face: Face) -> None:
    for digest, size in face.layers:
        async with face.request("GET", f"{NAME}/blobs/{digest}") as response:
            whole = await response.read()
        for header, positions in [
            ("bytes=0-", range(size)),
            ("bytes=100-", range(100, size)),
            ("bytes=5-9", range(5, 10)),
            ("bytes=-7", range(size - 7, size)),
            (f"bytes=50-{size * 2}", range(50, size)),
        ]:
            async with face.request("GET", f"{NAME}/blobs/{digest}", Range=header) as response:
                part = await response.read()
            assert part == whole[positions.start : positions.stop], header
            assert response.status == 206, "also for the whole: after a 200 containerd asks for no parts in parallel"
            assert response.headers["Content-Range"] == f"bytes {positions.start}-{positions.stop - 1}/{size}"


async def test_a_range_is_given_only_if_the_client_has_a_part_of_the_same_object(face: Face) -> None:
    digest, size = face.layers[0]
    for condition, length in [
        (f'"{digest}"', 10),
        (f'"{face.manifest}"', size),
        ("Wed, 21 Oct 2015 07:28:00 GMT", size),
    ]:
        headers = {"Range": "bytes=0-9", "If-Range": condition}
        async with face.request("GET", f"{NAME}/blobs/{digest}", **headers) as response:
            assert response.headers["ETag"] == f'"{digest}"'
            assert len(await response.read()) == length


async def test_a_range_of_a_manifest_is_given(face: Face) -> None:
    async with face.request("GET", f"{NAME}/manifests/{face.manifest}", Range="bytes=10-") as response:
        assert response.status == 206
        assert response.headers["Content-Range"].startswith("bytes 10-")


async def test_a_range_beyond_the_end_is_not_satisfiable(face: Face) -> None:
    digest, size = face.layers[0]
    async with face.request("GET", f"{NAME}/blobs/{digest}", Range=f"bytes={size}-") as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize("header", ["bytes=9-3", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5"])
async def test_a_range_that_makes_no_sense_is_ignored(face: Face, header: str) -> None:
    digest, size = face.layers[0]
    async with face.request("GET", f"{NAME}/blobs/{digest}", Range=header) as response:
        assert response.status == 200
        assert len(await response.read()) == size


async def test_what_nobody_has_is_unknown(face: Face) -> None:
    missing = Digest.of(b"nobody has this")
    for kind, code in (("blobs", "BLOB_UNKNOWN"), ("manifests", "MANIFEST_UNKNOWN")):
        async with face.request("GET", f"{NAME}/{kind}/{missing}") as response:
            assert response.status == 404
            assert (await response.json())["errors"][0]["code"] == code


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"{NAME}/blobs/sha256:abc", 400, "DIGEST_INVALID"),
        (f"{NAME}/blobs/v1", 400, "DIGEST_INVALID"),
        (f"{NAME}/manifests/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        (f"{NAME}/manifests/.hidden", 400, "NAME_INVALID"),
        ("Lib/App/manifests/v1", 400, "NAME_INVALID"),
        ("a/%2e%2e/%2e%2e/etc/manifests/v1", 400, "NAME_INVALID"),
        ("a%2f..%2fb/manifests/v1", 400, "NAME_INVALID"),
        (f"{NAME}/tags/unknown", 404, "NAME_UNKNOWN"),
        ("_catalog", 404, "NAME_UNKNOWN"),
    ],
)
async def test_a_wrong_path_gets_ocis_error(face: Face, path: str, status: int, code: str) -> None:
    async with face.session.get(URL(f"{face.url}/v2/{path}?ns={REGISTRY}", encoded=True)) as response:
        assert response.status == status
        assert (await response.json())["errors"][0]["code"] == code


@pytest.mark.parametrize("registry", ["", "a/b", "http://a", "a b", "..", "x" * 300])
async def test_a_wrong_registry_gets_ocis_error(face: Face, registry: str) -> None:
    url = f"{face.url}/v2/{NAME}/manifests/v1"
    async with face.session.get(url, params={"ns": registry}) as response:
        assert response.status == 400
        assert (await response.json())["errors"][0]["code"] == "NAME_INVALID"


async def test_a_request_that_names_no_registry_is_told_how(face: Face) -> None:
    async with face.session.get(f"{face.url}/v2/{NAME}/manifests/v1") as response:
        assert response.status == 404
        assert "ns=" in (await response.json())["errors"][0]["message"]


async def test_the_registry_may_be_the_first_component_of_the_path(face: Face) -> None:
    async with face.session.get(f"{face.url}/v2/{REGISTRY}/{NAME}/manifests/v1") as response:
        assert response.status == 200
        assert face.manifest.matches(await response.read())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "blobs/uploads/"),
        ("PATCH", "blobs/uploads/1"),
        ("PUT", "blobs/uploads/1"),
        ("DELETE", "blobs/uploads/1"),
        ("DELETE", f"blobs/{SPOILED}"),
        ("PUT", "manifests/v1"),
        ("DELETE", "manifests/v1"),
    ],
)
async def test_a_push_or_a_deletion_is_unsupported(face: Face, method: str, path: str) -> None:
    async with face.request(method, f"{NAME}/{path}") as response:
        assert response.status == 405
        assert (await response.json())["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("condition", ['"{}"', 'W/"{}"', '"sha256:0", "{}"', "*"])
async def test_a_client_that_has_the_object_already_is_told_so(face: Face, method: str, condition: str) -> None:
    layer, _ = face.layers[1]
    for path, digest in (
        (f"{NAME}/manifests/{face.manifest}", face.manifest),
        (f"{NAME}/manifests/v1", face.manifest),
        (f"{NAME}/blobs/{layer}", layer),
    ):
        async with face.request(method, path, **{"If-None-Match": condition.format(digest)}) as response:
            assert response.status == 304
            assert response.headers["ETag"] == f'"{digest}"'
            assert "Content-Length" not in response.headers
            assert await response.read() == b""


async def test_a_client_that_has_another_object_gets_this_one(face: Face) -> None:
    layer, size = face.layers[0]
    async with face.request("GET", f"{NAME}/blobs/{layer}", **{"If-None-Match": f'"{face.manifest}"'}) as response:
        assert response.status == 200
        assert len(await response.read()) == size
    async with face.request("GET", f"{NAME}/manifests/v1", **{"If-None-Match": f'"{layer}"'}) as response:
        assert response.status == 200
        assert face.manifest.matches(await response.read())
    missing = Digest.of(b"nobody has this")
    async with face.request("GET", f"{NAME}/blobs/{missing}", **{"If-None-Match": f'"{missing}"'}) as response:
        assert response.status == 404
