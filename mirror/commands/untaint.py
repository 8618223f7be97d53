"""`skvaller untaint`: take a start-up taint off this node once its agent answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from mirror.commands import Commands, complain

if TYPE_CHECKING:
    import argparse

    from mirror.kubernetes import KubernetesApi

TURN_S: Final = 2.0
"""How often the agent and the Kubernetes API are tried."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    untaint = commands.add_parser(
        "untaint",
        help="take a start-up taint off this node once its agent answers",
        description="Wait until the agent of this node answers, and remove a taint from the node, so that pods whose "
        "images should come through the mirror start no sooner. It runs in a pod whose service account may get and "
        "patch nodes, tries until that is done, and does nothing when the node has no such taint.",
    )
    untaint.add_argument("--node", required=True, help="the name of this node")
    untaint.add_argument("--taint", required=True, metavar="KEY", help="the key of the taint, whatever its effect")
    untaint.add_argument(
        "--mirror",
        default="http://127.0.0.1:29990",
        metavar="URL",
        help="the agent's client face [default: %(default)s]",
    )
    untaint.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from mirror.kubernetes import KubernetesApi

    api = KubernetesApi(os.environ)
    return asyncio.run(_until_done(api, options.node, options.taint, options.mirror))


async def _until_done(api: KubernetesApi, node: str, taint: str, mirror: str) -> int:
    import asyncio

    from mirror.kubernetes import ApiError

    said = ""
    while True:
        try:
            if await _answers(mirror):
                removed = await remove_taint(api, node, taint)
                print(f"taint {taint} of node {node}: {'removed' if removed else 'not there'}")
                return 0
        except ApiError as error:
            if str(error) != said:
                said = str(error)
                complain(f"{error}; tried again every {TURN_S:.0f} s")
        await asyncio.sleep(TURN_S)


async def _answers(mirror: str) -> bool:
    """Whether the agent answers pulls."""
    import aiohttp

    from mirror.http_client import CLIENT_ERRORS

    try:
        timeout = aiohttp.ClientTimeout(total=TURN_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{mirror}/v2/") as response:
            return response.status == 200
    except CLIENT_ERRORS:
        return False


async def remove_taint(api: KubernetesApi, node: str, key: str) -> bool:
    """Remove the taints with that key; tells whether there was one. Raises `mirror.kubernetes.ApiError`."""
    path = f"/api/v1/nodes/{node}"
    document = await api.call("GET", path)
    taints: list[dict[str, Any]] = document.get("spec", {}).get("taints") or []
    left = [taint for taint in taints if taint.get("key") != key]
    if len(left) == len(taints):
        return False
    patch = [
        # Nothing is written when somebody else wrote in between.
        {"op": "test", "path": "/metadata/resourceVersion", "value": document["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec/taints", "value": left},
    ]
    await api.call("PATCH", path, patch, "application/json-patch+json")
    return True
