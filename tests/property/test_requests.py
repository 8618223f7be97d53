"""Whatever a client sends, the HTTP edge passes on nothing invalid and answers in the specification's words."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.metrics import Metrics
from mirror.oci import ByteRange, Digest, InvalidReferenceError, Repository, parse_image_name, parse_reference
from mirror.registry import create_registry
from tests.fuzz.request_law import DATA, DIGEST, Checked, hold
from tests.serving import HOST, serving

PIECES = st.sampled_from(
    [
        *("/", "//", "..", ".", "%2e", "%2f", "%252e", "%00", "%0a", "%ff", "%", "v2", "lib", "app", "UPPER", "-", "_"),
        *(
            "manifests",
            "blobs",
            "tags",
            "list",
            "uploads",
            "v1",
            str(DIGEST),
            "sha256:",
            "sha256:..",
            "docker.io",
            "::1",
        ),
    ]
)
PATHS = st.one_of(
    st.lists(PIECES, max_size=8).map(lambda pieces: "/v2/" + "/".join(pieces)),
    st.lists(PIECES, max_size=8).map(lambda pieces: "/v2/" + "".join(pieces)),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)).map(lambda text: f"/{text}"),
)
VALUES = st.one_of(
    st.sampled_from([b"bytes=0-", b"bytes=0-0", b"bytes=-1", b"bytes=1023-", b"bytes=1024-", b"*/*", b"*"]),
    st.sampled_from([f'"{DIGEST}"'.encode(), b"bytes=0-9,20-29", b"bytes=5-4", b"bytes= 1 - 2", b"bytes=-0"]),
    st.binary(max_size=40).map(lambda data: bytes(byte for byte in data if byte == 9 or 0x20 <= byte != 0x7F)),
)
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"range", b"if-range", b"if-none-match", b"accept", b"authorization"]), VALUES),
    max_size=5,
)
WIRE = st.sampled_from(
    [
        *(
            b"GET /v2/ HTTP/1.1\r\n",
            b"HEAD /v2/ HTTP/1.0\r\n",
            b"POST /v2/x/blobs/uploads/ HTTP/1.1\r\n",
            b"PRI * HTTP/2.0",
        ),
        *(b"Host: 127.0.0.1\r\n", b"Host: x\r\nHost: y\r\n", b"Range: bytes=0-\r\n", b"Accept: a\r\n", b" folded\r\n"),
        *(
            b"Content-Length: 5\r\n",
            b"Content-Length: -1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"Expect: 100-continue\r\n",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
            b"\r\n",
            b"\r\n",
            b"\n",
            b":",
            b"\x00",
        ),
    ]
)
QUERIES = st.one_of(
    st.sampled_from(["", "ns=docker.io", "ns=", "ns=%0d%0a", "ns=..", "ns=a&ns=b", "ns=[::1]:5000", "ns=a:99999"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20),
)


@given(st.sampled_from(["GET", "HEAD", "POST", "PUT"]), PATHS, QUERIES, HEADERS)
@example("GET", f"/v2/lib/app/blobs/{DIGEST}", "ns=docker.io", [(b"range", b"bytes=5-")])
@settings(deadline=None)
def test_no_request_gets_past_the_edge_invalid_or_is_answered_wrong(
    method: str, path: str, query: str, headers: list[tuple[bytes, bytes]]
) -> None:
    hold(method, path.encode(), query.encode(), headers)


@given(st.lists(st.lists(WIRE | st.binary(max_size=20), max_size=12).map(b"".join), min_size=1, max_size=20))
@settings(deadline=None, max_examples=25)  # a face takes a moment to stop
def test_any_bytes_on_a_connection_are_answered_in_http_or_not_at_all(connections: list[bytes]) -> None:
    *answers, last = asyncio.run(sent_raw([*connections, b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]))
    for answer in answers:
        assert re.match(rb"HTTP/1.1 (100|200|400|404|405|413|431) ", answer) or not answer
    assert last.startswith(b"HTTP/1.1 200 ")


async def sent_raw(connections: list[bytes]) -> list[bytes]:
    """All that a face answers to the bytes of each connection."""
    answers = []
    async with serving(create_registry(Checked(), Metrics().face("client"))) as url:
        for data in connections:
            reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(5):
                answers.append(await reader.read(-1))
            writer.close()
    return answers


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (f"/v2/lib/app/blobs/{DIGEST}", "ns=docker.io", 200),
        (f"/v2/docker.io/lib/app/blobs/{DIGEST}", "", 200),
        (f"/v2/lib%2Fapp/blobs/{DIGEST}", "ns=docker.io", 200),
        (f"/v2/lib%252Fapp/blobs/{DIGEST}", "ns=docker.io", 400),
        ("/v2/lib/app/manifests/..", "ns=docker.io", 400),
        ("/v2/lib/app/manifests/%2e%2e", "ns=docker.io", 400),
        ("/v2/../../etc/passwd/manifests/v1", "ns=docker.io", 400),
        ("/v2/%2e%2e/%2e%2e/etc/manifests/v1", "ns=docker.io", 400),
        ("/v2/lib/app/manifests/v1%00", "ns=docker.io", 400),
        ("/v2/lib/app/manifests/v1%0a", "ns=docker.io", 400),
        ("/v2/lib/app%0d%0aX:y/manifests/v1", "ns=docker.io", 400),
        ("/v2/lib/%ff/manifests/v1", "ns=docker.io", 400),
        ("/v2/lib//app/manifests/v1", "ns=docker.io", 400),
        ("/v2/Lib/app/manifests/v1", "ns=docker.io", 400),
        ("/v2/lib/app/manifests/v1", "ns=docker.io%0d%0aX:y", 400),
        ("/v2/lib/app/manifests/v1", "ns=docker.io/../x", 400),
        ("/v2/lib/app/manifests/v1", "ns=user@docker.io", 400),
        ("/v2/lib/app/manifests/v1", "ns=docker.io%23x", 400),
        ("/v2/lib/app/manifests/v1", "ns=docker.io:99999", 400),
        ("/%2e%2e/v2/", "", 404),
        ("/v2/..", "", 404),
        ("/v2", "", 404),
        ("/v2/lib/app/manifests/v1/", "ns=docker.io", 404),
    ],
)
def test_tricks_with_paths_and_names_are_refused(path: str, query: str, status: int) -> None:
    assert hold("GET", path.encode(), query.encode(), []) == status


@given(st.one_of(st.none(), st.text(), st.from_regex(r"bytes=\d{0,20}-\d{0,20}", fullmatch=True)))
def test_any_range_means_positions_inside_the_object_or_is_ignored(header: str | None) -> None:
    part = ByteRange.parse(header)
    if part is not None:
        positions = part.resolve(len(DATA))
        assert positions.start >= 0
        assert positions.stop <= len(DATA)
        assert ByteRange.parse(str(part)) == part


@given(st.text() | st.from_regex(r"[a-z0-9./:@_-]{0,40}", fullmatch=True))
def test_what_is_read_as_a_name_or_reference_reads_back_as_itself(text: str) -> None:
    try:
        repository, reference = parse_image_name(text)
    except InvalidReferenceError:
        return
    mark = "@" if isinstance(reference, Digest) else ":"
    assert parse_image_name(f"{repository}{mark}{reference}") == (repository, reference)
    assert Repository.parse(repository.registry, repository.name) == repository
    assert parse_reference(str(reference)) == reference
