"""Who may see the live page from another machine: whoever has its token. Pure-ASGI middleware.

A program sends the token as `Authorization: Bearer TOKEN`. A browser is given it once, as `/-/?token=TOKEN`, and keeps
it in a cookie that scripts do not see and other sites do not send. The connection is not encrypted: on a network that
is not trusted, put a proxy with TLS in front.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, unquote

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from mirror.doors import DoorObserver

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_BYTES_MAX: Final = 4096
COOKIE: Final = "skvaller-token"
_BEARER: Final = "Bearer "


class TokenError(OSError):
    """The file with the token cannot be used; says which and why."""


def read_token(file: Path) -> str:
    """The token in a file, without white space around it. Raises `TokenError`."""
    try:
        with file.open("rb") as opened:
            token = opened.read(TOKEN_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"cannot read the page's token from {file}: {error}") from error
    if len(token) < TOKEN_CHARACTERS_MIN or not token.isprintable():
        raise TokenError(
            f"the page's token in {file} is not at least {TOKEN_CHARACTERS_MIN} printable characters: "
            f"make one with `openssl rand -hex 32 > {file}`"
        )
    return token


class TokenDoor:
    """Lets in requests that have the token; leads a browser that brings it in the query to the page itself."""

    def __init__(self, app: ASGIApp, observer: DoorObserver, token: str) -> None:
        self._app = app
        self._observer = observer
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, give the cookie, or answer 401."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        if self._right(_bearer(headers)) or self._right(_cookie(headers)):
            await self._app(scope, receive, send)
        elif self._right(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]):
            response = RedirectResponse("/-/", 303, {"Cache-Control": "no-store"})
            response.set_cookie(COOKIE, quote(self._token), path="/-/", httponly=True, samesite="strict")
            await response(scope, receive, send)
        else:
            self._observer.refused("token")
            text = "This page needs its token: open /-/?token=TOKEN, or send it as `Authorization: Bearer TOKEN`.\n"
            await PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def _bearer(headers: Headers) -> str:
    value = headers.get("authorization", "")
    return value.removeprefix(_BEARER) if value.startswith(_BEARER) else ""


def _cookie(headers: Headers) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return unquote(cookies[COOKIE].value) if COOKIE in cookies else ""
