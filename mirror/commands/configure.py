"""`skvaller configure` and `skvaller cleanup`: lead the node's runtime to the agent, and undo it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirror.commands import Commands
from mirror.registries_conf import REGISTRIES_CONF
from mirror.registry_ports import read_registry_ports
from mirror.settings import SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.atomic_files import Change

CERTS_DIR = Path("/etc/containerd/certs.d")


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare both commands."""
    configure = commands.add_parser(
        "configure",
        help="lead the runtime to the agent",
        description="Write the mirror into containerd's hosts.toml files: a marked block in front of what is there, "
        "for every registry (_default) and for each that has a directory of its own. With --runtime podman, write a "
        "drop-in for registries.conf, for the registries that are named. Nothing else is touched. Exit code: 0 done, "
        "1 something could not be done and was left as it was.",
    )
    configure.add_argument(
        "--runtime",
        action="append",
        choices=("containerd", "podman"),
        help="who is led to the agent; podman stands for skopeo, Buildah and CRI-O too. May be repeated "
        "[default: containerd]",
    )
    _add_places(configure)
    configure.add_argument(
        "--mirror",
        default="http://127.0.0.1:29990",
        metavar="URL",
        help="the agent's client face [default: %(default)s]",
    )
    configure.add_argument(
        "--registry",
        action="append",
        default=[],
        metavar="NAME[=URL]",
        help="for containerd also make a directory for this registry; URL says where it is when the mirror does not "
        "answer, if that is not https://NAME. podman is led to the mirror for these alone. May be repeated",
    )
    configure.add_argument(
        "--registry-ports",
        default="",
        metavar="NAME=PORT,...",
        help="the agent's ports that stand for one registry each, as in its setting of that name; for these "
        "registries podman is led there",
    )
    configure.add_argument(
        "--mode",
        choices=("prepend", "append", "keep"),
        default="prepend",
        help="where other mirrors are configured already: before them, behind them, or leave those registries as they "
        "are [default: %(default)s]",
    )
    configure.add_argument(
        "--only-named",
        action="store_true",
        help="lead containerd to the agent for the registries that --registry names, and for no other",
    )
    configure.set_defaults(run=_configure)

    cleanup = commands.add_parser(
        "cleanup",
        help="undo configure",
        description="Take the mirror out of containerd's hosts.toml files again, and remove the drop-in for "
        "registries.conf; everything else stays byte for byte.",
    )
    _add_places(cleanup)
    cleanup.set_defaults(run=_cleanup)


def _configure(options: argparse.Namespace) -> int:
    from mirror import hosts, registries_conf

    registries = {}
    for text in options.registry:
        name, _, url = text.partition("=")
        registries[name] = url or None
    runtimes = options.runtime or ["containerd"]
    mode = hosts.Mode(options.mode)
    for_containerd = hosts.ConfigureOptions(options.certs_dir, options.mirror, registries, mode, options.only_named)
    changes: list[Change] = []
    if "containerd" in runtimes:
        changes += hosts.configure(for_containerd)
    if "podman" in runtimes:
        try:
            ports = read_registry_ports(options.registry_ports)
        except ValueError as error:
            raise SettingsError(f"--registry-ports: {options.registry_ports!r} is not allowed; {error}") from error
        names = [*registries, *(each.registry for each in ports)]
        if not names:
            raise SettingsError("podman has no mirror for every registry: name some, such as --registry docker.io")
        changes += registries_conf.configure(
            registries_conf.RegistriesConf(options.registries_conf, options.mirror, names, mode, ports)
        )
    return _report(changes)


def _cleanup(options: argparse.Namespace) -> int:
    from mirror import hosts, registries_conf

    return _report(hosts.cleanup(options.certs_dir) + registries_conf.cleanup(options.registries_conf))


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--certs-dir",
        type=Path,
        default=CERTS_DIR,
        metavar="DIR",
        help="containerd's config_path for registries [default: %(default)s]",
    )
    parser.add_argument(
        "--registries-conf",
        type=Path,
        default=REGISTRIES_CONF,
        metavar="FILE",
        help="podman's registries.conf; the drop-in goes into the directory FILE.d [default: %(default)s]",
    )


def _report(changes: Sequence[Change]) -> int:
    for change in changes:
        print(change)
    return 1 if any(change.failed for change in changes) else 0
