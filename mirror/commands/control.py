"""`skvaller invalidate` and `skvaller mirroring`: have this machine's agent do something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.commands import Commands, complain
from mirror.local_client import AgentError, add_agent_option, control_agent

if TYPE_CHECKING:
    import argparse


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare both commands."""
    invalidate = commands.add_parser(
        "invalidate",
        help="let no node believe any more what it knew of a tag",
        description="After a push, where tags are the cluster's to explain: all agents ask the registry again at the "
        "next pull of this tag. Any agent can be told. Exit code: 0 done, 1 it cannot be.",
    )
    invalidate.add_argument("image", metavar="IMAGE", help="such as nginx:latest or quay.io/team/app:1.27")
    add_agent_option(invalidate)
    invalidate.set_defaults(run=_invalidate)

    mirroring = commands.add_parser(
        "mirroring",
        help="the kill switch, of this machine's agent or of all",
        description="off: the agent answers 404 to every pull at once, so that the runtime asks the registries itself, "
        "until it is switched on, or (unless everywhere) started again. Exit code: 0 done, 1 it cannot be.",
    )
    mirroring.add_argument("state", nargs="?", choices=("on", "off"), help="without it, tell how it stands")
    mirroring.add_argument(
        "--everywhere", action="store_true", help="all agents of the cluster, also those that come later"
    )
    add_agent_option(mirroring)
    mirroring.set_defaults(run=_mirroring)


def _invalidate(options: argparse.Namespace) -> int:
    try:
        answer = control_agent(options.agent, "invalidate", image=options.image)
    except AgentError as error:
        complain(error)
        return 1
    print(f"{answer['image']} is asked for anew at its next pull, on all nodes")
    return 0


def _mirroring(options: argparse.Namespace) -> int:
    query = {"on": options.state} if options.state else {}
    if query and options.everywhere:
        query["everywhere"] = "true"
    try:
        answer = control_agent(options.agent, "mirroring", **query)
    except AgentError as error:
        complain(error)
        return 1
    for where, name in (("here", "on this node"), ("everywhere", "on all nodes")):
        print(f"mirroring is switched {'on' if answer[where] else 'off'} {name}")
    return 0
