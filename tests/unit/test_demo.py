"""The demo's parts: its client notices what is wrong, and its promises are really checked."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from mirror.demo.client import Fetched, PullError, pull
from mirror.demo.scene import (
    IMAGE_BYTES_MAX,
    LAYERS,
    REPOSITORY,
    TAG,
    DemoRegistry,
    SceneError,
    build_demo_image,
    running_agents,
)
from mirror.demo.story import Pulled, check
from mirror.demo.view import View
from mirror.image_builder import build_image
from mirror.oci import Digest

if TYPE_CHECKING:
    from pathlib import Path


class Notes:
    """A progress that writes down what it is told."""

    def __init__(self) -> None:
        self.expected: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.ended: list[str] = []

    def begin(self, name: str, size: int) -> None:
        self.expected[name] = size
        self.received[name] = 0

    def advance(self, name: str, size: int) -> None:
        self.received[name] += size

    def end(self, fetched: Fetched) -> None:
        self.ended.append(fetched.name)


def build_small_image(layout: Path) -> list[Digest]:
    """An image of two small layers; the digests of the layers."""
    build_image(layout, f"{REPOSITORY}:{TAG}", {"amd64": [[("a", b"one")], [("b", b"two" * 1000)]]})
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads((layout / "blobs" / "sha256" / entry["digest"].partition(":")[2]).read_bytes())
    return [Digest.parse(layer["digest"]) for layer in manifest["layers"]]


async def test_a_pull_fetches_and_hashes_every_object(tmp_path: Path) -> None:
    layers = build_small_image(tmp_path)
    notes = Notes()
    async with DemoRegistry(tmp_path) as registry:
        objects = await pull(registry.url, REPOSITORY, TAG, notes)
    assert [fetched.name for fetched in objects] == ["manifest", "config", "layer 1", "layer 2"]
    assert [fetched.digest for fetched in objects[2:]] == layers
    assert all(fetched.right for fetched in objects)
    assert {fetched.server for fetched in objects} == {"store"}
    assert notes.received == notes.expected == {fetched.name: fetched.size for fetched in objects}
    assert sorted(notes.ended) == sorted(notes.expected)
    assert registry.bytes == sum(fetched.size for fetched in objects)
    assert registry.requests == 1 + len(objects), "the tag, and each object"


async def test_a_pull_notices_wrong_bytes(tmp_path: Path) -> None:
    layer = build_small_image(tmp_path)[1]
    async with DemoRegistry(tmp_path) as registry:
        file = tmp_path / "blobs" / "sha256" / layer.hex
        file.write_bytes(bytes(file.stat().st_size))
        objects = await pull(registry.url, REPOSITORY, TAG, Notes())
    assert [fetched.right for fetched in objects] == [True, True, True, False]


async def test_a_pull_that_misses_an_object_fails(tmp_path: Path) -> None:
    layer = build_small_image(tmp_path)[0]
    async with DemoRegistry(tmp_path) as registry:
        (tmp_path / "blobs" / "sha256" / layer.hex).unlink()
        with pytest.raises(PullError, match="layer 1: the agent answered 404"):
            await pull(registry.url, REPOSITORY, TAG, Notes())


async def test_a_stopped_registry_refuses_connections(tmp_path: Path) -> None:
    build_small_image(tmp_path)
    async with DemoRegistry(tmp_path) as registry:
        url = registry.url
        await registry.stop()
        with pytest.raises(PullError, match="Connect"):
            await pull(url, REPOSITORY, TAG, Notes())


def test_the_demos_image_has_layers_of_about_one_size(tmp_path: Path) -> None:
    size = build_demo_image(tmp_path)
    assert 5_000_000 < size <= IMAGE_BYTES_MAX
    blobs = sorted((file.stat().st_size for file in (tmp_path / "blobs" / "sha256").iterdir()), reverse=True)
    assert len(blobs) == LAYERS + 2
    assert blobs[LAYERS - 1] * 2 > blobs[0]


async def test_an_agent_that_cannot_start_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node-x-layout").write_text("in the way of the directory")
    monkeypatch.setenv("SKVALLER_STORE", "nonsense that is not meant for the demo")
    with pytest.raises(SceneError, match=r"(?s)node-x ended with 1:\n.*cannot be used as an image layout"):
        async with running_agents(["node-x"], tmp_path, "http://127.0.0.1:1"):
            pass


def fetched(server: str, name: str = "layer 1") -> Fetched:
    source, _, holder = server.partition(" ")
    return Fetched(name, Digest.of(name.encode()), 10, 0.001, source, holder, right=True)


def good_pulls() -> list[Pulled]:
    """What the three pulls are when all is well."""
    by_peers = [fetched("peer a"), fetched("peer b")]
    return [
        Pulled("a", [fetched("upstream"), fetched("upstream")], 1.0, 3, 20),
        Pulled("b", [fetched("peer a"), fetched("peer a")], 1.0, 1, 0),
        Pulled("c", by_peers, 1.0, 0, 0),
    ]


def test_all_claims_hold_when_all_is_well() -> None:
    assert [claim.held for claim in check(good_pulls())] == [True] * 5


@pytest.mark.parametrize(
    ("place", "objects", "broken"),
    [
        (0, [replace(fetched("upstream"), right=False), fetched("upstream")], 0),
        (0, [fetched("upstream"), fetched("peer b")], 1),
        (1, [fetched("peer a"), fetched("upstream")], 2),
        (2, [fetched("peer a"), fetched("peer a")], 3),
        (2, [fetched("peer a"), fetched("store")], 3),
    ],
)
def test_a_pull_that_went_otherwise_breaks_its_claim(place: int, objects: list[Fetched], broken: int) -> None:
    pulls = good_pulls()
    pulls[place] = replace(pulls[place], objects=objects)
    assert [number for number, claim in enumerate(check(pulls)) if not claim.held] == [broken]


def test_a_byte_that_the_registry_sent_twice_breaks_a_claim() -> None:
    pulls = good_pulls()
    pulls[1] = replace(pulls[1], registry_bytes=1)
    assert [number for number, claim in enumerate(check(pulls)) if not claim.held] == [4]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_view_names_every_object_and_its_server(terminal: bool) -> None:
    out = io.StringIO()
    view = View(Console(file=out, force_terminal=terminal, width=100))
    with view.pulling() as progress:
        progress.begin("layer 1", 10)
        progress.advance("layer 1", 10)
        progress.end(fetched("peer a"))
    assert "layer 1" in out.getvalue()
    assert "peer a" in out.getvalue()
    assert ("\x1b[" in out.getvalue()) == terminal
    view.table(good_pulls())
    view.claims(check(good_pulls()))
    assert out.getvalue().count("layer 1") >= 7
    assert out.getvalue().count("yes") == 5


def test_wrong_bytes_stand_out_in_the_table() -> None:
    out = io.StringIO()
    pulls = good_pulls()
    pulls[0] = replace(pulls[0], objects=[replace(fetched("upstream"), right=False)])
    view = View(Console(file=out, width=100))
    view.table(pulls)
    view.claims(check(pulls))
    assert "WRONG DIGEST" in out.getvalue()
    assert "NO   every object had the right digest" in out.getvalue()
