"""One Lease in the Kubernetes API, read and written with the pod's own service account; no client library.

It takes two rights, `get` and `update` on this one object. The agent makes none: whoever deploys it makes the Lease,
and so nobody needs the right to create any.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from mirror.election import LEASE_DURATION_S, Lease
from mirror.http_client import CLIENT_ERRORS, read_body, reason
from mirror.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_S_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 1 << 18
_REFUSED: Final = {401: "does not know the service account", 403: "does not allow it", 404: "has no such Lease"}


class LeaseError(Exception):
    """The Lease could not be read or written; says why. Whether a write took place is not known."""


class ConflictError(LeaseError):
    """Somebody else wrote since it was read; this write did not take place."""


class LeaseApi:
    """The Lease of that name in the pod's namespace.

    `account` is the directory with the service account's token, namespace and authority; `environment` has the address
    of the API server. Raises `SettingsError` when there is no such account, as outside Kubernetes.
    """

    def __init__(self, name: str, environment: Mapping[str, str], account: Path) -> None:
        try:
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
            namespace = (account / "namespace").read_text().strip()
            self._ssl = ssl.create_default_context(cafile=account / "ca.crt")
            # Python 3.13 refuses authorities without key identifiers, which many clusters have.
            self._ssl.verify_flags &= ~ssl.VERIFY_X509_STRICT
        except (KeyError, OSError) as error:
            raise SettingsError(
                f"seeds: the Lease {name} cannot be reached: this is no pod with a service account ({error}); "
                "set the chart's lease.enabled, or other seeds"
            ) from error
        host = f"[{host}]" if ":" in host else host
        self._url = f"https://{host}:{port}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
        self._token = account / "token"
        self._document: dict[str, Any] = {}

    async def read(self) -> Lease:
        """The Lease as it is. Raises `LeaseError`."""
        return self._lease(await self._call("GET"))

    async def write(self, holder: str) -> Lease:
        """Make `holder` hold the Lease that was read last, renewed now; empty gives it up. Raises `LeaseError`."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = self._document.get("spec") or {}
        spec = before | {"holderIdentity": holder, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": now}
        if before.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        return self._lease(await self._call("PUT", self._document | {"spec": spec}))

    def _lease(self, document: dict[str, Any]) -> Lease:
        spec = document.get("spec") or {}
        self._document = document
        holder, version = spec.get("holderIdentity") or "", document["metadata"]["resourceVersion"]
        return Lease(str(holder), str(version), float(spec.get("leaseDurationSeconds") or LEASE_DURATION_S))

    async def _call(self, method: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            # Read each time: the kubelet renews the token long before it ends.
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
            # A connection for each call: there is one every few seconds, and it should find an API server that moved.
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S_MAX)) as session,
                session.request(method, self._url, headers=headers, json=document, ssl=self._ssl) as response,
            ):
                if response.status == 409:
                    raise ConflictError(f"{self._url}: written by another")
                if response.status != 200:
                    why = _REFUSED.get(response.status, f"answers {response.status}")
                    raise LeaseError(f"{self._url}: the API server {why}")
                answer = orjson.loads(await read_body(response, ANSWER_BYTES_MAX))
        except CLIENT_ERRORS as error:
            raise LeaseError(f"{self._url}: {reason(error)}") from error
        if not (isinstance(answer, dict) and answer.get("kind") == "Lease"):
            raise LeaseError(f"{self._url}: the answer is no Lease")
        return answer
