"""The upstream registry is asked as the client asked, and everything it can answer has a meaning."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from mirror import upstream as upstream_module
from mirror import verified
from mirror.challenge import Challenge
from mirror.errors import CorruptError, RefusedError, UnavailableError
from mirror.listings import ListingRequest
from mirror.oci import MANIFEST_BYTES_MAX, ByteRange, Digest, Kind, Repository, Tag
from mirror.registries import Endpoint, Registries, Taken
from mirror.source import Request, read_all
from mirror.upstream import REFUSAL_BYTES_MAX, Upstream
from tests.serving import HOST, Heard, Script, answering, free_port, scripted

REGISTRY = "registry.test"
REPOSITORY = Repository(REGISTRY, "lib/app")
BLOB = b"0123456789" * 10
DIGEST = Digest.of(BLOB)
MANIFEST = b'{"config": {}, "layers": []}'
TYPE = "Content-Type: application/vnd.oci.image.manifest.v1+json"


def wanted(reference: Digest | Tag = DIGEST, **fields: object) -> Request:
    kind = Kind.MANIFEST if isinstance(reference, Tag) else Kind.BLOB
    return Request(REPOSITORY, fields.pop("kind", kind), reference, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def upstream_at(url: str, ca_file: Path | None = None) -> AsyncGenerator[Upstream]:
    async with Upstream(Registries({REGISTRY: (Endpoint(url, ca_files=(ca_file,) if ca_file else ()),)})) as upstream:
        yield upstream


async def test_the_clients_header_goes_along_and_nothing_else_does() -> None:
    async with scripted(answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)) as server:
        async with upstream_at(server.url) as upstream:
            content = await upstream.open(wanted(authorization="Bearer token", accept="a/b, c/d"))
            assert await read_all(content.body, 1000) == BLOB
    (heard,) = server.heard
    assert heard.path == f"/v2/lib/app/blobs/{DIGEST}"
    assert heard.headers["authorization"] == "Bearer token"
    assert heard.headers["accept"] == "a/b, c/d"
    assert heard.headers["accept-encoding"] == "identity"
    assert "range" not in heard.headers
    assert "Bearer" not in repr(wanted(authorization="Bearer token"))


async def test_credentials_that_lie_on_the_node_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login operator password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with scripted(answering("200 OK", ["Content-Length: 1"], b"0")) as server:
        async with upstream_at(server.url) as upstream:
            for authorization in (None, "Bearer token"):
                await upstream.attest(wanted(authorization=authorization))
    assert [heard.headers.get("authorization") for heard in server.heard] == [None, "Bearer token"]


async def test_a_proxy_gets_the_credentials_of_its_url_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with scripted(answering("200 OK", ["Content-Length: 1"], b"0")) as proxy:
        for credentials in ("", "proxy:secret@"):
            monkeypatch.setenv("http_proxy", proxy.url.replace("://", f"://{credentials}"))
            async with upstream_at("http://registry.test") as upstream:
                await upstream.attest(wanted())
    expected = [None, f"Basic {b64encode(b'proxy:secret').decode()}"]
    assert [heard.headers.get("proxy-authorization") for heard in proxy.heard] == expected


async def test_a_challenge_comes_back_whole() -> None:
    challenge = (
        'Bearer realm="https://auth.test/token",service="s",scope="repository:lib/app:pull",error="invalid_token"'
    )
    body = b'{"errors":[{"code":"UNAUTHORIZED"}]}'
    headers = [f"WWW-Authenticate: {challenge}", "WWW-Authenticate: Basic realm=x", f"Content-Length: {len(body)}"]
    async with scripted(answering("401 Unauthorized", headers, body)) as server, upstream_at(server.url) as upstream:
        with pytest.raises(RefusedError) as refusal:
            await upstream.open(wanted())
    assert refusal.value.status == 401
    assert refusal.value.body == body
    values = [value for name, value in refusal.value.headers if name == "WWW-Authenticate"]
    assert values == [challenge, "Basic realm=x"]


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found", "410 Gone"])
async def test_a_no_to_this_client_is_relayed(status: str) -> None:
    async with scripted(answering(status, ["Content-Length: 2"], b"no")) as server, upstream_at(server.url) as upstream:
        with pytest.raises(RefusedError, match=status[:3]):
            await upstream.open(wanted())


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "502 Bad Gateway", "503 No", "204 Nothing"])
async def test_a_registry_in_trouble_is_unavailable_and_never_a_429(status: str) -> None:
    async with scripted(answering(status, ["Content-Length: 0"])) as server, upstream_at(server.url) as upstream:
        with pytest.raises(UnavailableError, match=status[:3]):
            await upstream.open(wanted())


def in_two_parts(status: str, body: bytes) -> Script:
    """The answer whose body comes in two segments."""

    async def script(_: Heard, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nWWW-Authenticate: Bearer\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:10])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(body[10:])

    return script


async def test_a_refusal_that_comes_in_parts_is_relayed_whole() -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no"}]}'
    async with scripted(in_two_parts("403 Forbidden", body)) as server, upstream_at(server.url) as upstream:
        with pytest.raises(RefusedError) as refusal:
            await upstream.open(wanted())
    assert refusal.value.body == body


async def test_a_challenge_with_too_large_a_body_comes_without_it() -> None:
    body = b"x" * (REFUSAL_BYTES_MAX + 1)
    async with scripted(in_two_parts("401 Unauthorized", body)) as server, upstream_at(server.url) as upstream:
        with pytest.raises(RefusedError) as refusal:
            await upstream.open(wanted())
    assert (refusal.value.status, refusal.value.body) == (401, b"")
    assert ("WWW-Authenticate", "Bearer") in refusal.value.headers


async def test_a_refusal_whose_body_trickles_in_comes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "READ_TIMEOUT_S", 0.3)

    async def trickle(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n")
        for _each in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with scripted(trickle) as server, upstream_at(server.url) as upstream:
        with pytest.raises(RefusedError) as refusal:
            await upstream.open(wanted())
    assert (refusal.value.status, refusal.value.body) == (403, b"")


async def cut_short(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + BLOB[:30])


async def slam(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def say_nothing(_: Heard, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def stall(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + BLOB[:30])
    await writer.drain()
    await asyncio.sleep(30)


async def talk_nonsense(_: Heard, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01\x02 what?\r\n\r\n")


UNUSABLE: dict[str, Script] = {
    "cut short": cut_short,
    "reset": slam,
    "silence": say_nothing,
    "stall": stall,
    "nonsense": talk_nonsense,
    "encoded": answering("200 OK", ["Content-Encoding: gzip", f"Content-Length: {len(BLOB)}"], BLOB),
    "no number": answering("200 OK", ["Content-Length: many"], BLOB),
    "a partial answer that nobody asked for": answering(
        "206 Partial Content", ["Content-Range: bytes 0-9/100", "Content-Length: 10"], BLOB[:10]
    ),
    "endless redirects": answering("307 Temporary Redirect", ["Location: /again", "Content-Length: 0"]),
    "a redirect to nowhere": answering("307 Temporary Redirect", ["Location: gopher://x", "Content-Length: 0"]),
}


@pytest.mark.parametrize("script", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_an_unusable_answer_is_unavailable(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "READ_TIMEOUT_S", 0.5)
    async with scripted(script) as server, upstream_at(server.url) as upstream:
        with pytest.raises(UnavailableError):
            await upstream.open(wanted())


async def test_a_registry_that_is_down_is_unavailable() -> None:
    async with upstream_at(f"http://{HOST}:{free_port()}") as upstream:
        with pytest.raises(UnavailableError, match=REGISTRY):
            await upstream.resolve(wanted(Tag("v1")))


async def test_wrong_bytes_are_found_out_before_the_first_one_goes_on() -> None:
    async with scripted(answering("200 OK", ["Content-Length: 100"], b"x" * 100)) as server:
        async with upstream_at(server.url) as upstream:
            with pytest.raises(CorruptError):
                await upstream.open(wanted())


async def test_wrong_bytes_of_a_blob_whose_size_is_not_told_are_found_out_as_well() -> None:
    async with scripted(answering("200 OK", body=b"x" * 100)) as server, upstream_at(server.url) as upstream:
        for size in (None, 100):
            with pytest.raises(CorruptError):
                await upstream.open(wanted(size=size))


async def test_a_blob_whose_size_is_not_told_has_that_of_its_manifest() -> None:
    large = bytes(9_000_000)
    digest = Digest.of(large)
    async with scripted(answering("200 OK", body=large)) as server, upstream_at(server.url) as upstream:
        content = await upstream.open(wanted(digest, size=len(large)))
        assert (content.descriptor.size, content.positions) == (len(large), range(len(large)))
        assert await read_all(content.body, len(large)) == large
        content = await upstream.open(wanted(digest, size=len(large), range=ByteRange.starting_at(8_999_990)))
        assert content.positions == range(8_999_990, 9_000_000)
        assert await read_all(content.body, len(large)) == bytes(10)
        short = await upstream.open(wanted(digest, size=len(large) + 1))
        with pytest.raises(UnavailableError, match="1 bytes early"):
            await read_all(short.body, len(large) + 1)


async def test_a_blob_of_which_nobody_told_the_size_is_known_when_it_is_small_and_streams_when_it_is_large() -> None:
    async with scripted(answering("200 OK", body=BLOB)) as server, upstream_at(server.url) as upstream:
        content = await upstream.open(wanted())
        assert (content.descriptor.size, content.positions) == (len(BLOB), range(len(BLOB)))
        assert await read_all(content.body, len(BLOB)) == BLOB
    large = bytes(9_000_000)
    async with scripted(answering("200 OK", body=large)) as server, upstream_at(server.url) as upstream:
        content = await upstream.open(wanted(Digest.of(large)))
        assert content.positions is None
        assert await read_all(content.body, len(large)) == large


async def test_a_blob_of_which_nobody_told_the_size_streams_after_some_seconds_if_it_comes_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verified, "SIZED_S", 0.1)
    opened = asyncio.Event()

    async def slowly(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not opened.is_set():
            writer.write(b"x" * 100)
            await asyncio.sleep(0.02)

    async with scripted(slowly) as server, upstream_at(server.url) as upstream:
        async with asyncio.timeout(5):
            content = await upstream.open(wanted())
        opened.set()
        assert content.positions is None
        received = await read_all(content.body, 1_000_000)
        assert received == b"x" * len(received)
        assert len(received) > 100


async def test_a_manifest_above_the_limit_is_refused_without_being_read() -> None:
    async def huge(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{TYPE}\r\nContent-Length: 10000000\r\n\r\n".encode() + b"x" * 1000)
        await asyncio.sleep(30)

    async with scripted(huge) as server, upstream_at(server.url) as upstream:
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError, match="limit"):
                await upstream.open(wanted(kind=Kind.MANIFEST))


async def test_an_endless_manifest_is_given_up_at_the_limit() -> None:
    body = b"x" * (MANIFEST_BYTES_MAX + 1)
    async with scripted(answering("200 OK", [TYPE], body)) as server, upstream_at(server.url) as upstream:
        with pytest.raises(UnavailableError, match="more than"):
            await upstream.open(wanted(kind=Kind.MANIFEST))


async def test_a_large_blob_streams_in_part_from_where_it_was_asked() -> None:
    large = b"z" * 9_000_000
    digest = Digest.of(large)

    async def serve(heard: Heard, writer: asyncio.StreamWriter) -> None:
        assert heard.headers["range"] == "bytes=8999990-"
        head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 8999990-8999999/{len(large)}\r\n"
        writer.write(head.encode() + b"Content-Length: 10\r\n\r\n" + large[8999990:])

    async with scripted(serve) as server, upstream_at(server.url) as upstream:
        content = await upstream.open(wanted(digest, range=ByteRange.starting_at(8999990)))
        assert content.positions == range(8999990, 9000000)
        assert await read_all(content.body, 100) == large[8999990:]


async def test_a_server_that_ignores_a_range_is_read_past_what_was_not_asked_for() -> None:
    large = hashlib.sha256(b"seed").digest() * 300_000
    head = ["Content-Type: application/octet-stream", f"Content-Length: {len(large)}"]
    async with scripted(answering("200 OK", head, large)) as server, upstream_at(server.url) as upstream:
        content = await upstream.open(wanted(Digest.of(large), range=ByteRange(1_000_000, 1_000_099)))
        assert content.positions == range(1_000_000, 1_000_100)
        assert await read_all(content.body, 1000) == large[1_000_000:1_000_100]


async def test_credentials_do_not_follow_a_redirect_to_another_host() -> None:
    async with scripted(answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)) as storage:
        redirect = answering("307 Temporary Redirect", [f"Location: {storage.url}/signed?key=1", "Content-Length: 0"])
        async with scripted(redirect) as server:
            # Both are configured, for both are on loopback, where a redirect leads to nothing else.
            registries = Registries({REGISTRY: (Endpoint(server.url),), "storage.test": (Endpoint(storage.url),)})
            async with Upstream(registries) as upstream:
                content = await upstream.open(wanted(authorization="Basic secret"))
                assert await read_all(content.body, 1000) == BLOB
            assert server.heard[0].headers["authorization"] == "Basic secret"
    assert storage.heard[0].path == "/signed?key=1"
    assert "authorization" not in storage.heard[0].headers


async def test_a_tag_is_explained_by_a_head() -> None:
    headers = [TYPE, f"Docker-Content-Digest: {Digest.of(MANIFEST)}", f"Content-Length: {len(MANIFEST)}"]
    async with scripted(answering("200 OK", headers)) as server, upstream_at(server.url) as upstream:
        descriptor = await upstream.resolve(wanted(Tag("v1")))
    assert descriptor.digest == Digest.of(MANIFEST)
    assert descriptor.size == len(MANIFEST)
    assert [heard.method for heard in server.heard] == ["HEAD"]


async def test_a_registry_that_tells_no_digest_is_asked_for_the_manifest_itself() -> None:
    async def serve(heard: Heard, writer: asyncio.StreamWriter) -> None:
        body = b"" if heard.method == "HEAD" else MANIFEST
        writer.write(f"HTTP/1.1 200 OK\r\n{TYPE}\r\nContent-Length: {len(MANIFEST)}\r\n\r\n".encode() + body)

    async with scripted(serve) as server, upstream_at(server.url) as upstream:
        descriptor = await upstream.resolve(wanted(Tag("v1")))
    assert descriptor.digest == Digest.of(MANIFEST)
    assert [heard.method for heard in server.heard] == ["HEAD", "GET"]


@pytest.mark.parametrize("digest", ["sha256:abc", "", "md5:" + "0" * 32])
async def test_an_unusable_digest_is_unavailable(digest: str) -> None:
    headers = [TYPE, f"Docker-Content-Digest: {digest}", "Content-Length: 2"]
    async with scripted(answering("200 OK", headers)) as server, upstream_at(server.url) as upstream:
        with pytest.raises(UnavailableError):
            await upstream.resolve(wanted(Tag("v1")))


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncGenerator[str]:
    """A registry that has one blob, and speaks TLS as told; gives its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BLOB)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + BLOB)
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0, ssl=context)
    async with server:
        yield f"https://{HOST}:{server.sockets[0].getsockname()[1]}"


async def test_tls_is_verified_against_the_configured_ca(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    async with tls_server(context) as url:
        async with upstream_at(url, ca_file) as upstream:
            content = await upstream.open(wanted())
            assert await read_all(content.body, 1000) == BLOB
        async with upstream_at(url) as upstream:
            with pytest.raises(UnavailableError, match=r"(?i)certificate"):
                await upstream.open(wanted())
        async with Upstream(Registries({REGISTRY: (Endpoint(url, skip_verify=True),)})) as upstream:
            content = await upstream.open(wanted())
            assert await read_all(content.body, 1000) == BLOB


async def test_a_client_certificate_is_shown_and_read_again_when_the_settings_are(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file, certificate, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))
    authority.cert_pem.write_to_path(str(ca_file))

    def issue(by: trustme.CA) -> None:
        issued = by.issue_cert("node-1")
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))

    issue(trustme.CA())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with tls_server(context) as url:
        endpoint = Endpoint(url, ca_files=(ca_file,), client_certificates=((certificate, key),))
        registries = Registries({REGISTRY: (endpoint,)})
        async with Upstream(registries) as upstream:
            with pytest.raises(UnavailableError):
                await upstream.open(wanted())
            issue(authority)
            with pytest.raises(UnavailableError):
                await upstream.open(wanted())
            registries.replace({REGISTRY: (endpoint,)}, {})
            content = await upstream.open(wanted())
            assert await read_all(content.body, 1000) == BLOB
            certificate.unlink()
            registries.replace({REGISTRY: (endpoint,)}, {})
            with pytest.raises(UnavailableError):
                await upstream.open(wanted())


def test_of_registries_that_clients_name_nothing_is_remembered() -> None:
    registries = Registries({})
    for number in range(100):
        assert registries.context(registries.endpoints(f"registry{number}.example")[-1]) is True
    assert registries.context(Endpoint("https://cache.corp", skip_verify=True)) is False
    assert len(registries._contexts) == 0


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with upstream_at("http://registry.test") as upstream:
            content = await upstream.open(wanted())
            assert await read_all(content.body, 1000) == BLOB
    assert proxy.heard[0].path == f"http://registry.test/v2/lib/app/blobs/{DIGEST}"


async def test_https_goes_through_the_proxy_as_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(answering("403 Forbidden", ["Content-Length: 0"])) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with upstream_at("https://registry.test") as upstream:
            with pytest.raises(UnavailableError):
                await upstream.open(wanted())
    assert proxy.heard[0].line == "CONNECT registry.test:443 HTTP/1.1"


async def test_other_mirrors_are_asked_before_the_registry_and_get_no_credentials() -> None:
    answer = answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)
    async with scripted(answer) as mirror, scripted(answer) as registry:
        endpoints = (Endpoint(mirror.url), Endpoint(registry.url))
        async with Upstream(Registries({REGISTRY: endpoints})) as upstream:
            content = await upstream.open(wanted(authorization="Bearer token"))
            assert await read_all(content.body, 1000) == BLOB
    assert [heard.path for heard in mirror.heard] == [f"/v2/lib/app/blobs/{DIGEST}?ns={REGISTRY}"]
    assert "authorization" not in mirror.heard[0].headers
    assert registry.heard == []


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops", "429 Too Many"])
async def test_what_a_mirror_refuses_the_registry_is_asked_for(status: str) -> None:
    good = answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)
    async with scripted(answering(status, ["Content-Length: 0"])) as mirror, scripted(good) as registry:
        endpoints = (Endpoint(f"http://{HOST}:{free_port()}"), Endpoint(mirror.url), Endpoint(registry.url))
        async with Upstream(Registries({REGISTRY: endpoints})) as upstream:
            content = await upstream.open(wanted(authorization="Bearer token"))
            assert await read_all(content.body, 1000) == BLOB
    assert registry.heard[0].headers["authorization"] == "Bearer token"


async def test_a_mirror_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "MIRROR_S_MAX", 0.05)

    async def silent(_: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    good = answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)
    async with scripted(silent) as mirror, scripted(good) as registry:
        endpoints = (Endpoint(mirror.url), Endpoint(registry.url))
        async with Upstream(Registries({REGISTRY: endpoints})) as upstream:
            content = await upstream.open(wanted())
            assert await read_all(content.body, 1000) == BLOB


async def test_a_mirror_that_resolves_no_tags_is_asked_for_digests_alone() -> None:
    answer = answering("200 OK", [f"Docker-Content-Digest: {DIGEST}", TYPE, f"Content-Length: {len(MANIFEST)}"])
    async with scripted(answer) as mirror, scripted(answer) as registry:
        endpoints = (Endpoint(mirror.url, resolves=False), Endpoint(registry.url))
        async with Upstream(Registries({REGISTRY: endpoints})) as upstream:
            await upstream.resolve(wanted(Tag("v1")))
            await upstream.resolve(wanted(DIGEST, kind=Kind.MANIFEST))
    assert [heard.path.partition("?")[0].rpartition("/")[2] for heard in registry.heard] == ["v1"]
    assert [heard.path.partition("?")[0].rpartition("/")[2] for heard in mirror.heard] == [str(DIGEST)]


async def test_whether_a_client_may_have_an_object_the_registry_itself_is_asked() -> None:
    yes = answering("200 OK", [f"Docker-Content-Digest: {DIGEST}", TYPE, "Content-Length: 1"], b"x")
    no = answering("401 Unauthorized", ["WWW-Authenticate: Bearer", "Content-Length: 0"])
    async with scripted(yes) as mirror, scripted(no) as registry:
        async with Upstream(Registries({REGISTRY: (Endpoint(mirror.url), Endpoint(registry.url))})) as upstream:
            for request in (wanted(Tag("v1")), wanted()):
                with pytest.raises(RefusedError):
                    await upstream.attest(request)
    assert mirror.heard == []


async def test_a_blob_is_attested_by_its_first_byte_since_storage_refuses_head() -> None:
    async def storage_script(heard: Heard, writer: asyncio.StreamWriter) -> None:
        if heard.method == "HEAD":
            await answering("403 Forbidden", ["Content-Length: 0"])(heard, writer)
        else:
            await answering("206 Partial Content", ["Content-Range: bytes 0-0/100", "Content-Length: 1"], b"0")(
                heard, writer
            )

    async with scripted(storage_script) as storage:
        redirect = answering("307 Temporary Redirect", [f"Location: {storage.url}/x", "Content-Length: 0"])
        async with scripted(redirect) as registry:
            registries = Registries({REGISTRY: (Endpoint(registry.url),), "storage.test": (Endpoint(storage.url),)})
            async with Upstream(registries) as upstream:
                assert (await upstream.attest(wanted())).digest == DIGEST
    assert storage.heard[0].headers["range"] == "bytes=0-0"


@pytest.mark.parametrize(
    ("status", "body", "token"),
    [("200 OK", b'{"token": "t"}', "t"), ("200 OK", b"{}", None), ("401 Unauthorized", b"{}", None)],
)
async def test_a_token_for_anybody_is_asked_for_without_saying_who_asks(
    status: str, body: bytes, token: str | None
) -> None:
    async with scripted(answering(status, [f"Content-Length: {len(body)}"], body)) as server:
        async with upstream_at(server.url) as upstream:
            challenge = Challenge(f"{server.url}/token", "s", "repository:lib/app:pull")
            if token is None:
                with pytest.raises(UnavailableError):
                    await upstream.token_for_anybody(REGISTRY, challenge)
            else:
                assert await upstream.token_for_anybody(REGISTRY, challenge) == token
    assert server.heard[0].path == "/token?service=s&scope=repository%3Alib%2Fapp%3Apull"
    assert "authorization" not in server.heard[0].headers


async def test_a_token_that_comes_in_parts_is_one() -> None:
    body = b'{"token": "' + b"t" * 3000 + b'"}'
    async with scripted(in_two_parts("200 OK", body)) as server, upstream_at(server.url) as upstream:
        token = await upstream.token_for_anybody(REGISTRY, Challenge(f"{server.url}/token"))
    assert token == "t" * 3000


async def test_a_registry_with_tls_leads_to_no_token_server_without() -> None:
    async with upstream_at("https://registry.test") as upstream:
        with pytest.raises(UnavailableError, match="without TLS"):
            await upstream.token_for_anybody(REGISTRY, Challenge("http://auth.test/token"))


async def test_headers_that_are_set_for_an_endpoint_go_along() -> None:
    async with scripted(answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)) as server:
        endpoint = Endpoint(f"{server.url}/proxy", override_path=True, headers=(("X-Key", "1"),))
        async with Upstream(Registries({REGISTRY: (endpoint,)})) as upstream:
            await read_all((await upstream.open(wanted())).body, 1000)
    assert server.heard[0].path == f"/proxy/lib/app/blobs/{DIGEST}"
    assert server.heard[0].headers["x-key"] == "1"
    assert "X-Key" not in repr(endpoint)


async def test_headers_that_are_set_go_along_with_all_their_values_and_give_way_to_the_clients() -> None:
    async with scripted(answering("200 OK", [f"Content-Length: {len(BLOB)}"], BLOB)) as server:
        headers = (("X-Key", "1"), ("X-Key", "2"), ("authorization", "Basic own"), ("accept", "a/b"))
        async with Upstream(Registries({REGISTRY: (Endpoint(server.url, headers=headers),)})) as upstream:
            for authorization in (None, "Bearer client"):
                await read_all((await upstream.open(wanted(authorization=authorization))).body, 1000)
    assert [heard.headers.getall("authorization") for heard in server.heard] == [["Basic own"], ["Bearer client"]]
    for heard in server.heard:
        assert heard.headers.getall("x-key") == ["1", "2"]
        assert heard.headers.getall("accept") == ["*/*"]


async def test_a_protected_registry_is_asked_with_no_credentials_but_the_clients() -> None:
    async with scripted(answering("200 OK", ["Content-Length: 1"], b"0")) as server:
        itself = Endpoint(server.url, headers=(("X-Key", "1"), ("authorization", "Basic own")))
        registries = Registries({})
        registries.replace({}, {REGISTRY: Taken(itself=itself)}, lambda name: name == REGISTRY)
        async with Upstream(registries) as upstream:
            for authorization in (None, "Bearer client"):
                await upstream.attest(wanted(authorization=authorization))
                await upstream.greet(REGISTRY, authorization)
                await upstream.list(ListingRequest(REPOSITORY, authorization=authorization))
    heard = [(each.headers.get("authorization"), each.headers["x-key"]) for each in server.heard]
    assert heard == [(None, "1")] * 3 + [("Bearer client", "1")] * 3
