"""A cluster on one machine, made of real parts, for the tests that want nothing pretended.

    async with Lab.open() as lab:
        registry = await lab.add_registry("registry.test")
        image = await registry.publish("lib/app:v1", layer_bytes=[5_000_000])
        one, two = await lab.add_nodes(2)
        await one.pull(image.name, via="cri")
        assert image.objects() <= one.content()
        registry.forget()
        await registry.stop()

Each node is a network namespace with an address of its own and a real containerd; each registry is a real
docker-registry behind a front that counts what it sends. All belongs to one `Lab`, which needs root and ends
everything when it is closed; what a crashed run left behind is removed by the next one.

Every wait is bounded. What the processes wrote is shown with the report of a test that fails.
"""

from tests.lab.images import Image
from tests.lab.lab import Lab
from tests.lab.node import Node, PullError
from tests.lab.process import Process
from tests.lab.registry import Login, Registry
from tests.lab.requirements import require

__all__ = ["Image", "Lab", "Login", "Node", "Process", "PullError", "Registry", "require"]
