"""Each way in which a mirror comes to nothing is found from the facts, and told with a remedy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from mirror.commands.doctor import finding_lines
from mirror.doctor import Facts, Finding, Level, Places, diagnose, gather
from mirror.doctor.containerd_config import ConfigFileError, Effective, load
from mirror.doctor.facts import HostsFile, PodmanMirror, Probe, Reach, Runtime
from mirror.registries_conf import DROP_IN, RegistriesConf, Review, configure
from mirror.registry_ports import RegistryPort
from tests.serving import HOST, answering, free_port, scripted
from tests.unit.test_hosts import put

CERTS = Path("/etc/containerd/certs.d")
URL = "http://127.0.0.1:29990"
BOTH = ("pull", "resolve")

AGENT: dict[str, Any] = {
    "version": "0.1.0",
    "name": "a",
    "zone": "z1",
    "seeds": ["10.0.0.2:29993"],
    "store": "containerd",
    "mirroring": {"here": True, "everywhere": True},
    "store_answers": True,
    "containerd_socket": "/run/containerd/containerd.sock",
    "pin_bytes_max": 0,
    "registry_ports": {"docker.io": 29996},
    "members": [{"name": "b", "zone": "z1"}],
    "refused_connections": 0,
    "refused_peers": 0,
    "refused_by_peers": 0,
    "dropped_messages": {},
    "conflicts": 0,
}
CONFIG = Effective((CERTS,), False, (), False, False, False, False, (Path("/etc/containerd/config.toml"),))
RUNTIME = Runtime(Path("/run/containerd/containerd.sock"), (1, 7), "containerd 1.7.24", serves_pods=True)


def hosts_file(*urls: str, directory: str = "_default", capabilities: tuple[str, ...] = BOTH) -> HostsFile:
    return HostsFile(directory, CERTS / directory / "hosts.toml", tuple((url, capabilities) for url in urls))


WELL = Facts(
    agent_url=URL,
    agent=AGENT,
    agent_error="",
    foreign=False,
    runtime=RUNTIME,
    config=CONFIG,
    config_error="",
    certs_dir=CERTS,
    hosts=(hosts_file(URL), hosts_file(URL, "https://reg.example", directory="reg.example")),
    probe=Probe(asked=True),
    reach=(Reach("b", "10.0.0.2", 29991, "peer"),),
    clock_offsets_s={"b": 0.4},
)


def agent(**changes: object) -> dict[str, Any]:
    return AGENT | changes


def config(**changes: Any) -> Effective:
    return replace(CONFIG, **changes)


def test_a_node_on_which_all_is_well_has_no_findings_but_good_ones() -> None:
    findings = diagnose(WELL)
    assert {finding.level for finding in findings} == {Level.OK}
    assert [finding.check for finding in findings] == [
        *("agent", "runtime", "probe", "config_path", "hosts", "cluster", "ports")
    ]


# What is wrong, the check that finds it, how bad it is, and words of the finding: of what is wrong and of the remedy.
WRONG: dict[str, tuple[Facts, str, Level, str, str]] = {
    "no agent": (
        replace(WELL, agent=None, agent_error="refused"),
        "agent",
        Level.PROBLEM,
        "No agent",
        "Start it",
    ),
    "another program on the port": (
        replace(WELL, agent=None, foreign=True, agent_error="404"),
        "agent",
        Level.PROBLEM,
        "not an agent",
        "--agent",
    ),
    "the kill switch of the agent": (
        replace(WELL, agent=agent(mirroring={"here": False, "everywhere": True})),
        "agent",
        Level.PROBLEM,
        "kill switch of this agent",
        "mirroring on`, or",
    ),
    "the kill switch of all agents": (
        replace(WELL, agent=agent(mirroring={"here": True, "everywhere": False})),
        "agent",
        Level.PROBLEM,
        "kill switch of all agents",
        "--everywhere",
    ),
    "no containerd": (
        replace(WELL, runtime=Runtime(RUNTIME.socket, error="no such file")),
        "runtime",
        Level.UNKNOWN,
        "no such file",
        "--containerd-socket",
    ),
    "no CRI plugin": (
        replace(WELL, runtime=replace(RUNTIME, serves_pods=False)),
        "runtime",
        Level.PROBLEM,
        "CRI",
        "disabled_plugins",
    ),
    "the agent may not use the socket": (
        replace(WELL, agent=agent(store_answers=False)),
        "runtime",
        Level.PROBLEM,
        "cannot speak",
        "mount",
    ),
    "containerd did not ask": (
        replace(WELL, probe=Probe(asked=False)),
        "probe",
        Level.PROBLEM,
        "did not ask",
        "restart containerd",
    ),
    "podman is led to a port that is somebody else's": (
        replace(WELL, podman=(PodmanMirror("ghcr.io", "ghcr.io", "127.0.0.1:29996"),)),
        "podman",
        Level.PROBLEM,
        "does not stand for ghcr.io",
        "docker.io=29996",
    ),
    "podman is led to another agent's path": (
        replace(WELL, podman=(PodmanMirror("docker.io", "docker.io", "127.0.0.1:1/docker.io"),)),
        "podman",
        Level.PROBLEM,
        "127.0.0.1:1/docker.io",
        "--registry docker.io",
    ),
    "podman's drop-in is outdated": (
        replace(WELL, podman_review=Review("skvaller configure --runtime podman", outdated=True)),
        "podman",
        Level.WARNING,
        "would write now",
        "Run `skvaller configure --runtime podman`",
    ),
    "podman goes by another file for a registry": (
        replace(WELL, podman_review=Review("", skipped={"docker.io": "zzz.conf has it too"})),
        "podman",
        Level.WARNING,
        "for docker.io: zzz.conf",
        "configure again",
    ),
    "podman's files cannot be read": (
        replace(WELL, podman_review=Review("", error="registries.conf is not valid TOML")),
        "podman",
        Level.UNKNOWN,
        "not valid TOML",
        "put the file right",
    ),
    "a pull could not be tried": (
        replace(WELL, probe=Probe(None, "no agent")),
        "probe",
        Level.UNKNOWN,
        "no agent",
        "",
    ),
    "config_path unset, containerd 1": (
        replace(WELL, config=config(config_path=())),
        "config_path",
        Level.PROBLEM,
        "not set",
        '[plugins."io.containerd.grpc.v1.cri".registry]',
    ),
    "config_path unset, containerd 2": (
        replace(WELL, config=config(config_path=()), runtime=replace(RUNTIME, version=(2, 1))),
        "config_path",
        Level.PROBLEM,
        "not set",
        '[plugins."io.containerd.cri.v1.images".registry]',
    ),
    "the older mirrors": (
        replace(WELL, config=config(config_path=(), has_mirrors=True)),
        "config_path",
        Level.PROBLEM,
        "`mirrors`",
        "in the place of `mirrors`",
    ),
    "another config_path": (
        replace(WELL, config=config(config_path=(Path("/else"),))),
        "config_path",
        Level.PROBLEM,
        "/else",
        "--certs-dir /else",
    ),
    "several directories, and the transfer service": (
        replace(WELL, config=config(config_path=(CERTS, Path("/else")), transfer_service=True)),
        "config_path",
        Level.PROBLEM,
        "transfer service",
        "use_local_image_pull",
    ),
    "the default has several directories": (
        replace(WELL, config=config(config_path=(CERTS, Path("/else")), transfer_service=True, is_default=True)),
        "config_path",
        Level.PROBLEM,
        "the default",
        f'"{CERTS}" alone',
    ),
    "a table that this containerd does not read": (
        replace(WELL, config=config(config_path=(), misplaced=("[x] in f",))),
        "config_path",
        Level.PROBLEM,
        "[x] in f",
        "restart",
    ),
    "a configuration that cannot be read": (
        replace(WELL, config=None, config_error="denied"),
        "config_path",
        Level.UNKNOWN,
        "denied",
        "--containerd-config",
    ),
    "discarded layers": (
        replace(WELL, config=config(discards_layers=True)),
        "layers",
        Level.WARNING,
        "discards",
        "containerd_pin_bytes_max",
    ),
    "no hosts.toml": (replace(WELL, hosts=()), "hosts", Level.PROBLEM, "no hosts.toml", "configure"),
    "no directory": (
        replace(WELL, hosts=None, probe=Probe(asked=False)),
        "hosts",
        Level.PROBLEM,
        "no hosts.toml",
        "configure",
    ),
    "no directory, in a pod": (replace(WELL, hosts=None), "hosts", Level.UNKNOWN, "cannot be seen", ""),
    "no default": (
        replace(WELL, hosts=(hosts_file(URL, directory="docker.io"),)),
        "hosts",
        Level.WARNING,
        "no _default",
        "configure",
    ),
    "a registry's own file without the mirror": (
        replace(WELL, hosts=(hosts_file(URL), hosts_file("https://c", directory="docker.io"))),
        "hosts",
        Level.WARNING,
        "does not name the mirror",
        "configure",
    ),
    "a default without the mirror": (
        replace(WELL, hosts=(hosts_file("https://c"),)),
        "hosts",
        Level.PROBLEM,
        "does not name the mirror",
        "configure",
    ),
    "another one first": (
        replace(WELL, hosts=(hosts_file("https://c", URL),)),
        "hosts",
        Level.WARNING,
        "https://c before",
        "prepend",
    ),
    "another port": (
        replace(WELL, hosts=(hosts_file("http://127.0.0.1:29999"),)),
        "hosts",
        Level.PROBLEM,
        "29999",
        f"--mirror {URL}",
    ),
    "no right to pull": (
        replace(WELL, hosts=(hosts_file(URL, capabilities=("push",)),)),
        "hosts",
        Level.PROBLEM,
        "not let",
        "configure",
    ),
    "no right to resolve": (
        replace(WELL, hosts=(hosts_file(URL, capabilities=("pull",)),)),
        "hosts",
        Level.WARNING,
        "resolve",
        '"resolve"',
    ),
    "a hosts.toml that is none": (
        replace(WELL, hosts=(HostsFile("_default", CERTS, error="Expected '='"),)),
        "hosts",
        Level.PROBLEM,
        "Expected '='",
        "configure",
    ),
    "no seeds": (replace(WELL, agent=agent(members=[], seeds=[])), "cluster", Level.WARNING, "no seeds", "seeds ="),
    "seeds that lead to nobody else": (
        replace(WELL, agent=agent(members=[])),
        "cluster",
        Level.WARNING,
        "lead to none",
        "router ports",
    ),
    "seeds out of reach": (
        replace(WELL, agent=agent(members=[]), seeds=(Reach("seed", "10.0.0.2", 29993, "router", "refused"),)),
        "cluster",
        Level.PROBLEM,
        "10.0.0.2:29993 (refused)",
        "29993",
    ),
    "seeds that do not answer": (
        replace(WELL, agent=agent(members=[]), seeds=(Reach("seed", "10.0.0.2", 29993, "router"),)),
        "cluster",
        Level.PROBLEM,
        "although the seeds",
        "sha256sum",
    ),
    "peers refuse this node": (
        replace(WELL, agent=agent(refused_by_peers=3)),
        "secret",
        Level.PROBLEM,
        "refused 3",
        "sha256sum",
    ),
    "strangers are refused": (
        replace(WELL, agent=agent(refused_connections=2, refused_peers=1)),
        "secret",
        Level.WARNING,
        "refused 3",
        "skvaller_gossip_refused_connections_total",
    ),
    "another cluster's name": (
        replace(WELL, agent=agent(dropped_messages={"cluster": 1})),
        "secret",
        Level.WARNING,
        "another cluster",
        "cluster",
    ),
    "two nodes of one name": (replace(WELL, agent=agent(conflicts=1)), "cluster", Level.PROBLEM, "name a too", "name"),
    "some ports closed": (
        replace(WELL, reach=(Reach("b", "10.0.0.2", 1, "peer", "refused"), Reach("b", "10.0.0.2", 2, "router"))),
        "ports",
        Level.WARNING,
        "b 10.0.0.2:1 (refused)",
        "Open",
    ),
    "all ports closed": (
        replace(WELL, reach=(Reach("b", "10.0.0.2", 1, "peer", "refused"),)),
        "ports",
        Level.PROBLEM,
        "refused",
        "Open",
    ),
    "no zone where others have one": (
        replace(WELL, agent=agent(zone="")),
        "zone",
        Level.WARNING,
        "z1",
        "SKVALLER_ZONE",
    ),
    "a wrong clock": (
        replace(WELL, clock_offsets_s={"b": -90.0, "c": 1.0}),
        "clock",
        Level.WARNING,
        "b by -90 s",
        "chrony",
    ),
}


@pytest.mark.parametrize(("facts", "check", "level", "what", "remedy"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_with_its_remedy(facts: Facts, check: str, level: Level, what: str, remedy: str) -> None:
    found = [finding for finding in diagnose(facts) if finding.check == check and finding.level is level]
    assert len(found) == 1, found
    assert what in found[0].what
    assert remedy in found[0].remedy
    assert level is Level.UNKNOWN or (found[0].why and found[0].remedy)


def test_pinned_layers_and_a_cluster_without_zones_are_fine() -> None:
    facts = replace(
        WELL,
        agent=agent(pin_bytes_max=1, zone="", members=[{"name": "b", "zone": ""}]),
        config=config(discards_layers=True),
    )
    assert {finding.level for finding in diagnose(facts)} == {Level.OK}


def test_a_list_of_directories_is_fine_when_the_plugin_pulls_itself() -> None:
    facts = replace(WELL, config=config(config_path=(Path("/else"), CERTS)))
    assert {finding.level for finding in diagnose(facts)} == {Level.OK}


def test_findings_read_as_lines() -> None:
    text = "\n".join(finding_lines([Finding("x", Level.PROBLEM, "It is so.", "It matters.", "Do this.")]))
    assert text == "PROBLEM  x: It is so.\n           It matters.\n         > Do this."


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_on_a_machine_with_nothing_the_command_says_so_in_words_and_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--agent", f"http://{HOST}:{free_port()}"),
        *("--certs-dir", str(tmp_path / "certs.d")),
        *("--containerd-config", str(tmp_path / "config.toml")),
        *("--containerd-socket", str(tmp_path / "containerd.sock")),
    ]
    assert run(arguments) == 2
    assert "PROBLEM  agent: No agent answers" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 2
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["agent"]["level"] == "problem"
    assert findings["runtime"]["level"] == "unknown"


async def test_what_members_say_of_their_ports_and_clocks_is_looked_at(tmp_path: Path) -> None:
    late = answering("403 Forbidden", ["Date: Tue, 01 Jan 2019 00:00:00 GMT", "Content-Length: 0"])
    async with scripted(late) as peer:
        port = int(peer.url.rpartition(":")[2])
        member = {"name": "b", "address": HOST, "zone": "", "peer_port": port, "publish_port": port}
        said = json.dumps(
            agent(members=[member | {"router_port": free_port()}], containerd_socket=str(tmp_path))
        ).encode()
        async with scripted(answering("200 OK", [f"Content-Length: {len(said)}"], said)) as local:
            facts = await gather(Places(local.url, tmp_path / "certs.d", tmp_path / "config.toml"))
    assert [(reach.use, reach.error == "") for reach in facts.reach] == [
        ("peer", True),
        ("publish", True),
        ("router", False),
    ]
    assert facts.clock_offsets_s["b"] < -1e8
    assert facts.runtime.error


async def test_of_the_seeds_those_are_tried_that_are_places_and_not_this_agent_itself(tmp_path: Path) -> None:
    one, other = free_port(), free_port()
    seeds = [f"{HOST}:{one}", f"localhost:{other}", "nowhere.invalid:1", "lease:skvaller", "http://localhost:1"]
    me = {"address": HOST, "router_port": one}
    said = json.dumps(agent(members=[], seeds=seeds, me=me, containerd_socket=str(tmp_path))).encode()
    async with scripted(answering("200 OK", [f"Content-Length: {len(said)}"], said)) as local:
        facts = await gather(Places(local.url, tmp_path / "certs.d", tmp_path / "config.toml"))
    assert {(seed.address, seed.port) for seed in facts.seeds} - {("::1", other)} == {
        (HOST, other),
        ("nowhere.invalid", 1),
    }
    assert all(seed.error for seed in facts.seeds)


@pytest.mark.parametrize("answer", [b"\x00" * 10_000, b"HTTP/1.1 200 OK\r\nDate: never\r\n\r\n", b""])
async def test_a_member_that_answers_nonsense_has_no_clock(tmp_path: Path, answer: bytes) -> None:
    async def nonsense(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with scripted(nonsense) as peer:
        port = int(peer.url.rpartition(":")[2])
        ports = {"peer_port": port, "publish_port": port, "router_port": port}
        said = json.dumps(agent(members=[{"name": "b", "address": HOST, "zone": ""} | ports])).encode()
        async with scripted(answering("200 OK", [f"Content-Length: {len(said)}"], said)) as local:
            facts = await gather(Places(local.url, tmp_path, tmp_path / "config.toml", tmp_path / "socket"))
    assert not facts.clock_offsets_s


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (
            '[host."http://127.0.0.1:29990"]\n  capabilities = ["pull"]\n',
            lambda file: file.hosts == ((URL, ("pull",)),),
        ),
        ('[host."http://127.0.0.1:29990"]\n', lambda file: file.hosts == ((URL, ("pull", "resolve")),)),
        ('[host."http://127.0.0.1:29990"]\n  capabilities = "pull"\n', lambda file: "capabilities" in file.error),
        ("host = 1", lambda file: file.error),
        ("[", lambda file: file.error),
        ("x = " + "[" * 5000, lambda file: file.error),
        (None, lambda file: file.error),
    ],
)
async def test_hosts_files_are_read_or_told(
    tmp_path: Path, text: str | None, right: Callable[[HostsFile], bool]
) -> None:
    (tmp_path / "_default").mkdir()
    if text is not None:
        (tmp_path / "_default/hosts.toml").write_text(text)
    facts = await gather(Places(f"http://{HOST}:{free_port()}", tmp_path, tmp_path / "c", tmp_path / "socket"))
    assert facts.hosts is not None
    assert right(facts.hosts[0])


@pytest.mark.parametrize("text", ["[", "x = " + "[" * 5000, "x = " + "1" * 5000])
def test_a_configuration_that_is_no_toml_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigFileError, match=str(file)):
        load(file, (1, 7))


async def test_podman_is_well_led_to_a_path_and_to_a_port(tmp_path: Path) -> None:
    said = json.dumps(agent(members=[], containerd_socket=str(tmp_path))).encode()
    file = tmp_path / "registries.conf"
    async with scripted(answering("200 OK", [f"Content-Length: {len(said)}"], said)) as local:
        ports = (RegistryPort("docker.io", 29996),)
        configure(RegistriesConf(file, local.url, ["docker.io", "quay.io"], ports=ports))
        facts = await gather(Places(local.url, tmp_path, tmp_path / "c", tmp_path / "socket", file))
    findings = [finding for finding in diagnose(facts) if finding.check == "podman"]
    assert [(finding.level, finding.what) for finding in findings] == [
        (Level.OK, "podman asks the mirror for docker.io, quay.io.")
    ]


async def test_podman_is_not_well_led_where_a_later_file_has_the_registry(tmp_path: Path) -> None:
    said = json.dumps(agent(members=[], containerd_socket=str(tmp_path))).encode()
    file = tmp_path / "registries.conf"
    async with scripted(answering("200 OK", [f"Content-Length: {len(said)}"], said)) as local:
        configure(RegistriesConf(file, local.url, ["docker.io", "quay.io"]))
        put(tmp_path, "registries.conf.d/zzz.conf", '[[registry]]\nlocation = "docker.io"\ninsecure = true\n')
        facts = await gather(Places(local.url, tmp_path, tmp_path / "c", tmp_path / "socket", file))
    good, outdated, outranked = (finding for finding in diagnose(facts) if finding.check == "podman")
    assert good.what == "podman asks the mirror for quay.io."
    assert f"--mirror {local.url} --mode prepend --registry docker.io --registry quay.io" in outdated.remedy
    assert "for docker.io: zzz.conf" in outranked.what


@pytest.mark.parametrize(
    "text", ["[", "x = " + "[" * 5000, "registry = 1", "[[registry]]\nprefix = 1", "[[registry]]\nmirror = [1]"]
)
async def test_a_drop_in_that_cannot_be_read_is_no_finding(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.conf.d").mkdir()
    (tmp_path / "r.conf.d" / DROP_IN).write_text(text)
    facts = await gather(Places(URL, tmp_path, tmp_path / "c", tmp_path / "socket", tmp_path / "r.conf"))
    assert facts.podman == ()
    assert facts.podman_review is None
