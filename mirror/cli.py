"""The command line: `skvaller serve | configure | cleanup | demo`.

Commands import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mirror.settings import ENVIRONMENT_PREFIX, Settings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.hosts import Change

USAGE_ERROR = 2
CERTS_DIR = Path("/etc/containerd/certs.d")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code: 0 done, 1 failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        code = int(options.run(options))
    except SettingsError as error:
        _complain(error)
        code = USAGE_ERROR
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _version() -> str:
    try:
        return version("skvaller")
    except PackageNotFoundError:
        return "(not installed: run from its source)"


def _complain(error: BaseException | str) -> None:
    print(f"skvaller: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skvaller", description="A stateless, cluster-local mirror for OCI images: one agent on each node."
    )
    parser.add_argument("--version", action="version", version=f"skvaller {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_configure(commands)
    _add_cleanup(commands)
    _add_demo(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="run an agent",
        description="Run an agent until SIGTERM. Each setting can be a flag, an environment variable "
        f"({ENVIRONMENT_PREFIX}CLIENT_PORT for --client-port) or a key of the file (client_port), in this order.",
    )
    serve.add_argument("--config", metavar="FILE", help="settings in TOML [environment: SKVALLER_CONFIG]")
    for setting in fields(Settings):
        if setting.default is not MISSING:
            default = setting.default
        else:
            assert setting.default_factory is not MISSING
            default = setting.default_factory()
        shown = " ".join(default) if isinstance(default, tuple) else default
        suffix = f" [default: {shown}]" if shown else ""
        serve.add_argument(
            f"--{setting.name.replace('_', '-')}",
            metavar=setting.name.upper(),
            help=(setting.metadata["help"] + suffix).replace("%", "%%"),
            default=argparse.SUPPRESS,
        )
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    flags = {setting.name: getattr(options, setting.name) for setting in fields(Settings) if setting.name in options}
    file = options.config or os.environ.get("SKVALLER_CONFIG")
    settings = load(flags, os.environ, Path(file) if file else None)

    from gossip import GossipError
    from mirror.app import run_agent
    from mirror.http_server import ListenError

    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    code = 1
    try:
        code = asyncio.run(run_agent(settings))
    except* (ListenError, GossipError, OSError) as group:
        for error in _leaves(group):
            _complain(error)
    return code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _add_configure(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


def _configure(options: argparse.Namespace) -> int:
    from mirror.hosts import ConfigureOptions, configure

    registries = {}
    for text in options.registry:
        name, _, url = text.partition("=")
        registries[name] = url or None
    return _report(configure(ConfigureOptions(options.certs_dir, options.mirror, registries)))


def _add_cleanup(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cleanup = commands.add_parser(
        "cleanup",
        help="undo configure",
        description="Take the mirror out of containerd's hosts.toml files again; everything else stays byte for byte.",
    )
    _add_certs_dir(cleanup)
    cleanup.set_defaults(run=_cleanup)


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


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="see it work: a registry and three agents on this machine",
        description="Start a registry with a new image and three agents on loopback; pull on each; stop the registry "
        "before the last one. Nothing but Python is needed.",
    )
    demo.add_argument("--once", action="store_true", help="exit when all pulls are done: 0 if every digest was right")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from mirror.demo import run_demo

    return run_demo(once=options.once)
