"""What a registry says when it wants to know who asks (`WWW-Authenticate`), as far as the agent has to understand it.

The agent answers no challenge with credentials, since it has none. It may ask for a token as nobody in particular, to
learn whether a repository is public.

Source: RFC 9110 section 11.6.1; distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """A Bearer challenge: where tokens are, and for what."""

    realm: str
    service: str = ""
    scope: str = ""

    @classmethod
    def find(cls, headers: Iterable[tuple[str, str]]) -> Challenge | None:
        """The Bearer challenge among an answer's headers, if there is one that can be used."""
        for name, value in headers:
            scheme, _, rest = value.partition(" ")
            if name.lower() != "www-authenticate" or scheme.lower() != "bearer":
                continue
            values = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(rest)}
            challenge = cls(values.get("realm", ""), values.get("service", ""), values.get("scope", ""))
            with suppress(ValueError):  # no URL, or bytes that are no text
                challenge.url.encode()
                if urlsplit(challenge.realm).scheme in {"http", "https"}:
                    return challenge
        return None

    @property
    def url(self) -> str:
        """Where to get a token, without saying who asks."""
        query = urlencode({key: value for key, value in (("service", self.service), ("scope", self.scope)) if value})
        return f"{self.realm}{'&' if '?' in self.realm else '?'}{query}"


def read_token(body: bytes) -> str | None:
    """The token in a token server's answer; None when there is none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    return token if isinstance(token, str) and token.isascii() and token.isprintable() else None


def is_basic(authorization: str | None) -> bool:
    """Whether a client's header has a password in it."""
    return authorization is not None and authorization[:6].lower() == "basic "


def expires_at(authorization: str) -> float | None:
    """When a Bearer token ends, in seconds of Unix time, if it is a JWT that says so. It is not verified here."""
    parts = authorization.partition(" ")[2].split(".")
    if len(parts) != 3:
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    ends = claims.get("exp") if isinstance(claims, dict) else None
    return float(ends) if isinstance(ends, int | float) else None
