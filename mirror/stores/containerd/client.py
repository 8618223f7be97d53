"""containerd's gRPC API, as far as it is used, with typed answers and this package's errors.

Every failure is an `UnavailableError` that tells in one line what containerd (or the socket) said.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

from mirror.errors import UnavailableError
from mirror.oci import Digest, InvalidReferenceError
from mirror.stores.containerd.api.content_pb2 import InfoRequest, InfoResponse
from mirror.stores.containerd.api.events_pb2 import Envelope, SubscribeRequest
from mirror.stores.containerd.api.images_pb2 import Image, ListImagesRequest, ListImagesResponse
from mirror.stores.containerd.api.introspection_pb2 import PluginsRequest, PluginsResponse
from mirror.stores.containerd.api.leases_pb2 import (
    AddResourceRequest,
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResourceRequest,
    ListResourcesRequest,
    ListResourcesResponse,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

CALL_TIMEOUT_S: Final = 5.0
"""How long containerd may take for one answer; it needs a millisecond unless it hangs."""

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest listing that is read: about 100,000 image records, or more than 500,000 objects of a lease."""

RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 2.0
"""Pauses between tries to reach a containerd that is away: doubled each time, from the least to the most."""

_log = logging.getLogger(__name__)


class Containerd:
    """One connection to a containerd. Made by `connect`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        def call(path: str, request: type[Message], response: type[Message]) -> Callable[..., Any]:
            stub: Callable[..., Any] = channel.unary_unary(
                f"/containerd.services.{path}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            return stub

        self._plugins = call("introspection.v1.Introspection/Plugins", PluginsRequest, PluginsResponse)
        self._images = call("images.v1.Images/List", ListImagesRequest, ListImagesResponse)
        self._content_info = call("content.v1.Content/Info", InfoRequest, InfoResponse)
        self._create_lease = call("leases.v1.Leases/Create", CreateRequest, CreateResponse)
        self._delete_lease = call("leases.v1.Leases/Delete", DeleteRequest, Empty)
        self._add_resource = call("leases.v1.Leases/AddResource", AddResourceRequest, Empty)
        self._delete_resource = call("leases.v1.Leases/DeleteResource", DeleteResourceRequest, Empty)
        self._list_resources = call("leases.v1.Leases/ListResources", ListResourcesRequest, ListResourcesResponse)
        self._subscribe = channel.unary_stream(
            "/containerd.services.events.v1.Events/Subscribe",
            request_serializer=SubscribeRequest.SerializeToString,
            response_deserializer=Envelope.FromString,
        )

    async def content_directory(self) -> Path:
        """The directory of the content store, as containerd sees it."""
        request = PluginsRequest(filters=["type==io.containerd.content.v1"])
        with _failures_told():
            response: PluginsResponse = await self._plugins(request, timeout=CALL_TIMEOUT_S)
        for plugin in response.plugins:
            if root := plugin.exports.get("root"):
                return Path(root)
        raise UnavailableError("containerd names no content directory: it has no local content store")

    async def images(self, namespace: str) -> Sequence[Image]:
        """All image records of a namespace; none when the namespace does not exist."""
        with _failures_told():
            response: ListImagesResponse = await self._images(
                ListImagesRequest(), metadata=_in(namespace), timeout=CALL_TIMEOUT_S
            )
        return response.images

    async def content_labels(self, namespace: str, digest: Digest) -> Mapping[str, str]:
        """What is noted about an object in a namespace; nothing when it is not there."""
        response = InfoResponse()
        with _failures_told(fine=grpc.StatusCode.NOT_FOUND):
            response = await self._content_info(
                InfoRequest(digest=str(digest)), metadata=_in(namespace), timeout=CALL_TIMEOUT_S
            )
        labels: Mapping[str, str] = response.info.labels
        return labels

    async def create_lease(self, namespace: str, lease: str) -> None:
        """Make a lease of content; one that is there stays as it is. It makes the namespace too.

        The lease is flat: it holds the objects put into it, and not what they refer to. Otherwise an image's
        configuration would hold its unpacked snapshots.
        """
        request = CreateRequest(id=lease, labels={"containerd.io/gc.flat": "true"})
        with _failures_told(fine=grpc.StatusCode.ALREADY_EXISTS):
            await self._create_lease(request, metadata=_in(namespace), timeout=CALL_TIMEOUT_S)

    async def delete_lease(self, namespace: str, lease: str) -> None:
        """Let go of a lease with all that it holds; none is fine. Garbage collection follows by itself."""
        with _failures_told(fine=grpc.StatusCode.NOT_FOUND):
            await self._delete_lease(DeleteRequest(id=lease), metadata=_in(namespace), timeout=CALL_TIMEOUT_S)

    async def leased(self, namespace: str, lease: str) -> set[Digest]:
        """The content that a lease holds, whether it is there or not."""
        with _failures_told():
            response: ListResourcesResponse = await self._list_resources(
                ListResourcesRequest(id=lease), metadata=_in(namespace), timeout=CALL_TIMEOUT_S
            )
        held = set()
        for resource in response.resources:
            with suppress(InvalidReferenceError):
                held.add(Digest.parse(resource.id))
        return held

    async def hold(self, namespace: str, lease: str, digest: Digest) -> None:
        """Put content into a lease, whether it is there (yet) or not."""
        request = AddResourceRequest(id=lease, resource=_content(digest))
        with _failures_told():
            await self._add_resource(request, metadata=_in(namespace), timeout=CALL_TIMEOUT_S)

    async def release(self, namespace: str, lease: str, digest: Digest) -> None:
        """Take content out of a lease. Garbage collection follows by itself."""
        request = DeleteResourceRequest(id=lease, resource=_content(digest))
        with _failures_told():
            await self._delete_resource(request, metadata=_in(namespace), timeout=CALL_TIMEOUT_S)

    async def image_events(self, namespaces: Sequence[str]) -> AsyncGenerator[Envelope, None]:
        """Every creation, change and deletion of an image record from now on, until containerd goes away."""
        filters = [f'namespace=="{namespace}",topic~="^/images/"' for namespace in namespaces]
        with _failures_told():
            async for envelope in self._subscribe(SubscribeRequest(filters=filters)):
                yield envelope
        raise UnavailableError("containerd ended the stream of events")


@asynccontextmanager
async def connect(socket: Path) -> AsyncGenerator[Containerd, None]:
    """A connection to the containerd that listens at `socket`; whether one does, the first call tells."""
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        # Channels of one process share connections, and with them minutes of back-off after a failure. A caller
        # that connects anew wants to try at once.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield Containerd(channel)


class Absence:
    """The time that a containerd is away: told once in the log, however many wait for it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._pause_s = 0.0

    async def wait(self, reason: UnavailableError) -> None:
        """Pause before the next try, longer each time."""
        if not self._pause_s:
            _log.warning("%s: %s; trying again until it answers", self._socket, reason)
        self._pause_s = min(max(2 * self._pause_s, RETRY_S_MIN), RETRY_S_MAX)
        await asyncio.sleep(self._pause_s)

    def over(self) -> None:
        """containerd answered; may be called also when it was never away."""
        if self._pause_s:
            _log.info("%s: containerd answers", self._socket)
        self._pause_s = 0.0


def _in(namespace: str) -> tuple[tuple[str, str], ...]:
    return (("containerd-namespace", namespace),)


def _content(digest: Digest) -> Resource:
    return Resource(id=str(digest), type="content")


@contextmanager
def _failures_told(fine: grpc.StatusCode | None = None) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is fine:
            return
        reason = f"{error.code().name}: {error.details() or 'no reason given'}"
        raise UnavailableError(f"containerd did not answer ({reason})") from error
