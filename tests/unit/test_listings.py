"""Tags and referrers: the registry is asked as the client asked, and the next page leads through the mirror again."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror import upstream as upstream_module
from mirror.errors import RefusedError
from mirror.listings import Listing, ListingRequest
from mirror.metrics import Metrics
from mirror.oci import Digest, Repository
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.upstream import Upstream
from tests.serving import Script, Scripted, answering, scripted, serving

REGISTRY = "registry.test"
SUBJECT = Digest.of(b"subject")
TAGS = b'{"name": "lib/app", "tags": ["v1", "v2"]}'


async def ask(server: Scripted, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """What a mirror of `server` answers to a GET."""
    async with Upstream(Registries({REGISTRY: (Endpoint(server.url),)})) as upstream:
        app = create_registry(upstream, Metrics().face("client"), lists=upstream)
        async with serving(app) as base, aiohttp.ClientSession() as session:
            async with session.get(f"{base}{path}", headers=headers) as response:
                return response.status, response.headers.copy(), await response.read()


def tags_page(*headers: str) -> Script:
    return answering("200 OK", ["Content-Type: application/json", f"Content-Length: {len(TAGS)}", *headers], TAGS)


@pytest.mark.parametrize("asked", ["lib/app/tags/list?n=2&ns=registry.test", "registry.test/lib/app/tags/list?n=2"])
async def test_tags_are_asked_of_the_registry_with_the_clients_own_credentials(asked: str) -> None:
    async with scripted(tags_page()) as server:
        status, headers, body = await ask(server, f"/v2/{asked}", Authorization="Bearer token")
    assert (status, headers["Content-Type"], body) == (200, "application/json", TAGS)
    (heard,) = server.heard
    assert heard.path == "/v2/lib/app/tags/list?n=2"
    assert heard.headers["authorization"] == "Bearer token"
    assert "Bearer" not in repr(ListingRequest(Repository(REGISTRY, "lib/app"), authorization="Bearer token"))


@pytest.mark.parametrize(
    ("asked", "following"),
    [
        ("/v2/lib/app/tags/list?ns=registry.test", "/v2/lib/app/tags/list?last=v2&n=2&ns=registry.test"),
        ("/v2/registry.test/lib/app/tags/list", "/v2/registry.test/lib/app/tags/list?last=v2&n=2"),
    ],
)
@pytest.mark.parametrize("host", ["", "http://elsewhere.test"])
async def test_the_next_page_is_asked_of_the_mirror_too(asked: str, following: str, host: str) -> None:
    async with scripted(tags_page(f'Link: <{host}/v2/lib/app/tags/list?last=v2&n=2>; rel="next"')) as server:
        _, headers, _ = await ask(server, asked)
    assert headers["Link"] == f'<{following}>; rel="next"'


async def test_referrers_come_with_the_filters_that_the_registry_applied() -> None:
    index = b'{"schemaVersion": 2, "manifests": []}'
    media_type = "application/vnd.oci.image.index.v1+json"
    answer = [f"Content-Type: {media_type}", "OCI-Filters-Applied: artifactType", f"Content-Length: {len(index)}"]
    path = f"lib/app/referrers/{SUBJECT}"
    async with scripted(answering("200 OK", answer, index)) as server:
        status, headers, body = await ask(server, f"/v2/{path}?artifactType=a%2Fb%2Bc&ns={REGISTRY}")
    assert (status, headers["Content-Type"], body) == (200, media_type, index)
    assert headers["OCI-Filters-Applied"] == "artifactType"
    assert server.heard[0].path == f"/v2/{path}?artifactType=a%2Fb%2Bc"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("lib/app/referrers/v1?ns=registry.test", 400),
        ("lib/app/tags/list", 404),
        ("lib/App/tags/list?ns=registry.test", 400),
        ("lib/app/tags/list?ns=registry.test/evil", 400),
    ],
)
async def test_what_the_grammar_refuses_is_not_passed_on(path: str, status: int) -> None:
    async with scripted(tags_page()) as server:
        assert (await ask(server, f"/v2/{path}"))[0] == status
    assert server.heard == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (answering("401 Unauthorized", ["WWW-Authenticate: Basic realm=x", "Content-Length: 0"]), 401),
        (answering("404 Not Found", ["Content-Length: 0"]), 404),
        (answering("429 Too Many Requests", ["Content-Length: 0"]), 503),
        (answering("206 Partial Content", ["Content-Length: 2"], b"{}"), 503),
        (answering("200 OK", ["Content-Encoding: gzip", "Content-Length: 2"], b"{}"), 503),
        (answering("200 OK", ["Content-Length: 20"], b"{}"), 503),
    ],
)
async def test_a_no_is_relayed_and_trouble_is_unavailable(answer: Script, status: int) -> None:
    async with scripted(answer) as server:
        answered, headers, _ = await ask(server, f"/v2/lib/app/tags/list?ns={REGISTRY}")
    assert answered == status
    assert headers.get("WWW-Authenticate") == ("Basic realm=x" if status == 401 else None)


async def test_a_page_beyond_the_limit_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "LISTING_BYTES_MAX", len(TAGS) - 1)
    async with scripted(tags_page()) as server:
        assert (await ask(server, f"/v2/lib/app/tags/list?ns={REGISTRY}"))[0] == 503


NEXT = {"last": "v2", "n": "2"}


@pytest.mark.parametrize(
    "links",
    [
        ['</v2/x?last=v2&n=2>; rel="next"'],
        ["</v2/x?last=v2&n=2>;rel=next"],
        ['</v2/x?last=v2&n=2> ; title="x" ; REL = "Next"'],
        ['</v2/x?last=v2&n=2>; title="; rel=prev, \\" <x>"; rel="last next"'],
        ['</v2/x?last=v2&n=2>; crossorigin; rel="next"; type="a/b"'],
        ['</v2/x?last=v1>; rel="prev", </v2/x?last=v2&n=2>; rel="next"'],
        ['</v2/x?last=v1>; rel="prev"', '</v2/x?last=v2&n=2>; rel="next"'],
        ['<http://[/v2/x?last=v1>; rel="next", </v2/x?last=v2&n=2>; rel="next"'],
    ],
)
def test_the_next_page_is_found_wherever_it_stands(links: list[str]) -> None:
    headers = CIMultiDict(("Link", link) for link in links)
    assert dict(Listing.read(headers, TAGS).next_query) == NEXT


@pytest.mark.parametrize(
    "link",
    [
        "",
        "nonsense",
        '</v2/x?n=2>; rel="prev"',
        '<>; rel="next"',
        '</v2/x?n=2>; title="rel=next"',
        '</v2/x?n=2>; xrel="next"',
        "</v2/x?n=2>; rel",
        '<http://[/v2/x?n=2>; rel="next"',
    ],
)
def test_a_link_that_leads_nowhere_is_left_out(link: str) -> None:
    assert "Link" not in Listing.read(CIMultiDict({"Link": link}), TAGS).headers("/v2/x", [])


@given(st.text() | st.text('<>;="\\, relnxt?'))
def test_any_link_can_be_read(link: str) -> None:
    Listing.read(CIMultiDict({"Link": link}), TAGS).headers("/v2/x", [])


async def test_a_refusal_names_its_status() -> None:
    async with scripted(answering("403 Forbidden", ["Content-Length: 0"])) as server:
        async with Upstream(Registries({REGISTRY: (Endpoint(server.url),)})) as upstream:
            with pytest.raises(RefusedError, match="403"):
                await upstream.list(ListingRequest(Repository(REGISTRY, "lib/app")))
