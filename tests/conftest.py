"""What all tests share: the event loop that an agent runs on, and programs that are started safely."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import uvloop

# gRPC's handlers at a fork crash the child, now and then, before it becomes the program that a test starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on uvloop, as agents do."""
    return {"uvloop": uvloop.new_event_loop}
