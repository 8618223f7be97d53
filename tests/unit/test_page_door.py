"""The live page is shown to another machine only with its token."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mirror.metrics import Metrics
from mirror.page_door import COOKIE, TOKEN_CHARACTERS_MIN, TokenDoor, TokenError, read_token
from tests.serving import serving

TOKEN = "0123456789abcdef;,=%"


@asynccontextmanager
async def page(metrics: Metrics) -> AsyncGenerator[aiohttp.ClientSession]:
    """A page behind the door, and a browser that keeps cookies."""
    routes = [Route("/-/", lambda _: PlainTextResponse("the page"))]
    door = Middleware(TokenDoor, observer=metrics.face("page"), token=TOKEN)
    jar = aiohttp.CookieJar(unsafe=True)  # an IP address may have cookies too
    async with serving(Starlette(routes=routes, middleware=[door])) as url:
        async with aiohttp.ClientSession(url, cookie_jar=jar) as session:
            yield session


async def test_a_browser_brings_the_token_once_and_then_has_a_cookie_that_scripts_and_other_sites_do_not() -> None:
    async with page(Metrics()) as browser:
        async with browser.get("/-/", params={"token": TOKEN}, allow_redirects=False) as response:
            assert response.status == 303
            assert response.headers["Location"] == "/-/", "the token does not stay in the address"
            cookie = response.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
        async with browser.get("/-/") as response:
            assert await response.text() == "the page"


async def test_a_program_sends_it_as_a_header() -> None:
    async with page(Metrics()) as program:
        async with program.get("/-/", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/-/", {}),
        ("/-/?token=", {}),
        ("/-/?token=0123456789abcdex", {}),
        ("/-/", {"Authorization": "Bearer wrong"}),
        ("/-/", {"Authorization": TOKEN}),
        ("/-/", {"Authorization": "Bearer "}),
        ("/-/", {"Cookie": f"{COOKIE}=wrong"}),
        ("/-/", {"Cookie": f"{COOKIE}="}),
        ("/-/", {"Cookie": ";;=,("}),
        ("/-/nowhere", {}),
    ],
)
async def test_anything_else_is_refused_says_how_to_come_in_and_is_counted(path: str, headers: dict[str, str]) -> None:
    metrics = Metrics()
    async with page(metrics) as stranger, stranger.get(path, headers=headers) as response:
        assert response.status == 401
        assert "/-/?token=TOKEN" in await response.text()
    assert metrics.refusals("page", "token") == 1


@pytest.mark.parametrize("text", [None, b"", b"short", b"x" * (TOKEN_CHARACTERS_MIN - 1), b"\xff" * 40, b"a\x00" * 20])
def test_a_file_without_a_usable_token_is_an_error_that_names_it(tmp_path: Path, text: bytes | None) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(TokenError, match="token"):
        read_token(file)


def test_white_space_around_the_token_is_no_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    assert read_token(file) == TOKEN
