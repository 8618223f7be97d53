"""The grammar of names, digests and ranges: what the specification refuses never gets in."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci import (
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    ByteRange,
    Digest,
    InvalidDigestError,
    InvalidReferenceError,
    Repository,
    Tag,
    manifest_media_type,
    parse_image_name,
    parse_name,
    parse_reference,
    parse_registry,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + HEX[:-1],
        "sha256:" + HEX.upper(),
        "md5:" + HEX[:32],
        "sha256:" + HEX + "0",
        "sha256:" + HEX[:-1] + "\n",
        "sha256:../../" + HEX[6:],
        "sha512:" + HEX,
    ],
)
def test_a_digest_that_the_grammar_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        Digest.parse(text)


def test_a_digest_knows_its_bytes() -> None:
    digest = Digest.of(b"hello")
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(b"hello")
    assert not digest.matches(b"hellO")
    assert Digest.parse("sha512:" + HEX * 2).algorithm == "sha512"


@pytest.mark.parametrize("name", ["nginx", "library/nginx", "a/b-c/d_e/f__g/h.i", "a" * 255])
def test_a_repository_name_is_read(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../etc/passwd",
        "a/../b",
        "a/./b",
        "A",
        "a b",
        "a%2fb",
        "a\n",
        "a\x00",
        "a/.b",
        "a" * 256,
        "é",
    ],
)
def test_a_repository_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_name(name)


@pytest.mark.parametrize(
    "name", ["docker.io", "localhost", "127.0.0.1:5000", "[::1]:5000", "[fd00::1]", "reg-1.example.com:65535"]
)
def test_a_registry_is_read(name: str) -> None:
    assert parse_registry(name) == name


def test_registries_differ_not_by_case() -> None:
    assert parse_registry("Docker.IO") == "docker.io"


@pytest.mark.parametrize(
    "name", ["", "a/b", "a:0", "a:65536", "a:b", "user@host", "http://a", "a..b", "-a", "a\n", "[::1", "a?b", "x" * 256]
)
def test_a_registry_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_registry(name)


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a" * 129, "a/b", "a b", "ä"])
def test_a_tag_outside_the_grammar_is_refused(tag: str) -> None:
    with pytest.raises(InvalidReferenceError):
        Tag.parse(tag)


def test_a_reference_with_a_colon_is_a_digest() -> None:
    assert parse_reference("sha256:" + HEX) == Digest("sha256", HEX)
    assert parse_reference("v1.2_3-rc") == Tag("v1.2_3-rc")
    assert str(Repository.parse("docker.io", "library/nginx")) == "docker.io/library/nginx"


@pytest.mark.parametrize(
    ("header", "size", "positions"),
    [
        ("bytes=0-", 10, range(10)),
        ("bytes=3-", 10, range(3, 10)),
        ("bytes=3-5", 10, range(3, 6)),
        ("bytes=3-99", 10, range(3, 10)),
        ("bytes=-4", 10, range(6, 10)),
        ("bytes=-99", 10, range(10)),
        ("bytes=9-9", 10, range(9, 10)),
        ("Bytes = 1-2", 10, range(1, 3)),
    ],
)
def test_a_range_names_positions(header: str, size: int, positions: range) -> None:
    parsed = ByteRange.parse(header)
    assert parsed is not None
    assert parsed.resolve(size) == positions


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_beyond_the_end_names_no_position(header: str) -> None:
    parsed = ByteRange.parse(header)
    assert parsed is not None
    assert not parsed.resolve(10)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=1-2,4-5",
        "items=0-1",
        "bytes=+1-2",
        "bytes=" + "9" * 19 + "-",
        "bytes=\u0661-",
    ],
)
def test_a_range_that_a_server_may_ignore_is_ignored(header: str | None) -> None:
    assert ByteRange.parse(header) is None


@given(st.integers(0, 10**6), st.one_of(st.none(), st.integers(0, 10**6)), st.integers(0, 10**6))
def test_a_range_written_is_the_range_read(first: int, last: int | None, size: int) -> None:
    byte_range = ByteRange(first, None if last is None else first + last)
    assert ByteRange.parse(str(byte_range)) == byte_range
    assert all(0 <= position < size for position in byte_range.resolve(size)[:3])


@given(st.text())
def test_reading_any_text_raises_nothing_but_the_grammars_error(text: str) -> None:
    ByteRange.parse(text)
    for parse in (Digest.parse, Tag.parse, parse_name, parse_registry, parse_reference):
        with contextlib.suppress(InvalidReferenceError):
            parse(text)


def test_the_media_type_of_a_manifest_is_read_back() -> None:
    assert manifest_media_type(json.dumps({"mediaType": DOCKER_LIST}).encode()) == DOCKER_LIST
    assert manifest_media_type(b'{"manifests": []}') == OCI_INDEX
    assert manifest_media_type(b'{"config": {}, "layers": []}') == OCI_MANIFEST


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b'{"architecture": "amd64", "config": {}}', b"[" * 100_000]
)
def test_what_is_no_manifest_has_no_media_type(data: bytes) -> None:
    assert manifest_media_type(data) is None


@pytest.mark.parametrize(
    ("text", "repository", "reference"),
    [
        ("nginx", "docker.io/library/nginx", "latest"),
        ("nginx:1.27", "docker.io/library/nginx", "1.27"),
        ("team/app", "docker.io/team/app", "latest"),
        ("docker.io/nginx:1", "docker.io/library/nginx", "1"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx", "latest"),
        ("registry.test/a/b:v1", "registry.test/a/b", "v1"),
        ("localhost/a", "localhost/a", "latest"),
        ("localhost:5000/a:v1", "localhost:5000/a", "v1"),
        ("[::1]:5000/a", "[::1]:5000/a", "latest"),
        (f"registry.test/a:v1@sha256:{HEX}", "registry.test/a", f"sha256:{HEX}"),
        (f"a@sha256:{HEX}", "docker.io/library/a", f"sha256:{HEX}"),
    ],
)
def test_an_images_name_is_read_as_people_write_it(text: str, repository: str, reference: str) -> None:
    parsed, meant = parse_image_name(text)
    assert (str(parsed), str(meant)) == (repository, reference)


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a:", "a@", "a@sha256:x", "http://registry.test/a", "a b", "../a", "a:v\n"]
)
def test_what_is_no_images_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        parse_image_name(text)
