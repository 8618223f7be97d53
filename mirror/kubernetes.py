"""The Kubernetes API, called with the pod's own service account over plain HTTPS; no client library.

Agents use it for nothing unless they are told to: for the Lease through which they find each other (`lease`), and to
take a taint off a node that is ready (`skvaller untaint`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from mirror.http_client import CLIENT_ERRORS, read_body, reason
from mirror.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_S_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 1 << 22
"""More than any object may have: etcd's limit is 1.5 MiB."""

_MEANINGS: Final = {
    401: "the API server does not know the service account",
    403: "the service account's role does not allow it",
    404: "there is no such object",
}


class ApiError(Exception):
    """A call failed; says why. Whether a write took place is not known."""


class ConflictError(ApiError):
    """Somebody else wrote since the object was read; this write did not take place."""


class KubernetesApi:
    """The API server of the cluster that this pod runs in.

    `account` is the directory with the service account's token, namespace and authority; `environment` has the address
    of the API server. Raises `SettingsError` when there is no such account, as outside Kubernetes.
    """

    def __init__(self, environment: Mapping[str, str], account: Path = ACCOUNT) -> None:
        try:
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
            self.namespace = (account / "namespace").read_text().strip()
            self._ssl = ssl.create_default_context(cafile=account / "ca.crt")
        except (KeyError, OSError) as error:
            raise SettingsError(
                f"the Kubernetes API cannot be used: this is no pod with a service account's token ({error})"
            ) from error
        # Python 3.13 refuses authorities without key identifiers, which many clusters have.
        self._ssl.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._token = account / "token"

    async def call(self, method: str, path: str, document: object = None, media_type: str = "application/json") -> Any:
        """Send a document, if there is one, and return the object that comes back. Raises `ApiError`."""
        url = self._url + path
        try:
            # Read each time: the kubelet renews the token long before it ends.
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}", "Content-Type": media_type}
            data = None if document is None else orjson.dumps(document)
            # A connection for each call: they are rare, and each should find an API server that has moved.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S_MAX)) as session,
                session.request(method, url, headers=headers, data=data, ssl=self._ssl) as response,
            ):
                if response.status == 409:
                    raise ConflictError(f"{method} {url}: written by another")
                if response.status != 200:
                    meaning = _MEANINGS.get(response.status, "the API server does not do it")
                    raise ApiError(f"{method} {url}: {meaning} ({response.status})")
                answer = orjson.loads(await read_body(response, ANSWER_BYTES_MAX))
        except CLIENT_ERRORS as error:
            raise ApiError(f"{method} {url}: {reason(error)}") from error
        if not (isinstance(answer, dict) and isinstance(answer.get("metadata"), dict)):
            raise ApiError(f"{method} {url}: the answer is no object")
        return answer
