"""The read-only JSON API of an agent, below `/-/api/` on its client face: for programs on the same machine.

    GET /-/api/node                       who this agent is, whom it knows, what it refused
    GET /-/api/explain?image=nginx:1.27   every object of an image: who holds it, and where it would come from
    GET /-/api/last?image=nginx:1.27      the last answer that the runtime got about the image's name
    GET /-/api/status                     this agent in numbers
    GET /-/api/members, zones             the cluster, by member and by zone
    GET /-/api/find?what=nginx            who has an image or a digest
    GET /-/api/transfers                  what is moving now
    GET /-/api/herd?digest=sha256:...     which nodes take an object from which now; &registry=docker.io unless said
    GET /-/api/pulls?after=0&limit=100    the latest objects that were given, from where, and why from there
    GET /-/api/settings                   this agent's settings, without secrets
    GET /-/api/events                     what changes, as server-sent events (`mirror.feed`)

What cannot be answered is `{"error": "<one sentence>"}` with 400 (the question is wrong) or 404 (there is nothing).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from mirror.cluster import PEER_PORT
from mirror.errors import SourceError
from mirror.oci import Digest, InvalidReferenceError, Kind, parse_image_name, parse_registry
from mirror.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

    from gossip import Member, Node
    from mirror.explain import Explainer
    from mirror.feed import Feed
    from mirror.herd.watch import HerdWatch
    from mirror.herd.words import Part
    from mirror.journal import Journal
    from mirror.oci import Reference, Repository
    from mirror.peers import Peers
    from mirror.settings import Settings
    from mirror.stores import Store

    Answer = Callable[[QueryParams], Awaitable[object]]

PREFIX: Final = "/-/api"


class QuestionError(Exception):
    """The question cannot be answered; says why. `status` is the HTTP status that goes with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_local_api(answers: Mapping[str, Answer], feed: Feed | None = None) -> Starlette:
    """The app to mount at `PREFIX`; `answers` has what each path gives, by name, from the query."""

    def route(name: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return _json(await answer(request.query_params))
            except QuestionError as error:
                return _json({"error": str(error)}, error.status)

        return Route(f"/{name}", endpoint, methods=["GET"])

    async def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json({"error": f"there is {', '.join(sorted(answers))}, by GET"}, error.status_code)

    routes = [route(name, answer) for name, answer in answers.items()]
    if feed is not None:
        routes.append(Route("/events", feed.listen, methods=["GET"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: unknown})


def answer_node(
    node: Node,
    settings: Settings,
    store: Store,
    peers: Peers,
    *,
    refused: Callable[[], int],
    switches: Callable[[], Mapping[str, bool]],
) -> Answer:
    """Gives what an agent is and knows of others, without any secret.

    `refused` counts who was kept out as a peer; `switches` tells how the kill switches stand, here and everywhere.
    """

    async def answer(_: QueryParams) -> object:
        counters = node.counters
        return {
            "version": installed_version(),
            "name": settings.name,
            "cluster": settings.cluster,
            "secret": settings.secret_file is not None,
            "zone": settings.zone,
            "seeds": settings.seeds,
            "store": settings.store,
            "mirroring": switches(),
            "store_answers": store.answering_since is not None,
            "containerd_socket": str(settings.containerd_socket),
            "registry_ports": {each.registry: each.port for each in settings.registry_ports},
            "pin_bytes_max": settings.containerd_pin_bytes_max,
            "time": time.time(),
            "me": _member(node.me),
            "members": [_member(member) | {"suspect": node.ranked_last(member.name)} for member in node.members()],
            "refused_connections": counters.refused_connections,
            "refused_peers": refused(),
            "refused_by_peers": peers.refused,
            "dropped_messages": dict(counters.dropped),
            "conflicts": counters.conflicts,
        }

    return answer


def answer_explain(explainer: Explainer) -> Answer:
    """Gives what would become of a pull of the image that the query names."""

    async def answer(query: QueryParams) -> object:
        repository, reference = _image(query)
        try:
            return asdict(await explainer.explain(repository, reference))
        except SourceError as error:
            raise QuestionError(404, f"{repository}: what {reference} means is not known here: {error}") from error

    return answer


def read_object(query: QueryParams) -> tuple[str, Digest]:
    """The registry (`docker.io` unless said) and the digest that a query names. Raises `QuestionError`."""
    try:
        return parse_registry(query.get("registry", "docker.io")), Digest.parse(query.get("digest", ""))
    except InvalidReferenceError as error:
        raise QuestionError(400, f"digest and registry: {error}") from error


def answer_herd(watch: HerdWatch) -> Answer:
    """Gives the herd of an object, as the nodes themselves tell it now."""

    async def answer(query: QueryParams) -> object:
        return await watch.look(*read_object(query))

    return answer


def answer_part(own_part: Callable[[str, Digest], Part]) -> Answer:
    """Gives this node's own part in the herd of an object: the answer to other nodes that look."""

    async def answer(query: QueryParams) -> object:
        return own_part(*read_object(query))

    return answer


def answer_last(journal: Journal) -> Answer:
    """Gives the last answer about the tag or digest that the query names; `last` is null when nobody asked lately."""

    async def answer(query: QueryParams) -> object:
        repository, reference = _image(query)
        return {"last": journal.last(repository.registry, f"{repository.name}/{Kind.MANIFEST.value}/{reference}")}

    return answer


def _image(query: QueryParams) -> tuple[Repository, Reference]:
    try:
        return parse_image_name(query.get("image", ""))
    except InvalidReferenceError as error:
        raise QuestionError(400, f"image: {error}") from error


def _member(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "address": member.address,
        "zone": member.zone,
        "peer_port": int(member.attributes.get(PEER_PORT, 0)),
        "publish_port": member.publish_port,
        "router_port": member.router_port,
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
