"""The control plane of a real Kubernetes: etcd and kube-apiserver, and for pods the controllers and the scheduler.

Everything listens on one address. `kubectl` is run as an administrator; other programs get a kubeconfig of their own.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.lab.process import CommandError, Process, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

API_PORT: Final = 6443
ETCD_PORT: Final = 2379
SERVICES: Final = "10.96.0.0/16"
SERVICE_ADDRESS: Final = "10.96.0.1"
"""The address of the API server that pods are told: the first one of the range."""
START_S_MAX: Final = 120
POLL_S: Final = 0.2


class ControlPlane:
    """A control plane whose files are below `directory`; `programs` has Kubernetes's programs."""

    def __init__(self, directory: Path, address: str, programs: Path) -> None:
        self.directory = directory
        self.address = address
        self._programs = programs
        self._stack = AsyncExitStack()
        self._authority = trustme.CA(organization_name="a cluster of tests")
        directory.mkdir()
        self.authority = directory / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self.authority))
        self.kubeconfig = self.make_kubeconfig("admin", "system:masters")
        self._etcd, self.api_server = self._first_processes()
        self.processes = [self._etcd, self.api_server]

    async def __aenter__(self) -> Self:
        for process in (self._etcd, self.api_server):
            await self._start(process)
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ready(self) -> None:
        """Wait until the API server answers, after a start. Raises `TimeoutError`."""
        async with asyncio.timeout(START_S_MAX):
            while True:
                try:
                    if (await self.kubectl("get", "--raw", "/readyz")).strip() == "ok":
                        return
                except CommandError:
                    assert self.api_server.running, self.api_server.log()
                await asyncio.sleep(POLL_S)

    def check(self) -> None:
        """All that was started still runs."""
        for process in self.processes:
            assert process.running, f"{process.name} ended: {process.log()}"

    async def kubectl(self, *arguments: str | Path) -> str:
        """What a command of kubectl prints. Raises `CommandError`."""
        return await run("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments)

    async def get(self, kind: str, name: str = "", namespace: str = "skvaller") -> Any:
        """An object, or a list of them, as JSON."""
        words = [kind, *([name] if name else [])]
        return json.loads(await self.kubectl("--namespace", namespace, "get", *words, "--output=json"))

    async def create(self, document: Mapping[str, Any]) -> None:
        """Make an object."""
        file = self.directory / f"{document['metadata']['name']}.json"
        file.write_text(json.dumps({"apiVersion": "v1", **document}))
        await self.kubectl("create", f"--filename={file}")

    async def start_controllers(self) -> None:
        """What makes pods of DaemonSets and Deployments, and gives them nodes."""
        common = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
        ports = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
        more = {
            "kube-controller-manager": (
                f"--service-account-private-key-file={self.directory}/accounts.key",
                f"--root-ca-file={self.authority}",
                # A node that went away is noticed within a test.
                "--node-monitor-grace-period=20s",
            ),
            "kube-scheduler": (),
        }
        for program, port in ports.items():
            certificates = f"--cert-dir={self.directory}/{program}-certificates"
            await self._start(
                self._process(
                    program, self._programs / program, *common, f"--secure-port={port}", certificates, *more[program]
                )
            )

    def make_kubeconfig(self, name: str, group: str, address: str | None = None) -> Path:
        """Credentials of a user of that name and group, to be used at an address of the API server."""
        leaf = self._authority.issue_cert(f"{name.replace(':', '.')}.test", common_name=name, organization_name=group)
        files = {ending: self.directory / f"{name}.{ending}" for ending in ("crt", "key", "kubeconfig")}
        leaf.cert_chain_pems[0].write_to_path(str(files["crt"]))
        leaf.private_key_pem.write_to_path(str(files["key"]))
        server = {
            "server": f"https://{address or self.address}:{API_PORT}",
            "certificate-authority": str(self.authority),
        }
        user = {"client-certificate": str(files["crt"]), "client-key": str(files["key"])}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
            "current-context": "tests",
        }
        files["kubeconfig"].write_text(json.dumps(document))  # YAML reads JSON
        return files["kubeconfig"]

    async def service_account(self, directory: Path, name: str, namespace: str, *flags: str) -> dict[str, str]:
        """Make a directory like the one that pods of this account have; returns their environment.

        The flags are more for `kubectl create token`.
        """
        token = await self.kubectl("--namespace", namespace, "create", "token", name, *flags)
        directory.mkdir()
        (directory / "token").write_text(token)
        (directory / "namespace").write_text(namespace)
        (directory / "ca.crt").write_bytes(self.authority.read_bytes())
        return {"KUBERNETES_SERVICE_HOST": self.address, "KUBERNETES_SERVICE_PORT": str(API_PORT)}

    def _first_processes(self) -> tuple[Process, Process]:
        certificate = self._authority.issue_cert(self.address, SERVICE_ADDRESS, "127.0.0.1", "kubernetes.default.svc")
        chain, key, accounts = (self.directory / name for name in ("server.crt", "server.key", "accounts.key"))
        chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(str(key))
        accounts.write_bytes(
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        store = f"http://{self.address}:{ETCD_PORT}"
        etcd = self._process(
            *("etcd", "etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls={store}"),
            *(f"--advertise-client-urls={store}", f"--listen-peer-urls=http://{self.address}:{ETCD_PORT + 1}"),
        )
        api_server = self._process(
            "kube-apiserver",
            self._programs / "kube-apiserver",
            f"--etcd-servers={store}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={chain}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority}",
            f"--kubelet-client-certificate={self.directory}/admin.crt",
            f"--kubelet-client-key={self.directory}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
        )
        return etcd, api_server

    def _process(self, name: str, *command: str | Path) -> Process:
        return Process(name, command, self.directory / f"{name}.log")

    async def _start(self, process: Process) -> None:
        self._stack.push_async_callback(process.stop)
        await process.start()
        if process not in self.processes:
            self.processes.append(process)
