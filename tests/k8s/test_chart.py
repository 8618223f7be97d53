"""What the chart renders, for every documented kind of cluster."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from mirror.cli import make_parser
from mirror.registry_ports import RegistryPort
from mirror.settings import load
from tests.k8s.render_manifests import MANIFESTS, manifests
from tests.k8s.tools import CHART, KUBE_VERSION, ROOT, HelmError, helm, render

yaml: Any = pytest.importorskip("yaml")
kubernetes_validate: Any = pytest.importorskip("kubernetes_validate")

VALUES_FILES: Final = sorted((ROOT / "k8s" / "values").glob("*.yaml"))
EVERYTHING: Final = (
    "--set=zone=north,caConfigMap=authorities,priorityClassName=,podMonitor.enabled=true,podLabels.team=a",
    "--set=registries[0].name=registry.corp,registries[0].url=https://10.1.2.3,registries[0].caFile=ca.pem",
    "--set=registries[1].name=docker.io,registries[1].url=https://cache.example.com",
    "--set=seLinuxOptions.type=spc_t,imagePullSecrets[0]=pull,podAnnotations.note=x,maxUnavailable=10%",
    "--set=registryPorts[0]=docker.io=29996,registryPorts[1]=registry.corp:5000=29997",
    "--set=hosts.registries[0]=docker.io,hosts.registries[1]=registry.corp=https://10.1.2.3",
    "--set=hosts.onlyNamed=true,hosts.mode=append,peerTlsSecret=certificates",
    "--set=extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy:3128",
    "--set=seeding.lease=true,startupTaint=skvaller.example/starting",
    "--set=prometheusRule.enabled=true,dashboards.enabled=true",
)
"""Every value that is off or empty at first."""
OPERATORS_KINDS: Final = {"PodMonitor", "PrometheusRule"}
"""Their schemas are the Prometheus operator's."""
ALWAYS: Final = {"DaemonSet", "Secret", "Service", "ServiceAccount"}
LEASE: Final = {"Lease", "Role", "RoleBinding"}
TAINT: Final = {
    *("ClusterRole", "ClusterRoleBinding"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}

pytestmark = pytest.mark.timeout(1800)  # the first test that needs helm may have to build it


def objects(*arguments: str | Path) -> dict[str, Any]:
    """The rendered objects by their kind, of which there is one each."""
    rendered = [part for part in yaml.safe_load_all(render("--no-hooks", *arguments)) if part]
    by_kind = {part["kind"]: part for part in rendered}
    assert len(by_kind) == len(rendered)
    return by_kind


def container(name: str, *arguments: str | Path) -> dict[str, Any]:
    """A container of the rendered DaemonSet, or one that comes before those."""
    pod = objects(*arguments)["DaemonSet"]["spec"]["template"]["spec"]
    found: dict[str, Any] = next(
        part for part in pod.get("initContainers", []) + pod["containers"] if part["name"] == name
    )
    return found


def environment(*arguments: str | Path) -> dict[str, str]:
    """The agent's environment, as far as it is given as text."""
    return {entry["name"]: entry["value"] for entry in container("agent", *arguments)["env"] if "value" in entry}


@pytest.mark.parametrize("values", VALUES_FILES, ids=lambda path: path.stem)
def test_every_values_file_is_free_of_complaints(values: Path) -> None:
    helm("lint", "--strict", "--kube-version", KUBE_VERSION, CHART, "--values", values)


every_way = pytest.mark.parametrize(
    "arguments",
    [[], list(EVERYTHING), *(["--values", str(values)] for values in VALUES_FILES)],
    ids=["defaults", "everything", *(values.stem for values in VALUES_FILES)],
)


@every_way
def test_every_object_is_one_that_kubernetes_knows(arguments: list[str]) -> None:
    for kind, part in objects(*arguments).items():
        if kind not in OPERATORS_KINDS:
            kubernetes_validate.validate(part, KUBE_VERSION.rpartition(".")[0], strict=True)


@every_way
def test_the_agents_environment_makes_settings(arguments: list[str], tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))  # certificates are read with the settings
    given = {name: text.replace("/etc/skvaller/ca", str(tmp_path)) for name, text in environment(*arguments).items()}
    settings = load({}, given | {"SKVALLER_ADDRESS": "10.0.0.7"}, None)
    assert (settings.store, settings.client_address) == ("containerd", "127.0.0.1")
    socket = str(settings.containerd_socket.parent)
    mounted = {mount["mountPath"] for mount in container("agent", *arguments)["volumeMounts"]}
    assert {socket, str(settings.containerd_content_dir), str(settings.spool_dir)} <= mounted


@pytest.mark.parametrize(
    "wrong",
    [
        "nosuchvalue=1",
        "image.nosuchvalue=1",
        "ports.client=80",
        "ports.client=70000",
        "registryPorts[0]=docker.io",
        "registryPorts[0]=docker.io=80",
        "containerd.socket=run/containerd.sock",
        "containerd.pinBytesMax=much",
        "hosts.registries[0]=a;reboot",
        "hosts.intervalSeconds=0",
        "hosts.mode=replace",
        "registries[0].name=docker.io",
        "logLevel=loud",
        "seeds[0]=10.0.0.7",
        "startupTaint=no key",
        "seeding.dns=true",
        "maxUnavailable=0",
        "secret.existingSecret=Not_A_Name",
    ],
)
def test_the_schema_refuses(wrong: str) -> None:
    with pytest.raises(HelmError, match="values don't meet the specifications of the schema"):
        render("--set", wrong)


def test_the_manifests_are_what_the_chart_renders() -> None:
    # When this fails: `python -m tests.k8s.render_manifests`, and look at the difference.
    assert MANIFESTS.read_text() == manifests()


def test_the_secret_is_text_of_32_random_bytes_and_stays() -> None:
    first, second = (objects()["Secret"] for _ in range(2))
    assert len(base64.b64decode(base64.b64decode(first["data"]["secret"]), validate=True)) == 32
    assert first["data"] != second["data"]
    assert first["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_existing_secret_is_used_and_none_is_made() -> None:
    arguments = ("--set=secret.existingSecret=mine,secret.key=key",)
    parts = objects(*arguments)
    assert "Secret" not in parts
    volumes = {volume["name"]: volume for volume in parts["DaemonSet"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["secret"]["secret"]["secretName"] == "mine"
    assert environment(*arguments)["SKVALLER_SECRET_FILE"] == "/etc/skvaller/secret/key"


def tokens(*arguments: str) -> set[str]:
    """The containers that have the service account's token."""
    containers = objects(*arguments)["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return {part["name"] for part in containers if "token" in {mount["name"] for mount in part["volumeMounts"]}}


def test_no_right_in_the_kubernetes_api_is_asked_for_unless_a_value_needs_it() -> None:
    assert objects().keys() == ALWAYS
    assert objects("--set=seeding.lease=true").keys() == ALWAYS | LEASE
    assert objects("--set=startupTaint=key").keys() == ALWAYS | TAINT
    assert objects("--set=seeding.service=false").keys() == ALWAYS - {"Service"}
    assert objects()["DaemonSet"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert tokens() == set()
    assert tokens("--set=seeding.lease=true") == {"agent"}
    assert tokens("--set=startupTaint=key") == {"taint"}


def test_the_rights_are_those_that_the_agent_uses_and_no_others() -> None:
    parts = objects(*EVERYTHING)
    assert parts["Role"]["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [parts["Lease"]["metadata"]["name"]],
            "verbs": ["get", "update"],
        }
    ]
    assert parts["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}]


@pytest.mark.parametrize("name", ["agent", "hosts-once", "hosts", "taint"])
def test_a_container_has_the_rights_it_needs_and_no_others(name: str) -> None:
    context = container(name, "--set=startupTaint=key")["securityContext"]
    assert (
        context.pop("capabilities")
        == {
            "agent": {"drop": ["ALL"]},
            "hosts-once": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
            "hosts": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
            "taint": {"drop": ["ALL"]},
        }[name]
    )
    assert context == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_the_agent_may_write_only_its_state_and_its_spool() -> None:
    writable = {mount["name"] for mount in container("agent")["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"state", "tmp"}


def test_the_seeds_are_the_name_of_the_headless_service() -> None:
    service = objects()["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    port = service["spec"]["ports"][0]["port"]
    metadata = service["metadata"]
    name = f"{metadata['name']}.{metadata['namespace']}.svc:{port}"
    assert environment()["SKVALLER_SEEDS"] == name
    assert (
        environment("--set=seeds={10.0.0.7:29993,[::1]:29993}")["SKVALLER_SEEDS"]
        == f"{name},10.0.0.7:29993,[::1]:29993"
    )
    assert environment("--set=seeding.service=false,seeding.lease=true")["SKVALLER_SEEDS"] == "lease:skvaller"


def test_registries_reach_the_agent_with_their_certificates() -> None:
    assert environment(*EVERYTHING)["SKVALLER_REGISTRIES"] == (
        "registry.corp=https://10.1.2.3,ca_file=/etc/skvaller/ca/ca.pem docker.io=https://cache.example.com"
    )


def test_the_agent_listens_at_a_port_for_each_registry_that_has_one() -> None:
    given = environment(*EVERYTHING) | {"SKVALLER_REGISTRIES": "", "SKVALLER_ADDRESS": "10.0.0.7"}
    assert load({}, given, None).registry_ports == (
        RegistryPort("docker.io", 29996),
        RegistryPort("registry.corp:5000", 29997),
    )
    assert "SKVALLER_REGISTRY_PORTS" not in environment()


def test_the_configuration_file_reaches_the_agent_as_it_is(tmp_path: Path) -> None:
    text = '[registries."registry.corp"]\nauthorize = "upstream"\n'
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": text}))
    arguments = ("--values", values)
    config = objects(*arguments)["ConfigMap"]
    file = Path(environment(*arguments)["SKVALLER_CONFIG"])
    assert config["data"] == {file.name: text}
    pod = objects(*arguments)["DaemonSet"]["spec"]["template"]["spec"]
    [volume] = [each for each in pod["volumes"] if each.get("configMap", {}).get("name") == config["metadata"]["name"]]
    mounts = {mount["name"]: mount["mountPath"] for mount in container("agent", *arguments)["volumeMounts"]}
    assert mounts[volume["name"]] == str(file.parent)
    with pytest.raises(HelmError, match="either in config"):
        render(*arguments, "--set=registries[0].name=a,registries[0].url=https://b")


def test_peers_have_the_certificate_the_key_and_the_authority_of_one_secret() -> None:
    given = environment("--set=peerTlsSecret=certificates")
    pod = objects("--set=peerTlsSecret=certificates")["DaemonSet"]["spec"]["template"]["spec"]
    [volume] = [each for each in pod["volumes"] if each.get("secret", {}).get("secretName") == "certificates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    files = {Path(given[f"SKVALLER_PEER_{what}"]) for what in ("CERTIFICATE", "KEY", "AUTHORITY")}
    assert files == {Path(mounts[volume["name"]], name) for name in ("tls.crt", "tls.key", "ca.crt")}
    assert "SKVALLER_PEER_KEY" not in environment()


def test_the_hosts_command_is_one_of_the_products_with_the_mode_and_the_registries_that_are_set() -> None:
    for name in ("hosts-once", "hosts"):
        [script] = container(name, *EVERYTHING)["args"]
        [command] = re.findall(r"skvaller (configure .*)", script)
        options = make_parser().parse_args(shlex.split(command))
        assert (options.mode, options.only_named) == ("append", True)
        assert len(options.registry) == 2


def test_the_files_are_written_first_and_then_kept_by_containers_that_differ_in_nothing_else() -> None:
    once, kept = container("hosts-once"), container("hosts")
    assert once.pop("terminationMessagePolicy") == "FallbackToLogsOnError"
    for one in (once, kept):
        del one["name"], one["args"]
    assert once == kept


def test_the_pods_have_their_nodes_network_and_address_and_two_are_never_on_one() -> None:
    spec = objects()["DaemonSet"]["spec"]
    pod = spec["template"]["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    [address] = [entry for entry in container("agent")["env"] if entry["name"] == "SKVALLER_ADDRESS"]
    assert address["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"
    assert spec["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_kubelet_probes_the_port_that_pulls_depend_on() -> None:
    agent = container("agent", "--set=ports.client=28000")
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert agent[probe]["httpGet"] == {"host": "127.0.0.1", "path": path, "port": 28000}


def test_the_agent_sees_the_hosts_files_where_containerd_does() -> None:
    arguments = "--set=hosts.certsDir=/etc/hosts.d"
    assert environment(arguments)["SKVALLER_REGISTRIES_DIR"] == "/etc/hosts.d"
    mounts = {mount["mountPath"]: mount for mount in container("agent", arguments)["volumeMounts"]}
    assert mounts["/etc/hosts.d"]["readOnly"] is True


def test_the_pod_monitor_scrapes_the_port_that_the_agent_names() -> None:
    endpoint = objects(*EVERYTHING)["PodMonitor"]["spec"]["podMetricsEndpoints"][0]
    assert endpoint["port"] in {port["name"] for port in container("agent")["ports"]}


def test_without_hosts_nothing_of_the_nodes_configuration_is_touched() -> None:
    pod = objects("--set=hosts.enabled=false")["DaemonSet"]["spec"]["template"]["spec"]
    assert [part["name"] for part in pod["containers"]] == ["agent"]
    assert "initContainers" not in pod
    assert not any("certs.d" in volume.get("hostPath", {}).get("path", "") for volume in pod["volumes"])


def test_the_hook_cleans_up_as_the_pods_do_and_is_left_out_where_there_is_nothing_to_clean() -> None:
    parts = [part for part in yaml.safe_load_all(render()) if part]
    hooks = {part["kind"]: part for part in parts if "helm.sh/hook" in part["metadata"].get("annotations", {})}
    assert hooks.keys() == {"DaemonSet", "Job"}
    [cleanup] = hooks["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    hosts = container("hosts")
    assert cleanup["securityContext"] == hosts["securityContext"]
    assert cleanup["volumeMounts"] == hosts["volumeMounts"]
    assert "skvaller cleanup --certs-dir /certs.d" in cleanup["args"][0]
    for nothing in ("--set=hosts.enabled=false", "--set=hosts.cleanupSeconds=0"):
        assert "helm.sh/hook" not in render(nothing)
