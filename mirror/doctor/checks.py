"""The checks, each from facts to findings, and all of them in the order in which a person would look.

Here is what concerns the agent and the runtime; the cluster is in `mirror.doctor.cluster_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mirror.doctor.cluster_checks import CLUSTER_CHECKS
from mirror.doctor.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mirror.doctor.facts import Facts, HostsFile

    Check = Callable[[Facts], Iterator[Finding]]

FALLS_BACK: Final = "The runtime then pulls from the registry as if there were no mirror."
RESTART: Final = "and restart containerd (its pods go on)"


def diagnose(facts: Facts) -> list[Finding]:
    """All findings."""
    return [finding for check in (*NODE_CHECKS, *CLUSTER_CHECKS) for finding in check(facts)]


def check_agent(facts: Facts) -> Iterator[Finding]:
    """Is there an agent, and does it answer where it is expected?"""
    if facts.agent is not None:
        name, version = facts.agent["name"], facts.agent["version"]
        yield Finding("agent", Level.OK, f"The agent {name} {version} answers at {facts.agent_url}.".replace("  ", " "))
        yield from _check_switches(facts.agent["mirroring"])
    elif facts.foreign:
        yield Finding(
            "agent",
            Level.PROBLEM,
            f"What answers at {facts.agent_url} is not an agent of this version: {facts.agent_error}",
            f"{FALLS_BACK} And whoever listens there is offered the runtime's credentials.",
            "Find out which program listens on that port, or name the agent's with --agent.",
        )
    else:
        yield Finding(
            "agent",
            Level.PROBLEM,
            f"No agent answers: {facts.agent_error}",
            FALLS_BACK,
            "Start it (systemctl start skvaller, or look at the pod on this node), or name its port with --agent.",
        )


def _check_switches(mirroring: Mapping[str, bool]) -> Iterator[Finding]:
    """Is anything mirrored?"""
    for where, name, flag in (("here", "this agent", ""), ("everywhere", "all agents", " --everywhere")):
        if not mirroring[where]:
            yield Finding(
                "agent",
                Level.PROBLEM,
                f"The kill switch of {name} is thrown: every pull is answered with 404.",
                FALLS_BACK,
                f"Run `skvaller mirroring on{flag}`" + ("." if flag else ", or set mirroring = true in its file."),
            )


def check_runtime(facts: Facts) -> Iterator[Finding]:
    """Does the runtime answer us, and does it answer the agent?"""
    runtime = facts.runtime
    if runtime.error:
        yield Finding(
            "runtime",
            Level.UNKNOWN,
            f"containerd does not answer at {runtime.socket}: {runtime.error}",
            "So it cannot be asked what it does, and its version is not known.",
            "Run this as root, with --containerd-socket if it is elsewhere; or is containerd running?",
        )
    elif not runtime.serves_pods:
        yield Finding(
            "runtime",
            Level.PROBLEM,
            f"containerd ({runtime.socket}) runs without its CRI plugin.",
            "A kubelet cannot use it, and hosts.toml files count for nothing but `ctr --hosts-dir` and nerdctl.",
            f'Take "cri" out of disabled_plugins in containerd\'s configuration {RESTART}.',
        )
    else:
        yield Finding("runtime", Level.OK, f"{runtime.text} answers at {runtime.socket}.")
    if facts.agent is not None and facts.agent["store"] == "containerd" and not facts.agent["store_answers"]:
        yield Finding(
            "runtime",
            Level.PROBLEM,
            f"The agent cannot speak to containerd at {facts.agent['containerd_socket']}.",
            "It does not know the tags of this node's images, and may not see them at all.",
            "Let it reach the socket: mount its directory into the pod (read-only will do), and run it as root. "
            "Its log says what went wrong.",
        )


def check_config_path(facts: Facts) -> Iterator[Finding]:
    """Does the runtime read the hosts.toml files that we write?"""
    config = facts.config
    if config is None:
        yield Finding(
            "config_path",
            Level.UNKNOWN,
            f"containerd's configuration cannot be read: {facts.config_error}",
            "Whether it reads hosts.toml files is told by the test pull alone.",
            "Name it with --containerd-config; in a pod it is not there, so run this on the node for a full answer.",
        )
        return
    for place in config.misplaced:
        yield Finding(
            "config_path",
            Level.WARNING if config.config_path else Level.PROBLEM,
            f"config_path is set in {place}, where {facts.runtime.text or 'this containerd'} does not look.",
            "containerd ignores tables that it does not know, without a word.",
            f"Set it in {_registry_table(facts)} {RESTART}.",
        )
    if not config.config_path and not config.misplaced:
        yield Finding(
            "config_path",
            Level.PROBLEM,
            "config_path is not set in containerd's configuration"
            + (" (but the older `mirrors` are)." if config.has_mirrors else "."),
            f"containerd reads no hosts.toml. {FALLS_BACK}",
            f'Set config_path = "{facts.certs_dir}" in {_registry_table(facts)}'
            + (" in the place of `mirrors`" if config.has_mirrors else "")
            + f" {RESTART}.",
        )
    elif config.config_path and facts.certs_dir not in config.config_path:
        yield Finding(
            "config_path",
            Level.PROBLEM,
            f"containerd reads hosts.toml files in {_paths(facts)}, and not in {facts.certs_dir}.",
            f"What `skvaller configure` wrote is not read. {FALLS_BACK}",
            f"Run `skvaller configure --certs-dir {config.config_path[0]}` (in the chart: hosts.certsDir).",
        )
    elif config.transfer_service and len(config.config_path) > 1:
        yield Finding(
            "config_path",
            Level.PROBLEM,
            f"config_path names {len(config.config_path)} directories ({_paths(facts)}"
            + (", the default)" if config.is_default else ")")
            + ", and containerd's transfer service pulls.",
            f"The transfer service takes the list for one directory, which is not there. {FALLS_BACK}",
            f'Set config_path = "{facts.certs_dir}" alone in {_registry_table(facts)}, or use_local_image_pull = true '
            f"above it, {RESTART}.",
        )
    elif config.config_path:
        yield Finding("config_path", Level.OK, f"containerd reads hosts.toml files in {_paths(facts)}.")


def check_layers(facts: Facts) -> Iterator[Finding]:
    """Does the runtime keep the layers that others want of us?"""
    if facts.config is None or not facts.config.discards_layers:
        return
    if facts.agent is not None and facts.agent["pin_bytes_max"]:
        yield Finding("layers", Level.OK, "containerd discards unpacked layers, and the agent keeps some by a lease.")
    else:
        yield Finding(
            "layers",
            Level.WARNING,
            "containerd discards layers once they are unpacked (discard_unpacked_layers = true).",
            "Other nodes get no layer from this one, only manifests.",
            "Set discard_unpacked_layers = false, or let the agent keep some by a lease (containerd_pin_bytes_max, in "
            "the chart containerd.pinBytesMax).",
        )


def check_hosts(facts: Facts) -> Iterator[Finding]:
    """Do the hosts.toml files lead to the agent, and to it first?"""
    if facts.hosts is None and facts.probe.asked:
        yield Finding("hosts", Level.UNKNOWN, f"{facts.certs_dir} cannot be seen from here, but leads to the mirror.")
        return
    if not facts.hosts:
        yield Finding(
            "hosts",
            Level.PROBLEM,
            f"There are no hosts.toml files in {facts.certs_dir}.",
            FALLS_BACK,
            f"Run `skvaller configure --certs-dir {facts.certs_dir}`.",
        )
        return
    good = []
    for file in facts.hosts:
        findings = list(_check_hosts_file(facts, file))
        yield from findings
        if not findings:
            good.append(file.directory)
    if "_default" not in {file.directory for file in facts.hosts}:
        yield Finding(
            "hosts",
            Level.WARNING,
            f"There is no _default in {facts.certs_dir}.",
            "Registries without a directory of their own are not mirrored.",
            "Run `skvaller configure` without --only-named, if that is not what you want.",
        )
    if good:
        yield Finding("hosts", Level.OK, f"The mirror is asked first for {', '.join(good)}.")


def _check_hosts_file(facts: Facts, file: HostsFile) -> Iterator[Finding]:
    mirror = facts.agent_url.rstrip("/")
    urls = [url.rstrip("/") for url, _ in file.hosts]
    again = "Run `skvaller configure` again."
    whose = "every registry without a directory of its own" if file.directory == "_default" else file.directory
    elsewhere = [url for url in urls if _is_loopback(url) and url != mirror]
    if file.error:
        yield Finding(
            "hosts", Level.PROBLEM, f"{file.path} cannot be read: {file.error}", f"{whose} is not mirrored.", again
        )
    elif mirror in urls:
        capabilities = dict(zip(urls, (each for _, each in file.hosts), strict=True))[mirror]
        if urls[0] != mirror:
            yield Finding(
                "hosts",
                Level.WARNING,
                f"{file.path} names {urls[0]} before the mirror.",
                f"For {whose} the mirror is asked only when that one does not give an object.",
                "If that is not what you want: `skvaller configure --mode prepend`.",
            )
        if "pull" not in capabilities:
            yield Finding(
                "hosts", Level.PROBLEM, f"{file.path} does not let the mirror pull.", f"{whose} is not mirrored.", again
            )
        elif "resolve" not in capabilities:
            yield Finding(
                "hosts",
                Level.WARNING,
                f"{file.path} does not let the mirror resolve.",
                "What a tag means is asked of the registry itself, so no tag is known while that is away.",
                'Add "resolve" to the capabilities.',
            )
    elif elsewhere:
        yield Finding(
            "hosts",
            Level.PROBLEM,
            f"{file.path} leads to {elsewhere[0]}, and the agent is at {mirror}.",
            f"{whose} is not mirrored.",
            f"Run `skvaller configure --mirror {mirror}`, or give the agent that port.",
        )
    else:
        yield Finding(
            "hosts",
            Level.PROBLEM if file.directory == "_default" else Level.WARNING,
            f"{file.path} does not name the mirror.",
            f"{whose} is not mirrored: a directory of its own outranks _default.",
            again,
        )


def check_podman_files(facts: Facts) -> Iterator[Finding]:
    """Does podman still go by what we wrote, and does that still say what the operator's files do?"""
    review = facts.podman_review
    if review is None:
        return
    if review.error:
        yield Finding(
            "podman",
            Level.UNKNOWN,
            f"podman's configuration cannot be read: {review.error}",
            "Whether podman goes by it is not known either.",
            "Run this as root, and put the file right.",
        )
    if review.outdated:
        yield Finding(
            "podman",
            Level.WARNING,
            "The drop-in for podman is not what `skvaller configure` would write now.",
            "It outranks the other files of podman's configuration: what was changed in those since then does not "
            "count, not even where a registry was blocked.",
            f"Run `{review.command}`.",
        )
    for prefix, reason in review.skipped.items():
        yield Finding(
            "podman",
            Level.WARNING,
            f"podman is not led to the mirror for {prefix}: {reason}.",
            "podman then pulls as if there were no mirror.",
            "Put that right and configure again; or configure without that registry.",
        )


def check_podman(facts: Facts) -> Iterator[Finding]:
    """Is podman led to where the agent stands for the registry?"""
    if facts.agent is None or not facts.podman:
        return
    ports = facts.agent["registry_ports"]
    good = []
    for mirror in facts.podman:
        registry, slash, path = mirror.place.partition("/")
        host = urlsplit(facts.agent_url)
        places = {f"{host.netloc}/{mirror.place}"}
        if registry in ports:
            places.add(f"{host.netloc.removesuffix(f':{host.port}')}:{ports[registry]}{slash}{path}")
        if mirror.location in places:
            if facts.podman_review is None or mirror.prefix not in facts.podman_review.skipped:
                good.append(mirror.prefix)
            continue
        yield Finding(
            "podman",
            Level.PROBLEM,
            f"podman is led to {mirror.location} for {mirror.prefix}, where the agent does not stand for {registry}.",
            "podman then pulls from the registry as if there were no mirror.",
            f"Run `skvaller configure --runtime podman` again, with --registry-ports as the agent has it "
            f"({','.join(f'{name}={port}' for name, port in ports.items()) or 'none'}) or with --registry {registry}.",
        )
    if good:
        yield Finding("podman", Level.OK, f"podman asks the mirror for {', '.join(good)}.")


def check_probe(facts: Facts) -> Iterator[Finding]:
    """The proof: was the agent asked?"""
    probe = facts.probe
    if probe.asked is None:
        yield Finding("probe", Level.UNKNOWN, f"A pull could not be tried: {probe.error}")
    elif probe.asked:
        yield Finding("probe", Level.OK, "A test pull went through the mirror.")
    else:
        yield Finding(
            "probe",
            Level.PROBLEM,
            "A test pull did not go through the mirror: containerd did not ask the agent.",
            "Pulls on this node are as they were without a mirror.",
            "See what else is told here. When the files are right, restart containerd: it read its configuration when "
            "it started.",
        )


NODE_CHECKS: Final[tuple[Check, ...]] = (
    check_agent,
    check_runtime,
    check_probe,
    check_config_path,
    check_hosts,
    check_podman,
    check_podman_files,
    check_layers,
)


def _registry_table(facts: Facts) -> str:
    modern = facts.runtime.version >= (2, 0)
    name = "io.containerd.cri.v1.images" if modern else "io.containerd.grpc.v1.cri"
    return f'[plugins."{name}".registry]'


def _paths(facts: Facts) -> str:
    assert facts.config is not None
    return " and ".join(str(path) for path in facts.config.config_path)


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}
