"""Which taints are taken off a node, and how. `tests/k8s/test_api_server.py` does it on a real API server."""

from __future__ import annotations

from typing import Any

from mirror.commands.untaint import remove_taint
from mirror.kubernetes import KubernetesApi

KEY = "skvaller.example/starting"


class FakeApi(KubernetesApi):
    """An API with one node."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.patches: list[object] = []

    async def call(self, method: str, path: str, document: object = None, media_type: str = "application/json") -> Any:
        assert path == "/api/v1/nodes/n1"
        if method == "PATCH":
            assert media_type == "application/json-patch+json"
            self.patches.append(document)
        return {"metadata": {"name": "n1", "resourceVersion": "7"}, "spec": self.spec}


async def test_all_taints_of_the_key_go_and_the_others_stay() -> None:
    other = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
    api = FakeApi({"taints": [{"key": KEY, "effect": "NoSchedule"}, other, {"key": KEY, "effect": "NoExecute"}]})
    assert await remove_taint(api, "n1", KEY)
    assert api.patches == [
        [
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "replace", "path": "/spec/taints", "value": [other]},
        ]
    ]


async def test_a_node_without_the_taint_is_not_written_to() -> None:
    for spec in ({}, {"taints": None}, {"taints": [{"key": "other", "effect": "NoSchedule"}]}):
        api = FakeApi(spec)
        assert not await remove_taint(api, "n1", KEY)
        assert api.patches == []
