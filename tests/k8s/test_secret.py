"""The cluster secret when the chart is upgraded: helm looks the old one up in the Kubernetes API."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.k8s.tools import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

yaml: Any = pytest.importorskip("yaml")

RESOURCES: Final = {"v1": {"Secret": "secrets", "Service": "services"}, "apps/v1": {"DaemonSet": "daemonsets"}}

pytestmark = pytest.mark.timeout(1800)  # the first test that needs helm may have to build it


def pages(secret: Mapping[str, Any]) -> dict[str, Any]:
    """What an API server says at the paths that helm asks for, in a cluster that has nothing but one Secret."""
    version = {"groupVersion": "apps/v1", "version": "v1"}
    group = {"name": "apps", "versions": [version], "preferredVersion": version}
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "35", "gitVersion": "v1.35.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        "/api/v1/namespaces/skvaller/secrets/skvaller": secret,
    }
    for api, kinds in RESOURCES.items():
        resources = [{"name": name, "kind": kind, "namespaced": True, "verbs": ["get"]} for kind, name in kinds.items()]
        listing = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources}
        found["/api/v1" if api == "v1" else f"/apis/{api}"] = listing
    return found


@contextmanager
def api_server(answers: Mapping[str, Any]) -> Iterator[str]:
    """Serve the answers as JSON, 404 for all else; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.send_response(200 if path in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.wfile.write(json.dumps(answers.get(path, missing)).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_upgrade_keeps_the_secret_with_the_lines_that_were_added() -> None:
    data = {"secret": base64.b64encode(b"the new line\nthe old line\n").decode()}
    owner = {"meta.helm.sh/release-name": "skvaller", "meta.helm.sh/release-namespace": "skvaller"}
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    metadata = {"name": "skvaller", "namespace": "skvaller", "annotations": owner, "labels": labels}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    with api_server(pages(secret)) as url:
        rendered = render("--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url)
    assert [part["data"] for part in yaml.safe_load_all(rendered) if part["kind"] == "Secret"] == [data]
