"""What an agent shows of itself: the answers of the local API, for the page, the commands and scripts.

Everything is read from what the agent has in memory, when it is asked for; nothing is asked of other nodes, and nothing
secret is shown. A member's `state` is one of

| alive | suspect: silent, or said to be failing | down: said to have failed | left: it took its leave |
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from gossip import Status, Visibility
from mirror.elements import content_key
from mirror.local_api import QuestionError
from mirror.oci import Digest, InvalidReferenceError, Tag, parse_image_name
from mirror.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import QueryParams

    from gossip import Member, Node
    from mirror.cluster import Cluster
    from mirror.journal import Journal
    from mirror.local_api import Answer
    from mirror.metrics import Metrics
    from mirror.settings import Settings
    from mirror.single_flight import Transfers

IMAGES_FOUND_MAX: Final = 50
"""Images named in answer to a part of a name."""
HOLDERS_SHOWN_MAX: Final = 10_000
PULLS_SHOWN: Final = 100

_SECRET: Final = ("secret", "token", "password")
"""A setting with such a word in its name is shown as set or not set."""


@dataclass(frozen=True, slots=True)
class Views:
    """Reads the parts of an agent. `answering_since` is the store's: None while its runtime does not answer."""

    node: Node
    cluster: Cluster
    settings: Settings
    metrics: Metrics
    journal: Journal
    transfers_here: Transfers
    answering_since: Callable[[], float | None]
    started_at: float

    def answers(self) -> dict[str, Answer]:
        """The views by the name of their path."""

        def of(view: Callable[[], object]) -> Answer:
            async def answer(_: QueryParams) -> object:
                return view()

            return answer

        async def find(query: QueryParams) -> object:
            return self.find(query.get("what", ""))

        async def pulls(query: QueryParams) -> object:
            return self.pulls(_number(query, "after", 0), _number(query, "limit", PULLS_SHOWN))

        views = (self.status, self.members, self.zones, self.transfers)
        return {view.__name__: of(view) for view in views} | {
            "settings": of(self.settings_shown),
            "find": find,
            "pulls": pulls,
        }

    def status(self) -> dict[str, Any]:
        """How this agent is: who it is, the cluster in numbers, bytes by source since it started, gossip's counts."""
        gauges, counters = self.node.gauges(), self.node.counters
        by_source = self.metrics.client_bytes()
        return {
            "name": self.settings.name,
            "cluster": self.settings.cluster,
            "zone": self.settings.zone,
            "version": installed_version(),
            "uptime_s": time.monotonic() - self.started_at,
            "store": self.settings.store,
            "runtime_answers": self.answering_since() is not None if self.settings.store == "containerd" else None,
            "members": dict(Counter(each["state"] for each in self.members())),
            "index": {name: getattr(gauges, name) for name in ("keys", "pairs", "owners_behind", "lag_seconds")},
            "client_bytes": by_source,
            "upstream_bytes": self.metrics.fetched_bytes(),
            "transfers": len(self.transfers_here),
            "uploads": self.metrics.uploads_now(),
            "upload_slots": self.settings.upload_slots,
            "gossip": {field.name: getattr(counters, field.name) for field in fields(counters)},
        }

    def members(self) -> list[dict[str, Any]]:
        """All members by name, this one and those that are gone included; `keys` are the objects and tags it has."""
        return [
            {
                "name": member.name,
                "zone": member.zone,
                "address": member.address,
                "state": _state(member, visibility),
                "keys": keys,
                "me": member.name == self.settings.name,
            }
            for member, visibility, keys in self.node.roster()
        ]

    def zones(self) -> list[dict[str, Any]]:
        """The zones by name, with their members by state and the objects and tags that these have, in pairs."""
        zones: dict[str, Counter[str]] = {}
        for member in self.members():
            counts = zones.setdefault(member["zone"], Counter())
            counts[member["state"]] += 1
            counts["keys"] += member["keys"]
        return [{"zone": zone, **counts} for zone, counts in sorted(zones.items())]

    def find(self, what: str) -> dict[str, Any]:
        """Who has an object: of a digest, of an image by its name, or of images with this in their names.

        `images` are those that the cluster knows, by name; of exactly one, and of a digest, `holders` tells who has it
        (of an image, its manifest). Raises `QuestionError`.
        """
        if not what.strip():
            raise QuestionError(400, "what: an image, a part of its name, or a digest")
        digest, images = self._meant(what.strip())
        holders = self._holders(digest) if digest else []
        return {
            "what": what,
            "images": [{"name": name, "digest": str(each), "holders": self._count(each)} for name, each in images],
            "digest": str(digest) if digest else None,
            "holders": holders,
            "zones": dict(Counter(each["zone"] for each in holders)),
        }

    def transfers(self) -> dict[str, Any]:
        """What is moving now: answers that are being given, and objects that are fetched for whoever wants them."""
        return {
            "answers": [asdict(entry) for entry in self.journal.running()],
            "fetching": [
                {
                    "registry": registry,
                    "digest": str(transfer.content.descriptor.digest),
                    "size": transfer.size,
                    "fetched": transfer.fetched,
                    "readers": transfer.readers,
                    "givers": transfer.content.givers,
                }
                for registry, transfer in self.transfers_here
                if transfer.readers or transfer.fetched < transfer.size  # else it only lingers
            ],
        }

    def pulls(self, after: int = 0, limit: int = PULLS_SHOWN) -> list[dict[str, Any]]:
        """The latest contents that were given, the newest first."""
        return [asdict(entry) for entry in self.journal.recent(after, limit)]

    def settings_shown(self) -> list[dict[str, Any]]:
        """Every setting with its value and meaning; of secrets only whether they are set."""
        return [
            {"name": each.name, "value": _shown(each.name, getattr(self.settings, each.name)), "help": help_}
            for each in fields(self.settings)
            if (help_ := each.metadata.get("help"))
        ]

    def _meant(self, what: str) -> tuple[Digest | None, list[tuple[str, Digest]]]:
        if what.startswith(("sha256:", "sha512:")):
            try:
                return Digest.parse(what), []
            except InvalidReferenceError as error:
                raise QuestionError(400, f"what: {error}") from error
        try:
            repository, reference = parse_image_name(what)
        except InvalidReferenceError:
            pass
        else:
            if isinstance(reference, Digest):
                return reference, []
            if known := self.cluster.last_known(repository, reference):
                return known, [(f"{repository}:{reference}", known)]
        names = sorted(group for group in self.node.groups() if what.encode() in group)[:IMAGES_FOUND_MAX]
        images = [(name.decode(), known) for name in names if (known := self._last_known(name))]
        return (images[0][1] if len(images) == 1 else None), images

    def _last_known(self, name: bytes) -> Digest | None:
        """What an image's name, as members wrote it, was last known to mean; None when it is no name."""
        try:
            repository, reference = parse_image_name(name.decode())
        except (InvalidReferenceError, UnicodeDecodeError):
            return None
        return self.cluster.last_known(repository, reference) if isinstance(reference, Tag) else None

    def _count(self, digest: Digest) -> int:
        key = content_key(digest)
        return len(self.node.holders(key, HOLDERS_SHOWN_MAX)) + self.node.holds(key)

    def _holders(self, digest: Digest) -> list[dict[str, Any]]:
        key = content_key(digest)
        members = [self.node.me] if self.node.holds(key) else []
        members += self.node.holders(key, HOLDERS_SHOWN_MAX)
        return [{"name": each.name, "zone": each.zone, "suspect": self.node.ranked_last(each.name)} for each in members]


def _number(query: QueryParams, name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise QuestionError(400, f"{name}: a number, and not {text[:32]!r}")
    return int(text)


def _state(member: Member, visibility: Visibility) -> str:
    if member.status is Status.ALIVE and visibility is Visibility.LAST:
        return "suspect"
    return member.status.name.lower()


def _shown(name: str, value: object) -> object:
    if any(word in name for word in _SECRET):
        return "set" if value else "not set"
    if isinstance(value, Mapping):
        return {key: [endpoint.url for endpoint in registry.endpoints] for key, registry in value.items()}
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
