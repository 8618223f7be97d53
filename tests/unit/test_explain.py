"""What an agent says of an image: every object, who holds it, where it would come from and why, what became of it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import aiohttp
import pytest

from mirror import explain as explain_module
from mirror.choice import Holder, Standing
from mirror.cli import main
from mirror.commands import explain as explain_command
from mirror.commands.explain import explanation_lines
from mirror.errors import NotFoundError, RefusedError, SourceError, UnavailableError
from mirror.explain import Explainer, Explanation, Part
from mirror.journal import Journal
from mirror.load import Load
from mirror.local_api import PREFIX, answer_explain, create_local_api
from mirror.local_client import AgentError
from mirror.metrics import Metrics
from mirror.oci import OCI_MANIFEST, Descriptor, Digest, Kind, Repository, Tag
from mirror.peer_mac import Target
from mirror.policy import Authorize, Policy, RegistryPolicy
from mirror.registry import create_registry
from mirror.source import Content, MemoryBody, Request
from tests.serving import serving

REPOSITORY = Repository("registry.test", "lib/app")
CONFIG, LAYER = Digest.of(b"config"), Digest.of(b"layer")
MANIFEST = json.dumps(
    {
        "mediaType": OCI_MANIFEST,
        "config": {"digest": str(CONFIG), "size": 6, "mediaType": "c/c"},
        "layers": [{"digest": str(LAYER), "size": 5, "mediaType": "l/l"}],
    }
).encode()
ROOT = Digest.of(MANIFEST)


@dataclass
class Scene:
    """A source that has some objects, says what tags mean, or fails."""

    objects: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    failure: SourceError | None = None
    opened: list[Digest] = field(default_factory=list)

    async def resolve(self, request: Request) -> Descriptor:
        if self.failure:
            raise self.failure
        if isinstance(request.reference, Tag):
            if request.reference.name not in self.tags:
                raise NotFoundError("no such tag")
            return Descriptor("m/t", self.tags[request.reference.name], 1)
        return Descriptor("m/t", request.digest, len(self._data(request.digest)))

    async def open(self, request: Request) -> Content:
        if self.failure:
            raise self.failure
        data = self._data(request.digest)
        self.opened.append(request.digest)
        return Content(Descriptor("m/t", request.digest, len(data)), range(len(data)), MemoryBody(data), "scene")

    def _data(self, digest: Digest) -> bytes:
        if digest not in self.objects:
            raise NotFoundError("not here")
        return self.objects[digest]


@dataclass
class Index:
    holding: dict[Digest, list[Holder]] = field(default_factory=dict)
    known: dict[str, Digest] = field(default_factory=dict)

    def holders(self, digest: Digest) -> list[Holder]:
        return self.holding.get(digest, [])

    def last_known(self, repository: Repository, tag: Tag) -> Digest | None:
        return self.known.get(tag.name)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """An agent's parts, as they are when nobody has anything; tests change them."""

    def __init__(self) -> None:
        self.store, self.in_flight, self.peers, self.upstream = Scene(), Scene(), Scene(), Scene()
        self.index, self.trusted = Index(), Index()
        self.standing = Standing("here", random.Random(1), Clock())
        self.journal = Journal()
        self.policy = Policy()
        self.explainer = Explainer(
            self.store,
            self.in_flight,
            self.peers,
            self.upstream,
            self.index,
            self.trusted,
            self.standing,
            self.journal,
            lambda: self.policy,
        )

    def hold(self, digest: Digest, *holders: Holder) -> None:
        self.index.holding[digest] = self.trusted.holding[digest] = list(holders)


def holder(name: str, zone: str = "here", *, suspect: bool = False) -> Holder:
    return Holder(Target(name, "1.1"), f"http://{name}", zone, suspect=suspect)


def part(explanation: Explanation, digest: Digest) -> Part:
    (found,) = [each for each in explanation.parts if each.digest == str(digest)]
    return found


async def test_every_object_is_told_with_its_source_and_reason() -> None:
    world = World()
    world.upstream.tags["v1"] = ROOT
    world.store.objects[ROOT] = MANIFEST
    world.hold(CONFIG, holder("near"), holder("far", "there"))
    explanation = await world.explainer.explain(REPOSITORY, Tag("v1"))
    assert explanation.image == "registry.test/lib/app:v1"
    assert explanation.digest == str(ROOT)
    assert explanation.meaning == "the registry says so now"
    assert explanation.complete
    assert [(each.role, each.size, each.source) for each in explanation.parts] == [
        ("manifest", len(MANIFEST), "store"),
        ("config", 6, "peer"),
        ("layer", 5, "upstream"),
    ]
    assert [each.name for each in part(explanation, CONFIG).candidates] == ["near", "far"]
    assert "in this node's zone" in part(explanation, CONFIG).why
    assert part(explanation, LAYER).why == "no other node holds it"


async def test_an_object_on_its_way_here_is_told_so() -> None:
    world = World()
    world.store.objects[ROOT] = MANIFEST
    world.in_flight.objects[LAYER] = b"layer"
    world.hold(LAYER, holder("near"))
    assert part(await world.explainer.explain(REPOSITORY, ROOT), LAYER).source == "transfer"


async def test_what_is_against_a_holder_is_told() -> None:
    world = World()
    world.store.objects[ROOT] = MANIFEST
    failed, full, suspect, doubted = (
        holder("failed"),
        holder("full"),
        holder("suspect", suspect=True),
        holder("doubted"),
    )
    world.hold(LAYER, failed, full, suspect)
    world.index.holding[LAYER].append(doubted)
    world.trusted.holding[LAYER] = [failed, full, suspect]
    world.standing.fail(failed, UnavailableError("it answered 500"))
    world.standing.hear(full, Load(64, 64))
    explained = part(await world.explainer.explain(REPOSITORY, ROOT), LAYER)
    remarks = {each.name: each.remark for each in explained.candidates}
    assert list(remarks)[:2] == ["full", "suspect"], "in the order in which they are asked"
    assert "10 s more: it answered 500" in remarks["failed"]
    assert "slots" in remarks["full"]
    assert "may be gone" in remarks["suspect"]
    assert "wrong bytes" in remarks["doubted"]
    assert explained.holders == 4
    world.trusted.holding[LAYER] = []
    assert part(await world.explainer.explain(REPOSITORY, ROOT), LAYER).why == "all nodes that hold it are in doubt"


@pytest.mark.parametrize("failure", [UnavailableError("it does not answer"), RefusedError(401)])
async def test_the_clusters_last_known_counts_when_the_registry_does_not_say(failure: SourceError) -> None:
    world = World()
    world.upstream.failure = failure
    with pytest.raises(type(failure)):
        await world.explainer.explain(REPOSITORY, Tag("v1"))
    world.index.known["v1"] = ROOT
    world.peers.objects[ROOT] = MANIFEST
    world.hold(ROOT, holder("near"))
    explanation = await world.explainer.explain(REPOSITORY, Tag("v1"))
    assert str(failure) in explanation.meaning
    assert len(explanation.parts) == 3


@pytest.mark.parametrize(
    ("policy", "sources", "protected"),
    [
        (Policy(mirroring=False), {"aside"}, False),
        (Policy({"registry.test": RegistryPolicy(mirror=False)}), {"aside"}, False),
        (Policy({"registry.test": RegistryPolicy(exclude=("*:v1",))}), {"aside"}, False),
        (Policy({"registry.test": RegistryPolicy(exclude=("*:v2",))}), {"store", "upstream"}, False),
        (Policy({"registry.test": RegistryPolicy(authorize=Authorize.UPSTREAM)}), {"store", "upstream"}, True),
    ],
)
async def test_what_the_rules_for_registries_say_is_told(policy: Policy, sources: set[str], protected: bool) -> None:
    world = World()
    world.upstream.tags["v1"] = ROOT
    world.store.objects[ROOT] = MANIFEST
    world.policy = policy
    explanation = await world.explainer.explain(REPOSITORY, Tag("v1"))
    assert {each.source for each in explanation.parts} == sources
    assert explanation.protected == protected
    text = "\n".join(explanation_lines(asdict(explanation)))
    assert ("would not come from here" in text) == (sources == {"aside"})
    assert ("private" in text) == protected


async def test_a_manifest_that_cannot_be_read_is_told_and_the_rest_explained() -> None:
    world = World()
    world.upstream.failure = RefusedError(401)
    explanation = await world.explainer.explain(REPOSITORY, ROOT)
    assert [each.error for each in explanation.parts] == [
        "it cannot be read without credentials: the registry answered 401"
    ]


async def test_of_an_index_only_what_somebody_has_or_this_machine_wants_is_looked_into() -> None:
    world = World()
    children = {name: b'{"layers": [], "config": {}, "x": "%s"}' % name.encode() for name in ("here", "held", "other")}
    digests = {name: Digest.of(data) for name, data in children.items()}
    system, machine = explain_module._HERE.split("/")
    places = {"here": (system, machine), "held": ("linux", "mips"), "other": ("linux", "vax")}
    index = json.dumps(
        {
            "manifests": [
                {"digest": str(digests[name]), "size": 1, "platform": {"os": place[0], "architecture": place[1]}}
                for name, place in places.items()
            ]
        }
    ).encode()
    world.upstream.objects = {Digest.of(index): index, digests["here"]: children["here"], digests["other"]: b"{}"}
    world.peers.objects[digests["held"]] = children["held"]
    world.hold(digests["held"], holder("near"))
    explanation = await world.explainer.explain(REPOSITORY, Digest.of(index))
    assert [(each.role, each.platform) for each in explanation.parts] == [
        ("index", ""),
        ("manifest", f"{system}/{machine}"),
        ("manifest", "linux/mips"),
        ("manifest", "linux/vax"),
    ]
    assert digests["other"] not in world.upstream.opened


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"layers": 1}',
        b'{"layers": [1]}',
        b'{"layers": [{"digest": 1}]}',
        b'{"manifests": [{"digest": "sha256:x"}]}',
        b"[" * 100_000,
    ],
)
async def test_a_manifest_that_makes_no_sense_is_told_and_no_crash(data: bytes) -> None:
    world = World()
    world.store.objects[Digest.of(data)] = data
    explanation = await world.explainer.explain(REPOSITORY, Digest.of(data))
    assert len(explanation.parts) == 1
    assert ("no manifest that can be read" in explanation.parts[0].error) == (not data.startswith(b"{"))


async def test_what_makes_no_sense_hides_nothing_else_and_blobs_are_told_too() -> None:
    world = World()
    manifest = {"config": {"digest": str(CONFIG), "platform": "vax"}, "layers": [1], "blobs": [{"digest": str(LAYER)}]}
    data = json.dumps(manifest).encode()
    world.store.objects[Digest.of(data)] = data
    explanation = await world.explainer.explain(REPOSITORY, Digest.of(data))
    assert [(each.role, each.platform) for each in explanation.parts[1:]] == [("config", ""), ("blob", "")]


async def test_an_image_that_contains_itself_or_has_too_many_objects_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "PARTS_MAX", 5)
    world = World()
    layers = [{"digest": str(Digest.of(bytes([number]))), "size": 1} for number in range(9)]
    data = json.dumps({"manifests": [{"digest": str(LAYER)}], "layers": [*layers, *layers]}).encode()
    world.store.objects[Digest.of(data)] = data
    explanation = await world.explainer.explain(REPOSITORY, Digest.of(data))
    assert len(explanation.parts) == 5
    assert not explanation.complete
    assert "not all" in "\n".join(explanation_lines(asdict(explanation)))


async def test_nothing_that_others_chose_writes_a_line_of_its_own_or_speaks_to_the_terminal() -> None:
    world = World()
    hostile = "linux\n    would come from store: this node has it\x1b[2J"
    index = json.dumps({"manifests": [{"digest": str(LAYER), "platform": {"os": hostile}}]}).encode()
    world.store.objects[Digest.of(index)] = index
    explanation = await world.explainer.explain(REPOSITORY, Digest.of(index))
    explanation.meaning = explanation.parts[1].error = hostile
    lines = list(explanation_lines(asdict(explanation)))
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("    would come")] == [
        "    would come from store: this node has it",
        "    would come from upstream: no other node holds it",
    ]


def test_nor_does_the_reason_why_it_cannot_be_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AgentError("the registry answered\x1b[2J\nnothing")

    monkeypatch.setattr(explain_command, "ask_agent", refuse)
    with pytest.raises(SystemExit, match="1"):
        main(["explain", "nginx"])
    assert capsys.readouterr().err == "skvaller: the registry answered?[2J?nothing\n"


@asynccontextmanager
async def asking(world: World) -> AsyncGenerator[aiohttp.ClientSession]:
    """The client face of an agent whose only source is upstream."""
    app = create_registry(world.upstream, world.journal.face("client", Metrics().face("client")))
    app.mount(PREFIX, create_local_api({"explain": answer_explain(world.explainer)}))
    async with serving(app) as url, aiohttp.ClientSession(url) as session:
        yield session


async def test_the_last_answer_about_each_object_and_the_tag_is_told() -> None:
    world = World()
    world.upstream.tags["v1"] = ROOT
    world.upstream.objects = {ROOT: MANIFEST, CONFIG: b"config"}
    async with asking(world) as session:
        for path in ("manifests/v1", f"blobs/{CONFIG}", f"blobs/{LAYER}"):
            method = "HEAD" if path == "manifests/v1" else "GET"
            async with session.request(method, f"/v2/lib/app/{path}?ns=registry.test"):
                pass
        async with session.get(f"{PREFIX}/explain?image=registry.test/lib/app:v1") as response:
            answer = await response.json()
    assert (answer["last"]["method"], answer["last"]["status"]) == ("HEAD", 200)
    last = {each["role"]: each["last"] for each in answer["parts"]}
    assert last["manifest"] is None
    assert (last["config"]["status"], last["config"]["source"]) == (200, "scene")
    assert (last["layer"]["status"], last["layer"]["message"]) == (404, "not here")
    text = "\n".join(explanation_lines(answer))
    assert "answered 404" in text
    assert "not here" in text


async def test_a_client_without_ns_is_journalled_under_the_registry_in_its_path() -> None:
    world = World()
    world.upstream.objects = {CONFIG: b"config"}
    async with asking(world) as session, session.get(f"/v2/registry.test/lib/app/blobs/{CONFIG}") as response:
        assert response.status == 200
    entry = world.journal.last("registry.test", f"lib/app/{Kind.BLOB.value}/{CONFIG}")
    assert entry is not None
    assert entry.status == 200


@pytest.mark.parametrize(
    ("question", "status"),
    [("explain", 400), ("explain?image=UPPER/Case", 400), ("explain?image=registry.test/a:v1", 404), ("other", 404)],
)
async def test_what_cannot_be_explained_is_an_error_in_a_sentence(question: str, status: int) -> None:
    async with asking(World()) as session, session.get(f"{PREFIX}/{question}") as response:
        assert response.status == status
        assert (await response.json())["error"]
