"""The command line: `skvaller COMMAND`. What each command does is in `mirror.commands`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from mirror.commands import (
    complain,
    completion,
    configure,
    control,
    demo,
    doctor,
    explain,
    find,
    herd,
    members,
    schema,
    serve,
    simulate,
    status,
    top,
    transfers,
    untaint,
)
from mirror.settings import SettingsError
from mirror.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE_ERROR = 2
COMMANDS = (
    serve,
    configure,
    doctor,
    status,
    members,
    find,
    explain,
    transfers,
    herd,
    top,
    control,
    schema,
    demo,
    simulate,
    untaint,
    completion,
)
"""In the order of `--help`."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code: 0 done, 1 failed, 2 wrong usage."""
    options = make_parser().parse_args(arguments)
    try:
        code = int(options.run(options))
    except SettingsError as error:
        complain(error)
        code = USAGE_ERROR
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="skvaller", description="A stateless, cluster-local mirror for OCI images: one agent on each node."
    )
    parser.add_argument("--version", action="version", version=f"skvaller {installed_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
