"""The chart, and the agent's use of the Kubernetes API, on a real API server that enforces RBAC."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from mirror.bootstrap import Bootstrap
from mirror.commands.untaint import remove_taint
from mirror.election import LEASE_DURATION_S, RENEW_S
from mirror.kubernetes import ApiError, KubernetesApi
from tests.integration.agents import eventually
from tests.k8s.cluster.build import KUBERNETES_VERSION, operators_kinds
from tests.k8s.render_manifests import MANIFESTS
from tests.k8s.test_chart import EVERYTHING
from tests.k8s.tools import CHART, ROOT, helm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.k8s.cluster.control_plane import ControlPlane

VALUES_FILES: Final = sorted((ROOT / "k8s" / "values").glob("*.yaml"))
TAINT: Final = "skvaller.example/starting"
OPTIONAL: Final = f"--set=seeding.lease=true,startupTaint={TAINT},dashboards.enabled=true"
ACCOUNT: Final = "system:serviceaccount:skvaller:skvaller"
SEED_S_MAX: Final = 10
CALL_S_MAX: Final = 2
"""Of a busy machine's API server."""
MERGE: Final = "application/merge-patch+json"

pytestmark = pytest.mark.timeout(3600)  # the first test builds Kubernetes


async def install(plane: ControlPlane, *arguments: str | Path) -> None:
    """Install the chart, or bring the release to other values, and wait for nothing."""
    release = ("upgrade", "--install", "skvaller", CHART, "--namespace", "skvaller", "--create-namespace")
    await asyncio.to_thread(helm, *release, f"--kubeconfig={plane.kubeconfig}", *arguments)


async def rights(plane: ControlPlane, account: str) -> set[str]:
    """What an account may do in the namespace and in the cluster, a line for each."""
    listing = await plane.kubectl("--namespace", "skvaller", "auth", "can-i", "--list", f"--as={account}")
    return {re.sub(r"\s+", " ", line).strip() for line in listing.splitlines()}


async def test_every_object_of_every_documented_way_is_taken_by_the_server_without_a_warning(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    await control_plane.kubectl("create", "namespace", "skvaller")
    for definition in operators_kinds():
        await control_plane.kubectl("create", f"--filename={definition}")
        await control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={definition}")
    rendering = ("template", "skvaller", CHART, "--namespace", "skvaller", "--kube-version", KUBERNETES_VERSION)
    ways = [(), EVERYTHING, *(("--values", values) for values in VALUES_FILES)]
    manifest = tmp_path / "rendered.yaml"
    for text in (MANIFESTS.read_text(), *(helm(*rendering, *way) for way in ways)):
        manifest.write_text(text)
        flags = ("--dry-run=server", "--validate=strict", "--warnings-as-errors")
        taken = await control_plane.kubectl("apply", *flags, f"--filename={manifest}")
        assert len(taken.splitlines()) == text.count("\nkind: ")


async def test_the_release_is_upgraded_with_its_secret_and_its_holder_and_removed(control_plane: ControlPlane) -> None:
    await install(control_plane, OPTIONAL)
    secret = (await control_plane.get("secret", "skvaller"))["data"]
    patch = '{"spec":{"holderIdentity":"10.0.0.1:29993","leaseDurationSeconds":15}}'
    await control_plane.kubectl("--namespace=skvaller", "patch", "lease", "skvaller", "--type=merge", "--patch", patch)
    await install(control_plane, OPTIONAL, "--set=logLevel=debug")
    assert (await control_plane.get("secret", "skvaller"))["data"] == secret
    assert (await control_plane.get("lease", "skvaller"))["spec"]["holderIdentity"] == "10.0.0.1:29993"
    # Without nodes no hook can run.
    uninstall = ("uninstall", "skvaller", "--no-hooks", "--namespace=skvaller")
    await asyncio.to_thread(helm, *uninstall, f"--kubeconfig={control_plane.kubeconfig}")
    kinds = "daemonset,service,serviceaccount,lease,role,rolebinding,configmap,secret"
    left = {part["metadata"]["name"] for part in (await control_plane.get(kinds))["items"]}
    assert left - {"default", "kube-root-ca.crt"} == {"skvaller"}  # the Secret, which the chart says is kept


async def test_the_account_may_use_the_lease_and_nothing_else(control_plane: ControlPlane) -> None:
    await install(control_plane)
    anybody = await rights(control_plane, "system:serviceaccount:skvaller:default")
    assert await rights(control_plane, ACCOUNT) == anybody
    await install(control_plane, "--set=seeding.lease=true")
    assert await rights(control_plane, ACCOUNT) - anybody == {"leases.coordination.k8s.io [] [skvaller] [get update]"}
    await install(control_plane, f"--set=startupTaint={TAINT}")
    assert await rights(control_plane, ACCOUNT) - anybody == {"nodes [] [] [get patch]"}


class Candidates:
    """Agents' bootstraps, with the chart's service account, by their addresses. All names come after `name`."""

    def __init__(self, environment: dict[str, str], account: Path) -> None:
        self._environment = environment
        self._account = account
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.by_address: dict[str, Bootstrap] = {}

    def start(self, address: str) -> None:
        bootstrap = Bootstrap(["lease:skvaller"], address, self._environment, self._account)
        self.by_address[address] = bootstrap
        self._tasks[address] = asyncio.create_task(bootstrap.run(address, list))

    def crash(self, address: str) -> None:
        """Let it end without giving the Lease up."""
        self.by_address[address]._asked.clear()
        self._tasks.pop(address).cancel()
        del self.by_address[address]

    async def leave(self, address: str) -> None:
        task = self._tasks.pop(address)
        task.cancel()
        await asyncio.wait({task})
        del self.by_address[address]

    async def agree_on(self, *addresses: str, within_s: float = SEED_S_MAX) -> str:
        """Wait until all name the same seed, one of the addresses; returns it."""

        async def agreed() -> bool:
            said = {tuple(bootstrap.seeds()) for bootstrap in self.by_address.values()}
            return len(said) == 1 and said <= {(address,) for address in addresses}

        await eventually(agreed, within_s)
        [seed] = next(iter(self.by_address.values())).seeds()
        return seed

    async def close(self) -> None:
        for address in list(self._tasks):
            await self.leave(address)


@pytest.fixture
async def candidates(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Candidates]:
    await install(control_plane, "--set=seeding.lease=true")
    account = tmp_path / "account"
    candidates = Candidates(await control_plane.service_account(account, "skvaller", "skvaller"), account)
    yield candidates
    await candidates.close()


ADDRESSES: Final = ("10.0.0.1:29993", "10.0.0.2:29993", "10.0.0.3:29993")


async def test_all_join_through_one_holder_and_another_takes_over_when_it_leaves_or_crashes(
    control_plane: ControlPlane, candidates: Candidates, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ADDRESSES:
        candidates.start(address)
    first = await candidates.agree_on(*ADDRESSES)

    await candidates.leave(first)
    others = set(candidates.by_address)
    second = await candidates.agree_on(*others, within_s=RENEW_S + CALL_S_MAX)

    candidates.start(first)
    await candidates.agree_on(second)
    candidates.crash(second)
    crashed = time.monotonic()

    async def taken_over() -> bool:
        spec = (await control_plane.get("lease", "skvaller"))["spec"]
        return spec["holderIdentity"] in set(ADDRESSES) - {second}

    await eventually(taken_over, 2 * LEASE_DURATION_S)  # a busy machine's calls take seconds
    with capsys.disabled():
        took_s = time.monotonic() - crashed
        sys.stdout.write(f"\na new seed {took_s:.1f} s after the crash of the old one (budget {LEASE_DURATION_S} s)\n")
    await candidates.agree_on(*(set(ADDRESSES) - {second}), within_s=RENEW_S + CALL_S_MAX)


async def test_without_the_api_server_the_seed_stays_and_is_renewed_when_it_returns(
    control_plane: ControlPlane, candidates: Candidates
) -> None:
    for address in ADDRESSES:
        candidates.start(address)
    first = await candidates.agree_on(*ADDRESSES)
    await control_plane.api_server.stop()
    await asyncio.sleep(LEASE_DURATION_S + 2 * RENEW_S)
    assert await candidates.agree_on(first) == first
    await control_plane.api_server.start()
    await control_plane.ready()
    before = (await control_plane.get("lease", "skvaller"))["spec"]

    async def renewed() -> bool:
        spec = (await control_plane.get("lease", "skvaller"))["spec"]
        return bool(spec["renewTime"] > before["renewTime"])

    await eventually(renewed, SEED_S_MAX)
    # Whoever was the first to be back may have it; all follow.
    await candidates.agree_on(*ADDRESSES)


async def taints(plane: ControlPlane, node: str) -> set[str]:
    """The keys of a node's taints."""
    return {taint["key"] for taint in (await plane.get("node", node))["spec"].get("taints", [])}


async def test_a_pod_takes_the_taint_off_its_own_node_and_may_do_nothing_else_to_any(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    await install(control_plane, f"--set=startupTaint={TAINT}")
    both = [{"key": key, "effect": "NoSchedule"} for key in (TAINT, "example.com/other")]
    for name in ("mine", "other"):
        await control_plane.create({"kind": "Node", "metadata": {"name": name}, "spec": {"taints": both}})
    containers = [{"name": "agent", "image": "example.com/agent:1"}]
    spec = {"nodeName": "mine", "serviceAccountName": "skvaller", "containers": containers}
    await control_plane.create({"kind": "Pod", "metadata": {"name": "agent", "namespace": "skvaller"}, "spec": spec})
    # The token of a pod says on which node it runs.
    bound = ("--bound-object-kind=Pod", "--bound-object-name=agent")
    environment = await control_plane.service_account(tmp_path / "account", "skvaller", "skvaller", *bound)
    api = KubernetesApi(environment, tmp_path / "account")

    async def refused() -> bool:  # the policy counts some moments after it was made
        try:
            await api.call("PATCH", "/api/v1/nodes/other", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        except ApiError:
            return True
        return False

    await eventually(refused, 30)
    before = await taints(control_plane, "mine")
    assert before >= {TAINT, "example.com/other"}
    patches: list[dict[str, Any]] = [
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"spec": {"unschedulable": True}},
        {"spec": {"taints": []}},
        {"spec": {"taints": [*both, {"key": "new", "effect": "NoSchedule"}]}},
        {"metadata": {"finalizers": ["example.com/stay"]}},
    ]
    for patch in patches:
        with pytest.raises(ApiError):
            await api.call("PATCH", "/api/v1/nodes/mine", patch, MERGE)
    with pytest.raises(ApiError):
        await remove_taint(api, "other", TAINT)
    with pytest.raises(ApiError):
        await api.call("PATCH", "/api/v1/nodes/mine/status", {"status": {"phase": "Running"}}, MERGE)
    assert await taints(control_plane, "mine") == before

    assert await remove_taint(api, "mine", TAINT)
    assert await taints(control_plane, "mine") == before - {TAINT}
    assert not await remove_taint(api, "mine", TAINT)
