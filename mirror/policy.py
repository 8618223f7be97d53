"""What the operator wants of each registry: what is mirrored, how fresh a tag has to be, and who is let in.

All of it is decided here, from names alone: no I/O and no state. `mirror.gate` asks before anything else is done.

**Patterns.** In a pattern `*` is any text, a slash too, and `?` one character. A pattern of images is
`<repository>` or `<repository>:<tag>`: `team/*`, `*:latest`, `library/nginx:1.*`. The names of registries may be
patterns as well.

**Which rules are a registry's?** Those under its very name, else those of the first pattern that matches it, in the
order of the file. What they leave out is taken from those under `*`, and then is the default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from mirror.oci import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci import Reference, Repository, Tag

TAG_TTL_S: Final = 300.0
TAG_MOMENT_S: Final = 1.0
"""How old what the registry said may be where it is asked each time: those who ask at the same moment share an answer.
More hides a push for as long; less splits a herd whose nodes do not start in the same second."""


class Tags(Enum):
    """What a tag means now is said by..."""

    UPSTREAM = "upstream"
    """the registry, each time, or a moment ago to another node; when it does not answer in time, the last that the
    cluster knew."""
    CLUSTER = "cluster"
    """any node that asked the registry less than a TTL ago; else the registry, and so on as above."""
    NEVER = "never"
    """nobody here: only digests are mirrored, and the runtime asks the registry itself."""


class Authorize(Enum):
    """What this node or a peer holds is given to..."""

    OPEN = "open"
    """every runtime of the cluster, by digest; and by tag when the registry need not be asked, or does not answer."""
    UPSTREAM = "upstream"
    """those whom the registry lets in (`mirror.authorization`), and only in the names under which it is known."""


class Unreachable(Enum):
    """When the registry should say whom to let in, and does not answer..."""

    CLOSED = "closed"
    """nobody who was not let in before; the runtime tries the registry itself."""
    OPEN = "open"
    """everybody is let in."""


@dataclass(frozen=True, slots=True)
class RegistryPolicy:
    """The rules for one registry; see `mirror.registry_table` for what each key means."""

    mirror: bool = True
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    tags: Tags = Tags.UPSTREAM
    tag_rules: tuple[tuple[str, Tags], ...] = ()
    tag_ttl_s: float = TAG_TTL_S
    authorize: Authorize = Authorize.OPEN
    unreachable: Unreachable = Unreachable.CLOSED

    def mirrors(self, name: str, reference: Reference | None) -> bool:
        """Whether an object of a repository of this registry, or a list of it (None), is mirrored.

        A digest says nothing of tags: a pattern with a tag includes the digests of its repositories, and excludes
        none.
        """
        tag = None if reference is None or isinstance(reference, Digest) else reference
        included = any(_covers(pattern, name, tag, whole=False) for pattern in self.include)
        return self.mirror and included and not any(_covers(each, name, tag, whole=True) for each in self.exclude)

    def tag_rule(self, name: str, tag: Tag) -> Tags:
        """Who says what a tag means: the first rule whose pattern matches, else `tags`."""
        for pattern, rule in self.tag_rules:
            if _covers(pattern, name, tag, whole=True):
                return rule
        return self.tags

    def tag_age_max_s(self, name: str, tag: Tag) -> float:
        """How old may be what the registry said of a tag to another node."""
        return self.tag_ttl_s if self.tag_rule(name, tag) is Tags.CLUSTER else TAG_MOMENT_S


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for all registries, by name or pattern, in the order of the file; those under `*` are in them already.

    `mirroring` off is the kill switch: nothing is mirrored.
    """

    registries: Mapping[str, RegistryPolicy] = field(default_factory=dict)
    mirroring: bool = True

    def of(self, registry: str) -> RegistryPolicy:
        """The rules of one registry."""
        if exact := self.registries.get(registry):
            return exact
        for pattern, policy in self.registries.items():
            if pattern != "*" and _matches(registry, pattern):
                return policy
        return self.registries.get("*", _DEFAULT)

    def mirrors(self, repository: Repository, reference: Reference | None) -> bool:
        """Whether an object or a list of a repository is mirrored."""
        return self.mirroring and self.of(repository.registry).mirrors(repository.name, reference)

    def is_protected(self, registry: str) -> bool:
        """Whether the registry is asked whom to let in."""
        return self.of(registry).authorize is Authorize.UPSTREAM

    def may_be_protected(self, host: str) -> bool:
        """Whether what is noted to be of a registry may be of one that is protected: containerd leaves ports out.

        A host counts for all its ports: it is protected if it is so by its own name, or at a port that a rule names.
        """
        return self.is_protected(host) or any(
            policy.authorize is Authorize.UPSTREAM and port and _matches(host, name)
            for (name, port), policy in ((_split(rule), policy) for rule, policy in self.registries.items())
        )

    @property
    def protects(self) -> bool:
        """Whether any registry may be protected: only then does it matter whose an object is."""
        return any(policy.authorize is Authorize.UPSTREAM for policy in self.registries.values())


_DEFAULT: Final = RegistryPolicy()


def _matches(registry: str, pattern: str) -> bool:
    """Whether a registry's name matches; the brackets of IPv6 stand for themselves."""
    return fnmatchcase(registry, pattern.replace("[", "[[]"))


def _split(registry: str) -> tuple[str, str]:
    """The host and the port that a registry's name, or a pattern of it, has."""
    host, _, port = registry.rpartition(":")
    return (host, port) if host and "]" not in port else (registry, "")


def _covers(pattern: str, name: str, tag: Tag | None, *, whole: bool) -> bool:
    """Whether a pattern matches. Without a tag to look at, one that names tags matches unless the `whole` has to."""
    repositories, colon, tags = pattern.partition(":")
    if not fnmatchcase(name, repositories):
        return False
    return not colon or (not whole if tag is None else fnmatchcase(tag.name, tags))
