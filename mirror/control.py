"""What can be done to running agents from a machine of the cluster, by POST on the client face.

    POST /-/mirroring?on=false                   the kill switch of this agent; GET tells how it stands
    POST /-/mirroring?on=false&everywhere=true   the kill switch of all agents
    POST /-/invalidate?image=nginx:latest        no node believes any more what it knew of this tag

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


class Agent(Protocol):
    """The settings in force on this node."""

    @property
    def mirroring(self) -> bool:
        """Whether anything is mirrored, as far as this agent alone is asked."""
        ...

    def switch(self, *, on: bool) -> None:
        """Throw the kill switch of this agent."""
        ...


class Agents(Protocol):
    """What is known to all nodes; `now` is in seconds of Unix time."""

    @property
    def mirroring(self) -> bool:
        """Whether anything is mirrored, as far as all agents are asked."""
        ...

    def switch(self, *, on: bool, now: float) -> None:
        """Throw the kill switch of all agents."""
        ...

    def invalidate(self, repository: Repository, tag: Tag, now: float) -> None:
        """Let nobody believe any more what was verified of a tag."""
        ...


def control_routes(agent: Agent, agents: Agents, clock: Callable[[], float]) -> list[Route]:
    """The routes to add to the client face."""

    async def mirroring(request: Request) -> Response:
        if request.method == "POST":
            on = read_flag(request.query_params.get("on", ""))
            if read_flag(request.query_params.get("everywhere", "false")):
                agents.switch(on=on, now=clock())
            else:
                agent.switch(on=on)
        return _json({"here": agent.mirroring, "everywhere": agents.mirroring})

    async def invalidation(request: Request) -> Response:
        repository, reference = parse_image_name(request.query_params.get("image", ""))
        if not isinstance(reference, Tag):
            raise InvalidReferenceError("a digest always means the same: name a tag")
        agents.invalidate(repository, reference, clock())
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
