"""`skvaller doctor`: whether pulls on this node go through the mirror, and what to do if not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.commands import Commands
from mirror.commands.configure import CERTS_DIR
from mirror.local_client import add_agent_option
from mirror.registries_conf import REGISTRIES_CONF

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from mirror.doctor import Finding

CONFIG = Path("/etc/containerd/config.toml")
LABELS = {0: "ok", 1: "warning", 2: "PROBLEM", -1: "unknown"}


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    doctor = commands.add_parser(
        "doctor",
        help="find out whether pulls on this node go through the mirror, and if not why",
        description="Look at this node: its containerd and the configuration of it, the hosts.toml files, the agent, "
        "and the way to other nodes. As a proof, containerd is asked to pull an image of a registry that cannot exist. "
        "Nothing is changed. Exit code: 0 all is well, 1 there are warnings, 2 there are problems.",
    )
    doctor.add_argument("--certs-dir", type=Path, default=CERTS_DIR, metavar="DIR",
                        help="where hosts.toml files are [default: %(default)s]")  # fmt: skip
    doctor.add_argument("--containerd-config", type=Path, default=CONFIG, metavar="FILE",
                        help="containerd's configuration [default: %(default)s]")  # fmt: skip
    doctor.add_argument("--registries-conf", type=Path, default=REGISTRIES_CONF, metavar="FILE",
                        help="podman's registries.conf [default: %(default)s]")  # fmt: skip
    doctor.add_argument("--containerd-socket", type=Path, metavar="FILE",
                        help="containerd's socket [default: the one that the agent uses]")  # fmt: skip
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_agent_option(doctor)
    doctor.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from mirror.doctor import Places, diagnose, gather

    files = (options.certs_dir, options.containerd_config, options.containerd_socket, options.registries_conf)
    places = Places(options.agent, *files)
    findings = diagnose(asyncio.run(gather(places)))
    if options.json:
        print(json.dumps([asdict(finding) | {"level": finding.level.name.lower()} for finding in findings], indent=2))
    else:
        print("\n".join(finding_lines(findings)))
    return max(0, *(int(finding.level) for finding in findings))


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings in lines for people."""
    for finding in findings:
        yield f"{LABELS[finding.level]:8} {finding.check}: {finding.what}"
        if finding.why:
            yield f"{'':11}{finding.why}"
        if finding.remedy:
            yield f"{'':9}> {finding.remedy}"
