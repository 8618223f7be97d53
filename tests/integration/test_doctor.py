"""The doctor on real nodes: containerds that are configured wrong on purpose, and the proof by a pull."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mirror.doctor.containerd_config import Effective, effective, load
from tests.integration.agents import COMMAND, ROOT, ROUTER_PORT, Agent, all_met, start_agents
from tests.lab import Lab, Node
from tests.lab.fetch_containerd import version
from tests.lab.process import CommandError, run

OLDER = 'plugins."io.containerd.grpc.v1.cri"'
OTHER_USER = 65534
IMAGES = 'plugins."io.containerd.cri.v1.images"'


def containerd() -> tuple[int, ...]:
    """The version of the containerd that the nodes run."""
    return tuple(map(int, version().split(".")))


@pytest.fixture
async def cluster(lab: Lab) -> tuple[list[Node], list[Agent]]:
    nodes = await lab.add_nodes(2)
    return nodes, await start_agents(nodes, await lab.add_registry("registry.test"))


async def doctor(node: Node, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the findings by check."""
    command = [
        *COMMAND,
        "doctor",
        "--json",
        *("--certs-dir", node.certs_d),
        *("--containerd-config", node.directory / "config.toml"),
        *options,
    ]
    shell = " ".join(map(str, command)) + "; echo exit=$?"
    said = await node.run("sh", "-c", shell, environment={"PYTHONPATH": str(ROOT)})
    text, _, code = said.rpartition("exit=")
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(text):
        findings.setdefault(finding["check"], []).append(finding)
    return int(code), findings


def levels(findings: dict[str, list[dict[str, Any]]], check: str) -> set[str]:
    return {finding["level"] for finding in findings.get(check, [])}


async def change(node: Node, old: str, new: str) -> None:
    """Change containerd's configuration, and let it read that."""
    file = node.directory / "config.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    await node.containerd.restart()
    await node.ready()


@pytest.mark.timeout(240)
async def test_a_node_is_well_until_something_is_wrong_and_the_doctor_says_what(
    cluster: tuple[list[Node], list[Agent]],
) -> None:
    (one, two), agents = cluster
    code, findings = await doctor(one)
    assert (code, levels(findings, "probe")) == (0, {"ok"}), findings
    assert {level for check in findings for level in levels(findings, check)} == {"ok"}
    assert version() in findings["runtime"][0]["what"]

    # Its file still leads to the agent, but containerd does not read it.
    await change(one, f'config_path = "{one.certs_d}"', 'config_path = ""')
    code, findings = await doctor(one)
    assert (code, levels(findings, "probe"), levels(findings, "config_path")) == (2, {"problem"}, {"problem"})
    said = findings["config_path"][0]["what"]
    assert ("/etc/containerd/certs.d" if containerd() >= (2, 2) else "not set") in said

    # Several directories, of which the transfer service makes one that is not there.
    await change(one, 'config_path = ""', f'config_path = "{one.certs_d}:/nowhere"')
    code, findings = await doctor(one)
    pulls = "problem" if containerd() >= (2, 1) else "ok"
    assert (levels(findings, "probe"), levels(findings, "config_path")) == ({pulls}, {pulls}), findings

    # The same with what makes the plugin pull itself.
    await change(one, "discard_unpacked_layers = false", "discard_unpacked_layers = true")
    code, findings = await doctor(one)
    assert (levels(findings, "probe"), levels(findings, "config_path")) == ({"ok"}, {"ok"}), findings
    assert (code, levels(findings, "layers")) == (1, {"warning"})

    await agents[1].process.kill()
    code, findings = await doctor(two)
    assert (code, levels(findings, "agent"), levels(findings, "probe")) == (2, {"problem"}, {"unknown"})


@pytest.mark.timeout(240)
async def test_wrong_hosts_files_ports_and_agents_are_found(cluster: tuple[list[Node], list[Agent]]) -> None:
    (one, two), agents = cluster
    default = one.certs_d / "_default" / "hosts.toml"
    right = default.read_text()

    default.write_text(right.replace("29990", "29999"))
    _, findings = await doctor(one)
    assert (levels(findings, "probe"), levels(findings, "hosts")) == ({"problem"}, {"problem", "ok"})
    default.write_text(f'[host."https://127.0.0.1:9"]\n{right}')
    code, findings = await doctor(one)
    assert (code, levels(findings, "hosts")) == (1, {"warning", "ok"}), findings
    default.write_text(right)
    own = one.certs_d / "registry.test" / "hosts.toml"
    own.write_text(re.sub(r"# >>> .*# <<< skvaller <<<\n", "", own.read_text(), flags=re.DOTALL))
    code, findings = await doctor(one)
    assert (code, levels(findings, "hosts")) == (1, {"warning", "ok"})

    await two.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "29991", "-j", "DROP")
    _, findings = await doctor(one)
    assert levels(findings, "ports") == {"warning"}
    assert "29991 (no answer" in findings["ports"][0]["what"]

    await agents[0].process.stop()
    (one.directory / "secret").write_bytes(bytes(range(100, 148)))
    await agents[0].start()
    code, findings = await doctor(one)
    assert (code, levels(findings, "cluster")) == (2, {"problem"})
    assert "sha256sum" in findings["cluster"][0]["remedy"]
    _, findings = await doctor(two)
    assert levels(findings, "secret") == {"warning"}


async def test_an_agent_without_the_right_to_the_socket_and_without_a_zone_is_told(lab: Lab) -> None:
    one, two = await lab.add_nodes(2)
    agents = await start_agents([one, two], await lab.add_registry("registry.test"))
    _, findings = await doctor(one)
    assert (levels(findings, "runtime"), levels(findings, "zone")) == ({"ok"}, set())

    await agents[0].process.stop()
    os.chown(one.socket, OTHER_USER, OTHER_USER)
    one.socket.chmod(0o600)
    flags = {
        "name": one.name,
        "address": one.address,
        "secret-file": one.directory / "secret",
        "seeds": f"{two.address}:{ROUTER_PORT}",
        "store": "containerd",
        "containerd-socket": one.socket,
    }
    # Root without these is a user like others.
    rightless = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    command = [*rightless, *COMMAND, "serve", *(f"--{name}={value}" for name, value in flags.items())]
    agents[0].process = one.process("agent without rights", command, {"PYTHONPATH": str(ROOT)})
    await agents[0].start()
    await all_met(agents)  # A node alone cannot know that others have zones.
    code, findings = await doctor(one)
    assert (code, levels(findings, "runtime"), levels(findings, "zone")) == (2, {"ok", "problem"}, {"warning"})
    [said] = [finding for finding in findings["runtime"] if finding["level"] == "problem"]
    assert f"cannot speak to containerd at {one.socket}" in said["what"]
    assert "SKVALLER_ZONE" in findings["zone"][0]["remedy"]
    assert "ermission denied" in agents[0].process.log()


async def test_a_containerd_without_its_cri_plugin_is_told(lab: Lab) -> None:
    (node,) = await lab.add_nodes(1)
    await node.containerd.stop()
    file = node.directory / "config.toml"
    names = ["io.containerd.grpc.v1.cri"]
    if containerd() >= (2, 0):
        names.append("io.containerd.cri.v1.images")
    file.write_text(f"disabled_plugins = {json.dumps(names)}\n{file.read_text()}")
    await node.containerd.start()
    for _ in range(100):
        assert node.containerd.running, node.containerd.log()
        try:
            await node.ctr("version")
            break
        except CommandError:
            continue
    code, findings = await doctor(node, "--containerd-socket", str(node.socket))
    assert code == 2
    assert "CRI" in findings["runtime"][0]["what"], findings


# What a file says, and what this containerd makes of it: `config dump` is the oracle.

CASES = {
    "nothing": ("version = 2\n", {}),
    "the older table": (f'version = 2\n[{OLDER}.registry]\nconfig_path = "/a"\n', {}),
    "discarded layers": (f"version = 2\n[{OLDER}.containerd]\ndiscard_unpacked_layers = true\n", {}),
    "discarded layers, with a runtime": (
        (
            f"version = 2\n[{OLDER}.containerd]\ndiscard_unpacked_layers = true\n[{OLDER}.containerd.runtimes.x]\n"
            'runtime_type = "io.containerd.runc.v2"\n'
        ),
        {},
    ),
    "both tables": (
        f'version = 2\n[{OLDER}.registry]\nconfig_path = "/a"\n[{IMAGES}.registry]\nconfig_path = "/b"\n',
        {},
    ),
    "a list": (f'version = 2\n[{OLDER}.registry]\nconfig_path = "/a:/b"\n', {}),
    "an import sets it": (
        'version = 2\nimports = ["conf.d/*.toml"]\n',
        {"conf.d/a.toml": f'version = 2\n[{OLDER}.registry]\nconfig_path = "/a"\n'},
    ),
    "an import with another key of the plugin": (
        f'version = 2\nimports = ["more.toml"]\n[{OLDER}.registry]\nconfig_path = "/a"\n',
        {"more.toml": f"version = 2\n[{OLDER}]\nmax_concurrent_downloads = 5\n"},
    ),
    "two imports": (
        f'version = 2\nimports = ["conf.d/*.toml"]\n[{OLDER}.registry]\nconfig_path = "/a"\n',
        {
            "conf.d/b.toml": f'version = 2\n[{OLDER}.registry]\nconfig_path = "/b"\n',
            "conf.d/a.toml": f'version = 2\n[{OLDER}.registry]\nconfig_path = "/x"\n',
        },
    ),
    "an import that empties it": (
        f'version = 2\nimports = ["more.toml"]\n[{OLDER}.registry]\nconfig_path = "/a"\n',
        {"more.toml": f'version = 2\n[{OLDER}.registry]\nconfig_path = ""\n'},
    ),
    "version 1": ('[plugins.cri.registry]\nconfig_path = "/a"\n', {}),
    "version 3": (f'version = 3\n[{IMAGES}.registry]\nconfig_path = "/a"\n', {}),
    "version 3 with the older table": (f'version = 3\n[{OLDER}.registry]\nconfig_path = "/a"\n', {}),
}


@pytest.mark.parametrize(("text", "imports"), CASES.values(), ids=CASES.keys())
async def test_the_configuration_is_read_as_containerd_reads_it(
    tmp_path: Path, text: str, imports: dict[str, str]
) -> None:
    if "version = 3" in text and containerd() < (2, 0):
        pytest.skip("containerd 1 does not start with a file of version 3")
    for name, content in {"config.toml": text, **imports}.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    dumped = tomllib.loads(await run("containerd", "--config", tmp_path / "config.toml", "config", "dump"))
    table = "io.containerd.cri.v1.images" if containerd() >= (2, 0) else "io.containerd.grpc.v1.cri"
    plugin = dumped["plugins"].get(table) or dumped["plugins"]["cri"]
    discards = plugin if containerd() >= (2, 0) else plugin["containerd"]
    found: Effective = effective(load(tmp_path / "config.toml", containerd()), containerd())
    assert found.discards_layers == discards["discard_unpacked_layers"]
    written = "" if found.is_default else ":".join(map(str, found.config_path))
    assert written == plugin["registry"]["config_path"]
    if "config_path" in text and not (written or imports):
        assert found.misplaced


def test_a_table_that_this_containerd_does_not_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    table, others = (OLDER, IMAGES) if containerd() >= (2, 0) else (IMAGES, OLDER)
    file.write_text(f'version = {4 if containerd() >= (2, 3) else 3}\n[{table}.registry]\nconfig_path = "/a"\n')
    if containerd() < (2, 0):
        file.write_text(file.read_text().replace("version = 3", "version = 2"))
    found = effective(load(file, containerd()), containerd())
    assert found.misplaced == (f"[{table}.registry] in {file}",)
    assert others not in found.misplaced[0]
