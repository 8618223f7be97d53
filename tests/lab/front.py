"""What stands before a registry: an HTTP proxy that counts, and hands out tokens when the registry wants them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that came to a registry, and what was sent back; `body_bytes` is what left, even of a part.

    `client` is the name of the program that asked, and the address it came from.
    """

    method: str
    path: str
    status: int
    body_bytes: int
    client: str


class Front:
    """A proxy to `backend` (a URL), listening at an address of its own; keeps a record of every exchange."""

    def __init__(self, host: str, port: int, backend: str, issuer: TokenIssuer | None) -> None:
        self._address = (host, port)
        self._backend = backend
        self._issuer = issuer
        self._stack = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self.exchanges: list[Exchange] = []
        self.refusal: tuple[int, dict[str, str]] | None = None
        """A status and headers with which everything is answered, for as long as it is set."""

    async def start(self) -> None:
        """Listen."""
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None, sock_read=300))
        )
        app = web.Application(client_max_size=2**40)
        if self._issuer is not None:
            app.router.add_route("*", "/token", self._issuer.answer)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, *self._address).start()

    async def stop(self) -> None:
        """Close the port and every connection."""
        await self._stack.aclose()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        response = web.StreamResponse()
        sent = 0
        client = f"{request.headers.get('User-Agent', '').partition('/')[0]} {request.remote}"
        if self.refusal is not None:
            status, headers = self.refusal
            self.exchanges.append(Exchange(request.method, request.path, status, 0, client))
            return web.Response(status=status, headers=headers)
        try:
            async with self._session.request(
                request.method,
                self._backend + request.raw_path,
                headers=_end_to_end(request.headers),
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            ) as answer:
                response.set_status(answer.status)
                response.headers.extend(_end_to_end(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                    sent += len(chunk)
                await response.write_eof()
        except aiohttp.ClientConnectorError:
            response = web.Response(status=502, text="the registry behind the front is down")
        except aiohttp.ClientConnectionResetError:
            pass  # the client left
        finally:
            self.exchanges.append(Exchange(request.method, request.path, response.status, sent, client))
        return response


class TokenIssuer:
    """A token server as the distribution specification describes: RS256 tokens with the certificate inside."""

    service = "lab-registry"
    issuer = "lab-token-server"

    def __init__(self, username: str, password: str, lifetime_s: int = 300, *, public: bool = False) -> None:
        self._credentials = (username, password)
        self._public = public
        self._lifetime_s = lifetime_s
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.issuer)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """What the registry trusts."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    async def answer(self, request: web.Request) -> web.Response:
        """GET with Basic credentials (or none), or POST with a form, as OAuth 2 clients do."""
        form: Mapping[str, Any] = await request.post() if request.method == "POST" else request.query
        credentials = _basic_credentials(request.headers.get("Authorization", ""))
        if request.method == "POST":
            credentials = (str(form.get("username", "")), str(form.get("password", "")))
        if credentials is not None and credentials != self._credentials:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        # Nobody in particular gets a token that opens nothing that is private, as with real registries.
        scopes = str(form.get("scope", "")).split() if credentials or self._public else []
        token = self._token([_access(scope) for scope in scopes])
        return web.json_response({"token": token, "access_token": token, "expires_in": self._lifetime_s})

    def _token(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        certificate = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {
            "iss": self.issuer,
            "sub": self._credentials[0],
            "aud": self.service,
            "exp": now + self._lifetime_s,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}"


def _access(scope: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


def _basic_credentials(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, _, password = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ("", "")
    return (username, password)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP]
