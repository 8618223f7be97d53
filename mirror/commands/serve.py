"""`skvaller serve`: run an agent."""

from __future__ import annotations

import argparse
import os
import resource
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.commands import Commands, complain
from mirror.settings import ENVIRONMENT_PREFIX, Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterator


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command, with one flag for each setting."""
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
    serve.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until SIGTERM."""
    flags = {setting.name: getattr(options, setting.name) for setting in fields(Settings) if setting.name in options}
    config = options.config or os.environ.get("SKVALLER_CONFIG")
    file = Path(config) if config else None
    read = partial(load, flags, os.environ, file)
    settings = read()

    import uvloop

    from gossip import GossipError
    from mirror.app import run_agent
    from mirror.http_server import ListenError
    from mirror.logs import configure_logs

    configure_logs(settings.log_level, settings.log_format)
    _raise_descriptor_limit()
    code = 1
    try:
        code = uvloop.run(run_agent(settings, read, file))
    except* (ListenError, GossipError, OSError) as group:
        for error in _leaves(group):
            complain(error)
    return code


def _raise_descriptor_limit() -> None:
    """Take all the descriptors that may be had: the usual limit of 1024 is less than one face's connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
