"""The upstream registry, asked as the client asked, with the client's own credentials.

The agent holds none itself. A challenge (401 with WWW-Authenticate) goes back to the client unchanged, so that it
authenticates to the registry's own token server and comes back with the header that is passed on here. Redirects
are followed; the header is dropped when one leads to another host (aiohttp does so at every change of origin). Neither
a name nor a redirect leads to what only this node should reach (`mirror.address_guard`). Other mirrors that are set for
a registry are asked before it, and never get the header.

What an answer means: 2xx is content; 4xx belongs to this client and is relayed to it alone; 429, 5xx, silence and
nonsense mean that the registry is unavailable, so that the cluster's own knowledge, or the runtime itself, goes on.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from mirror.address_guard import AddressGuard
from mirror.challenge import read_token
from mirror.errors import OverQuotaError, RefusedError, UnavailableError
from mirror.http_client import (
    CLIENT_ERRORS,
    OPENED,
    open_response,
    read_body,
    read_descriptor,
    reason,
    refuse_encoded,
    timeout,
)
from mirror.listings import LISTING_BYTES_MAX, Listing
from mirror.oci import MANIFEST_BYTES_MAX, OCTET_STREAM, ByteRange, Descriptor, Digest, Kind
from mirror.registries import Endpoint
from mirror.source import read_all
from mirror.verified import open_verified

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mirror.challenge import Challenge
    from mirror.listings import ListingRequest
    from mirror.registries import Registries
    from mirror.source import Content, Request

    _Ask = Callable[[str, Request], Awaitable[aiohttp.ClientResponse]]

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
"""The longest silence before the first bytes of an answer's body. Behind a wait for peers all this may be more than the
client is given: `mirror.registry.ANSWER_S_MAX` cuts it, with an answer that sends the runtime elsewhere."""
RETRY_S: Final = 5.0
"""How long a registry that is out of order or has had enough is left alone, unless it says how long."""
RETRY_S_MAX: Final = 3600
REDIRECTS_MAX: Final = 5
REFUSAL_BYTES_MAX: Final = 64 * 1024
TOKEN_BYTES_MAX: Final = 64 * 1024

MIRROR_S_MAX: Final = 4.0
"""How long a mirror before the registry may take to answer; what one takes is missing for the registry behind it."""

GREETING_S_MAX: Final = 4.0
"""How long a registry may take to say whether it wants to know who asks."""

RELAYED_HEADERS: Final = ("WWW-Authenticate", "Content-Type", "Docker-Distribution-Api-Version", "Retry-After")


class Upstream:
    """Every registry as a `Source`; used inside `async with`."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._guard = AddressGuard(lambda: registries.configured_urls)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Upstream:
        # With the proxies of the environment aiohttp takes the credentials of ~/.netrc, for requests that come without,
        # and refuses those that come with some.
        os.environ["NETRC"] = os.devnull
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=self._guard.resolver, socket_factory=self._guard.open_socket
            ),
            timeout=timeout(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            auto_decompress=False,
            middlewares=(self._guard.check_request,),
            trust_env=True,  # HTTPS_PROXY, HTTP_PROXY, NO_PROXY
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "skvaller", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._session is not None
        await self._session.close()
        await self._guard.resolver.close()

    async def resolve(self, request: Request) -> Descriptor:
        """Ask by HEAD; a registry that leaves out the digest is asked by GET, and the digest computed."""
        return await self._resolve(request, self._ask)

    async def attest(self, request: Request) -> Descriptor:
        """May this client have the object? Asks the registry itself alone. (A blob's size is not told then.)

        Blobs are asked for by GET, for one byte: many registries lead to storage elsewhere, whose links are signed for
        GET and refuse HEAD.
        """
        if request.kind is Kind.MANIFEST:
            return await self._resolve(request, self._ask_itself)
        response = await self._ask_itself("GET", request.in_part(ByteRange(0, 0)))
        response.close()
        return Descriptor(OCTET_STREAM, request.digest, None)

    async def open(self, request: Request) -> Content:
        """Open by digest; small objects come back verified."""
        return await open_verified(self._open, request)

    async def token_for_anybody(self, registry: str, challenge: Challenge) -> str:
        """A token as nobody in particular, from where the registry's challenge says. Raises `UnavailableError`.

        A registry that is reached by TLS must not lead elsewhere: the token would let others in its place.
        """
        itself = self._registries.endpoints(registry)[-1]
        if itself.url.startswith("https:") and not challenge.realm.startswith("https:"):
            raise UnavailableError(f"{registry} names a token server without TLS")
        response = await self._send("GET", registry, Endpoint(challenge.url), "", {})
        try:
            if response.status != 200:
                raise UnavailableError(f"the token server of {registry} answered {response.status}")
            async with asyncio.timeout(READ_TIMEOUT_S):
                token = read_token(await read_body(response, TOKEN_BYTES_MAX))
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"the token server of {registry} broke off: {reason(error)}") from error
        finally:
            response.close()
        if token is None:
            raise UnavailableError(f"the token server of {registry} gave no token")
        return token

    async def greet(self, registry: str, authorization: str | None) -> None:
        """Ask the registry whether it wants to know who asks; raises `RefusedError` with its challenge if it does.

        One that does not answer wants nothing: what the cluster knows of it can be had.
        """
        headers = {} if authorization is None else {"Authorization": authorization}
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(GREETING_S_MAX):
                response = await self._send("GET", registry, self._registries.endpoints(registry)[-1], "/v2/", headers)
                if response.status == 401:
                    raise await _failure(registry, response)
                response.close()

    async def list(self, request: ListingRequest) -> Listing:
        """Ask for one page of a list of tags or referrers."""
        headers = {} if request.authorization is None else {"Authorization": request.authorization}
        registry = request.repository.registry
        response = await self._send("GET", registry, self._registries.endpoints(registry)[-1], request.path, headers)
        if response.status != 200:
            raise await _failure(registry, response)
        try:
            refuse_encoded(response)
            body = await read_body(response, LISTING_BYTES_MAX)
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"{registry} broke off: {reason(error)}") from error
        finally:
            response.close()
        return Listing.read(response.headers, body)

    async def _open(self, request: Request) -> Content:
        response = await self._ask("GET", request)
        return await open_response(request, response, "upstream")

    async def _resolve(self, request: Request, ask: _Ask) -> Descriptor:
        response = await ask("HEAD", request)
        try:
            descriptor = read_descriptor(request, response)
        finally:
            response.release()
        if descriptor is not None:
            return descriptor
        response = await ask("GET", request.in_part(None))
        # Which digest it has is just what is asked here: any stands for it until the bytes are known.
        unknown = request.in_part(None).by_digest(Digest.of(b""))
        content = await open_response(unknown, response, "upstream")
        data = await read_all(content.body, MANIFEST_BYTES_MAX)
        return Descriptor(content.descriptor.media_type, Digest.of(data), len(data))

    async def _ask(self, method: str, request: Request) -> aiohttp.ClientResponse:
        """The first good answer of the registry's mirrors, else its own; as `_ask_itself` otherwise.

        The client's header is for the registry. A mirror that wants to know who asks is passed over.
        """
        registry = request.repository.registry
        path = f"{_path(request)}?{urlencode({'ns': registry})}"
        headers = _headers(method, request)
        for mirror in self._registries.endpoints(registry)[:-1]:
            if not mirror.resolves and not isinstance(request.reference, Digest):
                continue
            with suppress(UnavailableError, TimeoutError):
                async with asyncio.timeout(MIRROR_S_MAX):
                    response = await self._send(method, registry, mirror, path, headers)
                if response.status in OPENED:
                    return response
                response.close()
        return await self._ask_itself(method, request)

    async def _ask_itself(self, method: str, request: Request) -> aiohttp.ClientResponse:
        """An answer of `OPENED`; raises `RefusedError` or `UnavailableError` otherwise."""
        registry = request.repository.registry
        headers = _headers(method, request)
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        itself = self._registries.endpoints(registry)[-1]
        response = await self._send(method, registry, itself, _path(request), headers)
        if response.status in OPENED:
            return response
        raise await _failure(registry, response)

    async def _send(
        self, method: str, registry: str, endpoint: Endpoint, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "an upstream is used inside `async with`"
        try:
            together = CIMultiDict(endpoint.headers)
            together.update(headers)  # in the place of those of the same name
            return await self._session.request(
                method,
                URL(endpoint.address(path), encoded=True),
                headers=together,
                max_redirects=REDIRECTS_MAX,
                allow_redirects=True,
                ssl=self._registries.context(endpoint),
            )
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"{registry} does not answer: {reason(error)}") from error


def _path(request: Request) -> str:
    return f"/v2/{request.repository.name}/{request.kind.value}/{request.reference}"


def _headers(method: str, request: Request) -> dict[str, str]:
    headers = {"Accept": request.accept or "*/*"}
    if request.range is not None and method == "GET":
        headers["Range"] = str(request.range)
    return headers


def _retry_s(response: aiohttp.ClientResponse) -> float:
    """How long the registry wants to be left alone. (A date instead of seconds is rare, and taken for none.)"""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and 0 < int(text) <= RETRY_S_MAX else RETRY_S


async def _failure(registry: str, response: aiohttp.ClientResponse) -> RefusedError | UnavailableError:
    """What an answer other than 200 and 206 means. Closes the response.

    Of a refusal the status and the challenge count: a body that breaks off or is too large is left out.
    """
    body = b""
    try:
        if response.status == 429 or (response.status >= 500 and "Retry-After" in response.headers):
            message = f"{registry} answered {response.status}: it wants to be left alone for a while"
            return OverQuotaError(message, _retry_s(response))
        if not 400 <= response.status < 500:
            return UnavailableError(f"{registry} answered {response.status}", RETRY_S)
        with suppress(*CLIENT_ERRORS):
            async with asyncio.timeout(READ_TIMEOUT_S):
                body = await read_body(response, REFUSAL_BYTES_MAX)
    finally:
        response.close()
    headers = tuple((name, value) for name in RELAYED_HEADERS for value in response.headers.getall(name, ()))
    return RefusedError(response.status, headers, body)
