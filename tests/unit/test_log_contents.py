"""What gets into the log: no line that somebody else wrote, and never a credential."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import aiohttp
import pytest

from gossip import ClusterSecret
from mirror.logs import HumanFormatter, JsonFormatter
from mirror.metrics import Metrics
from mirror.oci import Digest
from mirror.peer_mac import KEY_LABEL, PeerMac, Target
from mirror.registries import Endpoint, Registries
from mirror.registry import create_registry
from mirror.upstream import Upstream
from tests.serving import Heard, answering, scripted, serving

HOSTILE = ["a\nERROR forged", "a\r\nforged", "\x1b[2Jcleared", "a\x00b", "a\u2028b", "\u202egnp.exe", "\x9bc1"]


def logged(formatter: logging.Formatter, *arguments: str) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.handle(logging.LogRecord("mirror.x", logging.WARNING, "x.py", 1, "member %s left", arguments, None))
    return stream.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_nobody_writes_a_line_of_their_own_or_speaks_to_the_terminal(text: str) -> None:
    line = logged(HumanFormatter("%(levelname)s %(message)s"), text)
    assert line.endswith(" left\n")
    assert line[:-1].isprintable()
    line = logged(JsonFormatter(), text)
    assert line.count("\n") == 1
    assert json.loads(line)["message"] == f"member {text} left"


def test_what_is_printable_stays_as_it_is() -> None:
    assert logged(HumanFormatter("%(message)s"), "Zürich-ノード") == "member Zürich-ノード left\n"


@pytest.mark.parametrize("formatter", [HumanFormatter("%(message)s"), JsonFormatter()], ids=["human", "json"])
def test_bytes_that_are_no_text_do_not_lose_the_line(formatter: logging.Formatter) -> None:
    assert "\\udcff left" in logged(formatter, b"\xff".decode(errors="surrogateescape")).replace("\\\\", "\\")


SECRET = "c2VjcmV0LXRva2Vu"


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "429 Too Many", "500 Oops", "307 Moved", "nonsense"])
async def test_a_clients_credentials_are_in_no_log_and_no_answer(caplog: pytest.LogCaptureFixture, status: str) -> None:
    caplog.set_level(logging.DEBUG)
    digest = Digest.of(b"x")
    upstream_says = answering(status, ["Content-Length: 1", "Location: http://127.0.0.1:9/"], b"x")
    async with scripted(upstream_says) as server:
        registries = Registries({"registry.test": (Endpoint(server.url),)})
        async with Upstream(registries) as upstream:
            app = create_registry(upstream, Metrics().face("client"), lists=upstream)
            async with serving(app) as url, aiohttp.ClientSession(url) as session:
                for path in (f"blobs/{digest}", "manifests/v1", "tags/list"):
                    headers = {"Authorization": f"Bearer {SECRET}"}
                    async with session.get(f"/v2/lib/app/{path}?ns=registry.test", headers=headers) as response:
                        assert SECRET not in await response.text() + str(response.headers)
    if status != "nonsense":
        assert server.heard[0].headers["authorization"] == f"Bearer {SECRET}", "it went to the registry"
    assert SECRET not in caplog.text


@pytest.mark.parametrize("location", ["/storage?X-Amz-Signature={}&x='y'", "http://[?sig={}"])
async def test_a_link_that_is_signed_is_told_without_its_signature(
    caplog: pytest.LogCaptureFixture, location: str
) -> None:
    caplog.set_level(logging.DEBUG)
    digest = Digest.of(b"x")

    async def lead_on(heard: Heard, writer: asyncio.StreamWriter) -> None:
        if heard.path.startswith("/storage"):
            writer.write(b"garbage\r\n\r\n")
        else:
            await answering("307 Moved", [f"Location: {location.format(SECRET)}", "Content-Length: 0"])(heard, writer)

    metrics = Metrics()
    async with (
        scripted(lead_on) as server,
        Upstream(Registries({"registry.test": (Endpoint(server.url),)})) as upstream,
    ):
        async with (
            serving(create_registry(upstream, metrics.face("client"))) as url,
            aiohttp.ClientSession(url) as session,
        ):
            async with session.get(f"/v2/lib/app/blobs/{digest}?ns=registry.test") as response:
                assert response.status == 503
                text = await response.text()
    assert "registry.test does not answer" in text
    assert SECRET not in text + caplog.text


def test_the_clusters_secret_shows_in_no_representation(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"a cluster secret that is long enough")
    secret = ClusterSecret.from_file(file)
    mac = PeerMac(*secret.derive_all(KEY_LABEL))
    shown = f"{secret!r} {secret} {mac!r} {vars(mac) and ''}"
    assert "long enough" not in shown
    assert mac.sign(Target("a", "1.1"), "GET", "/", "") not in shown
