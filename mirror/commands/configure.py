"""`skvaller configure` and `skvaller cleanup`: lead the node's runtime to the agent, and undo it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirror.commands import Commands

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.hosts import Change

CERTS_DIR = Path("/etc/containerd/certs.d")


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare both commands."""
    configure = commands.add_parser(
        "configure",
        help="lead containerd to the agent",
        description="Write the mirror into containerd's hosts.toml files: a marked block in front of what is there, "
        "for every registry (_default) and for each that has a directory of its own. Nothing else is touched.",
    )
    _add_certs_dir(configure)
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
        help="also make a directory for this registry; URL says where containerd finds it when the mirror does not "
        "answer, if that is not https://NAME. May be repeated",
    )
    configure.set_defaults(run=_configure)

    cleanup = commands.add_parser(
        "cleanup",
        help="undo configure",
        description="Take the mirror out of containerd's hosts.toml files again; everything else stays byte for byte.",
    )
    _add_certs_dir(cleanup)
    cleanup.set_defaults(run=_cleanup)


def _configure(options: argparse.Namespace) -> int:
    from mirror.hosts import ConfigureOptions, configure

    registries = {}
    for text in options.registry:
        name, _, url = text.partition("=")
        registries[name] = url or None
    return _report(configure(ConfigureOptions(options.certs_dir, options.mirror, registries)))


def _cleanup(options: argparse.Namespace) -> int:
    from mirror.hosts import cleanup

    return _report(cleanup(options.certs_dir))


def _add_certs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--certs-dir",
        type=Path,
        default=CERTS_DIR,
        metavar="DIR",
        help="containerd's config_path for registries [default: %(default)s]",
    )


def _report(changes: Sequence[Change]) -> int:
    for change in changes:
        print(change)
    return 1 if any(change.failed for change in changes) else 0
