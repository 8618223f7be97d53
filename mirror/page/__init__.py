"""The live page: an HTML file, its style and its scripts, served as they are below `/-/` on the client face.

It needs nothing from elsewhere, which its content security policy also forbids, and reads what the local API tells
(`mirror.local_api`, `mirror.feed`). It changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

PAGE_PREFIX: Final = "/-"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_MEDIA_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_START: Final = "page.html"


def create_page() -> Starlette:
    """The app to mount at `PAGE_PREFIX`."""
    files = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in _MEDIA_TYPES)
    return Starlette(routes=[_route("" if file.name == _START else file.name, file) for file in files])


def _route(path: str, file: Path) -> Route:
    content = file.read_bytes()

    async def give(_: Request) -> Response:
        return Response(content, media_type=_MEDIA_TYPES[file.suffix], headers=HEADERS)

    return Route(f"/{path}", give, methods=["GET"])
