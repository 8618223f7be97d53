"""TLS between peers, as an option: what it is made of, and new certificates without a restart.

All members have certificates of one authority, which is for this cluster alone: whoever has one is taken for a member,
whatever its name (as with the cluster secret, whose MAC every request has nonetheless). Both sides show theirs.

The files are looked at for each new connection, and read again when they have changed. Files that cannot be read, or
do not fit each other, leave the last good ones in use: whoever renews them writes one after the other.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class TlsFilesError(OSError):
    """The files cannot be used at the start; says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """In PEM: this node's certificate (with what leads to the authority), its key, and the authority's certificates."""

    certificate: Path
    key: Path
    authority: Path


class PeerTls:
    """Both sides' contexts, as the files are now. Raises `TlsFilesError`."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen: object = None
        try:
            self._server, self._client = self._read()
        except (OSError, ValueError) as error:
            raise TlsFilesError(f"the TLS files cannot be used: {error}") from error
        self._seen = self._state()
        self._door = _context(files, ssl.PROTOCOL_TLS_SERVER)
        self._door.sni_callback = self._choose

    def server_context(self) -> ssl.SSLContext:
        """For a server as long as it runs: each connection gets the certificates of its time."""
        return self._door

    def client_context(self) -> ssl.SSLContext:
        """For one new connection."""
        self._refresh()
        return self._client

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        self._refresh()
        connection.context = self._server

    def _refresh(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._server, self._client = self._read()
        except (OSError, ValueError) as error:
            log.warning("the TLS files have changed and cannot be used, so the last good ones are: %s", error)
        else:
            log.info("the TLS files have changed, and are used from now on")

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return _context(self._files, ssl.PROTOCOL_TLS_SERVER), _context(self._files, ssl.PROTOCOL_TLS_CLIENT)

    def _state(self) -> object:
        """What changes when a file does (a link of Kubernetes' to another one, too)."""
        state: list[Any] = []
        for file in (self._files.certificate, self._files.key, self._files.authority):
            try:
                found = file.stat()
            except OSError as error:
                state.append(error.errno)
            else:
                state.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return state


def _context(files: TlsFiles, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    return context
