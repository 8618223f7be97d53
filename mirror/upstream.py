"""The upstream registry, asked as the client asked, with the client's own credentials.

The agent holds none itself. A challenge (401 with WWW-Authenticate) goes back to the client unchanged, so that it
authenticates to the registry's own token server and comes back with the header that is passed on here. Redirects
are followed; the header is dropped when one leads to another host (aiohttp does so at every change of origin). Neither
a name nor a redirect leads to what only this node should reach (`mirror.address_guard`).

What an answer means: 2xx is content; 4xx belongs to this client and is relayed to it alone; 429, 5xx, silence and
nonsense mean that the registry is unavailable, so that the cluster's own knowledge, or the runtime itself, goes on.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from mirror.address_guard import AddressGuard
from mirror.errors import OverQuotaError, RefusedError, UnavailableError
from mirror.http_client import CLIENT_ERRORS, OPENED, open_response, read_descriptor, reason, refuse_encoded, timeout
from mirror.listings import LISTING_BYTES_MAX, Listing
from mirror.oci import MANIFEST_BYTES_MAX, Descriptor, Digest
from mirror.source import read_all
from mirror.verified import open_verified

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.listings import ListingRequest
    from mirror.registries import Registries
    from mirror.source import Content, Request

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
"""The longest silence before the first bytes of an answer's body. All waits together stay below 25 s, since containerd
gives up on an answer after 30 s."""
REDIRECTS_MAX: Final = 5
REFUSAL_BYTES_MAX: Final = 64 * 1024

RELAYED_HEADERS: Final = ("WWW-Authenticate", "Content-Type", "Docker-Distribution-Api-Version", "Retry-After")


class Upstream:
    """Every registry as a `Source`; used inside `async with`."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._guard = AddressGuard(lambda: registries.configured_urls)
        self._contexts: dict[Path, ssl.SSLContext] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Upstream:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=self._guard.resolver, socket_factory=self._guard.open_socket
            ),
            timeout=timeout(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            auto_decompress=False,
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
        response = await self._ask("HEAD", request)
        try:
            descriptor = read_descriptor(request, response)
        finally:
            response.release()
        return descriptor or await self._resolve_by_get(request)

    async def open(self, request: Request) -> Content:
        """Open by digest; small objects come back verified."""
        return await open_verified(self._open, request)

    async def list(self, request: ListingRequest) -> Listing:
        """Ask for one page of a list of tags or referrers."""
        headers = {} if request.authorization is None else {"Authorization": request.authorization}
        registry = request.repository.registry
        response = await self._send("GET", registry, request.path, headers)
        if response.status != 200:
            raise await _failure(registry, response)
        body = b""
        try:
            refuse_encoded(response)
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LISTING_BYTES_MAX:
                    raise UnavailableError(f"{registry} lists more than {LISTING_BYTES_MAX} bytes on one page")
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"{registry} broke off: {reason(error)}") from error
        finally:
            response.close()
        return Listing.read(response.headers, body)

    async def _open(self, request: Request) -> Content:
        response = await self._ask("GET", request)
        return await open_response(request, response, "upstream")

    async def _resolve_by_get(self, request: Request) -> Descriptor:
        response = await self._ask("GET", request.in_part(None))
        # Which digest it has is just what is asked here: any stands for it until the bytes are known.
        unknown = request.in_part(None).by_digest(Digest.of(b""))
        content = await open_response(unknown, response, "upstream")
        data = await read_all(content.body, MANIFEST_BYTES_MAX)
        return Descriptor(content.descriptor.media_type, Digest.of(data), len(data))

    async def _ask(self, method: str, request: Request) -> aiohttp.ClientResponse:
        """Send the request; returns an answer of `OPENED`, raises `RefusedError` or `UnavailableError` otherwise."""
        registry = request.repository.registry
        headers = {"Accept": request.accept or "*/*"}
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        if request.range is not None and method == "GET":
            headers["Range"] = str(request.range)
        path = f"/v2/{request.repository.name}/{request.kind.value}/{request.reference}"
        response = await self._send(method, registry, path, headers)
        if response.status in OPENED:
            return response
        raise await _failure(registry, response)

    async def _send(self, method: str, registry: str, path: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        assert self._session is not None, "an upstream is used inside `async with`"
        endpoint = self._registries.endpoint(registry)
        try:
            self._guard.check_url(endpoint.url)
            return await self._session.request(
                method,
                URL(endpoint.url + path, encoded=True),
                headers=headers,
                max_redirects=REDIRECTS_MAX,
                allow_redirects=True,
                ssl=self._context(endpoint.ca_file),
            )
        except CLIENT_ERRORS as error:
            raise UnavailableError(f"{registry} does not answer: {reason(error)}") from error

    def _context(self, ca_file: Path | None) -> ssl.SSLContext | bool:
        if ca_file is None:
            return True
        if ca_file not in self._contexts:
            context = ssl.create_default_context()
            context.load_verify_locations(ca_file)
            self._contexts[ca_file] = context
        return self._contexts[ca_file]


async def _failure(registry: str, response: aiohttp.ClientResponse) -> RefusedError | UnavailableError:
    """What an answer other than 200 and 206 means. Closes the response."""
    try:
        if response.status == 429:
            return OverQuotaError(f"{registry} answered 429: too many requests of this client")
        if not 400 <= response.status < 500:
            return UnavailableError(f"{registry} answered {response.status}")
        body = await response.content.read(REFUSAL_BYTES_MAX)
    except CLIENT_ERRORS as error:
        return UnavailableError(f"{registry} broke off: {reason(error)}")
    finally:
        response.close()
    headers = tuple((name, value) for name in RELAYED_HEADERS for value in response.headers.getall(name, ()))
    return RefusedError(response.status, headers, body)
