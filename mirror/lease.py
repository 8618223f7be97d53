"""One Lease in the Kubernetes API. Who may hold it, and when, is decided in `election`.

It takes two rights, `get` and `update` on this one object. The agent makes none: whoever deploys it makes the Lease,
and so nobody needs the right to create any.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.election import LEASE_DURATION_S, Lease

if TYPE_CHECKING:
    from mirror.kubernetes import KubernetesApi


class LeaseObject:
    """The Lease of that name in the pod's namespace. All methods raise `mirror.kubernetes.ApiError`."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{api.namespace}/leases/{name}"
        self._document: dict[str, Any] = {}

    async def read(self) -> Lease:
        """The Lease as it is."""
        return self._lease(await self._api.call("GET", self._path))

    async def write(self, holder: str) -> Lease:
        """Make `holder` hold the Lease that was read last, renewed now; empty gives it up."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before = self._document.get("spec") or {}
        spec = before | {"holderIdentity": holder, "leaseDurationSeconds": LEASE_DURATION_S, "renewTime": now}
        if before.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        return self._lease(await self._api.call("PUT", self._path, self._document | {"spec": spec}))

    def _lease(self, document: dict[str, Any]) -> Lease:
        self._document = document
        spec = document.get("spec") or {}
        return Lease(
            holder=str(spec.get("holderIdentity") or ""),
            version=str(document["metadata"].get("resourceVersion")),
            duration_s=float(spec.get("leaseDurationSeconds") or LEASE_DURATION_S),
        )
