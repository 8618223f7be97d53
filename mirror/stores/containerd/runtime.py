"""What is asked of the runtime as a whole, and not of its store: its version, and a pull such as a kubelet's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

from mirror.errors import UnavailableError
from mirror.stores.containerd.api.runtime_pb2 import ImageSpec, PullImageRequest, PullImageResponse, VersionResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

VERSION_S_MAX: Final = 5.0
PULL_S_MAX: Final = 30.0
"""A registry that does not exist takes its time where the DNS does not answer."""


class NoCriError(UnavailableError):
    """There is no CRI plugin: the runtime serves no kubelet."""


class Runtime:
    """One connection to a runtime. Made by `open_runtime`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._version = channel.unary_unary(
            "/containerd.services.version.v1.Version/Version",
            request_serializer=Empty.SerializeToString,
            response_deserializer=VersionResponse.FromString,
        )
        self._pull = channel.unary_unary(
            "/runtime.v1.ImageService/PullImage",
            request_serializer=PullImageRequest.SerializeToString,
            response_deserializer=PullImageResponse.FromString,
        )

    async def version(self) -> str:
        """What it says it is, such as `1.7.24~ds1` or `v2.4.2`. Raises `UnavailableError`."""
        answer: VersionResponse = await _call(self._version, Empty(), VERSION_S_MAX)
        return answer.version

    async def try_pull(self, image: str) -> bool:
        """Pull an image, without credentials; whether that went well. Raises `NoCriError`."""
        try:
            await _call(self._pull, PullImageRequest(image=ImageSpec(image=image)), PULL_S_MAX)
        except NoCriError:
            raise
        except UnavailableError:
            return False
        return True


@asynccontextmanager
async def open_runtime(socket: Path) -> AsyncGenerator[Runtime]:
    """A connection to the runtime that listens at `socket`; whether one does, the first call tells."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield Runtime(channel)


async def _call(method: Any, request: Any, timeout_s: float) -> Any:
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        details = error.details() or error.code().name
        unimplemented = error.code() is grpc.StatusCode.UNIMPLEMENTED
        raise (NoCriError if unimplemented else UnavailableError)(details) from error
