"""What can be done to a running agent from its own machine, by POST on the client face.

    POST /-/mirroring?on=false                the kill switch of this agent; GET tells how it stands
    POST /-/invalidate?image=nginx:latest     no node believes any more what it knew of this tag

Who may reach the client face may do this: every process of the machine. A web browser on it could be led here by any
page, so a request with an Origin is refused. What cannot be done is `{"error": "<one sentence>"}` with 400 or 403.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import orjson
from starlette.responses import Response
from starlette.routing import Route

from mirror.oci import InvalidReferenceError, Tag, parse_image_name
from mirror.options import read_flag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from mirror.oci import Repository


class Switch(Protocol):
    """The kill switch."""

    @property
    def mirroring(self) -> bool:
        """Whether anything is mirrored."""
        ...

    def switch(self, *, on: bool) -> None:
        """Throw it."""
        ...


def control_routes(switch: Switch, invalidate: Callable[[Repository, Tag], None]) -> list[Route]:
    """The routes to add to the client face."""

    async def mirroring(request: Request) -> Response:
        if request.method == "POST":
            switch.switch(on=read_flag(request.query_params.get("on", "")))
        return _json({"mirroring": switch.mirroring})

    async def invalidation(request: Request) -> Response:
        repository, reference = parse_image_name(request.query_params.get("image", ""))
        if not isinstance(reference, Tag):
            raise InvalidReferenceError("a digest always means the same: name a tag")
        invalidate(repository, reference)
        return _json({"image": f"{repository}:{reference}"})

    return [
        Route("/-/mirroring", _careful("on", mirroring), methods=["GET", "POST"]),
        Route("/-/invalidate", _careful("image", invalidation), methods=["POST"]),
    ]


def _careful(
    parameter: str, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The same for programs alone, with errors told; `parameter` is what can be wrong."""

    async def careful(request: Request) -> Response:
        if "origin" in request.headers:
            return _json({"error": "this is for programs on this machine, not for web pages"}, 403)
        try:
            return await endpoint(request)
        except ValueError as error:
            return _json({"error": f"{parameter}: {error}"}, 400)

    return careful


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
