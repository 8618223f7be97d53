"""What is mirrored and how is decided by name and pattern, as the operator wrote it down."""

from __future__ import annotations

import pytest

from mirror.oci import Digest, Repository, Tag
from mirror.policy import Authorize, Policy, RegistryPolicy, Tags

DIGEST = Digest.of(b"x")


def test_without_rules_everything_is_mirrored_fresh_and_open() -> None:
    policy = Policy()
    assert policy.mirrors(Repository("docker.io", "library/nginx"), Tag("latest"))
    assert policy.of("docker.io").tag_rule("library/nginx", Tag("latest")) is Tags.UPSTREAM
    assert not policy.is_protected("docker.io")
    assert not policy.protects


def test_the_kill_switch_ends_everything() -> None:
    assert not Policy(mirroring=False).mirrors(Repository("docker.io", "library/nginx"), DIGEST)


def test_a_name_goes_before_patterns_in_their_order_and_these_before_the_star() -> None:
    rules = {name: RegistryPolicy(tag_ttl_s=ttl) for ttl, name in enumerate(["*", "*.corp", "a.*", "a.corp"])}
    policy = Policy(rules)
    assert [policy.of(name).tag_ttl_s for name in ("a.corp", "b.corp", "a.com", "docker.io")] == [3, 1, 2, 0]


@pytest.mark.parametrize(
    ("include", "exclude", "name", "reference", "mirrored"),
    [
        (["library/*"], [], "library/nginx", DIGEST, True),
        (["library/*"], [], "team/app", DIGEST, False),
        (["team/*"], [], "team/deep/app", DIGEST, True),
        (["*"], ["team/*"], "team/app", Tag("v1"), False),
        (["*"], ["team/*"], "team/app", DIGEST, False),
        (["*"], ["team/*"], "team/app", None, False),
        (["*"], ["*:latest"], "team/app", Tag("latest"), False),
        (["*"], ["*:latest"], "team/app", Tag("v1"), True),
        (["*"], ["*:latest"], "team/app", DIGEST, True),
        (["*"], ["*:latest"], "team/app", None, True),
        (["team/app:v*"], [], "team/app", Tag("v1"), True),
        (["team/app:v*"], [], "team/app", Tag("latest"), False),
        (["team/app:v*"], [], "team/app", DIGEST, True),
        (["team/app:v*"], [], "team/other", DIGEST, False),
    ],
)
def test_patterns_choose_repositories_and_tags(
    include: list[str], exclude: list[str], name: str, reference: Digest | Tag | None, mirrored: bool
) -> None:
    policy = RegistryPolicy(include=tuple(include), exclude=tuple(exclude))
    assert policy.mirrors(name, reference) is mirrored


def test_a_registry_that_is_not_mirrored_is_not_whatever_is_included() -> None:
    policy = Policy({"*": RegistryPolicy(mirror=False), "docker.io": RegistryPolicy()})
    assert policy.mirrors(Repository("docker.io", "library/nginx"), DIGEST)
    assert not policy.mirrors(Repository("ghcr.io", "library/nginx"), DIGEST)


def test_the_brackets_of_an_ipv6_address_stand_for_themselves() -> None:
    policy = Policy({"[fd00::*": RegistryPolicy(mirror=False)})
    assert not policy.of("[fd00::7]:5000").mirror
    assert policy.of("d").mirror


@pytest.mark.parametrize(
    ("rule", "host", "protected"),
    [
        ("registry.corp", "registry.corp", True),
        ("registry.corp:5000", "registry.corp", True),
        ("registry.corp:5000", "registry.corp:6000", False),
        ("registry.corp:5000", "docker.io", False),
        ("*.corp:*", "registry.corp", True),
        ("*:5000", "docker.io", True),
        ("[fd00::7]:5000", "[fd00::7]", True),
        ("[fd00::7]", "[fd00", False),
        ("*.corp", "open.corp", False),
        ("*", "open.corp", False),
    ],
)
def test_a_host_counts_as_protected_when_one_of_its_ports_is(rule: str, host: str, protected: bool) -> None:
    policy = Policy({rule: RegistryPolicy(authorize=Authorize.UPSTREAM), "open.corp": RegistryPolicy()})
    assert policy.may_be_protected(host) is protected


def test_the_first_rule_for_a_tag_counts() -> None:
    policy = RegistryPolicy(tags=Tags.NEVER, tag_rules=(("*:latest", Tags.UPSTREAM), ("team/*", Tags.CLUSTER)))
    assert policy.tag_rule("team/app", Tag("latest")) is Tags.UPSTREAM
    assert policy.tag_rule("team/app", Tag("v1")) is Tags.CLUSTER
    assert policy.tag_rule("lib/app", Tag("v1")) is Tags.NEVER


def test_one_protected_registry_makes_it_matter_whose_an_object_is() -> None:
    policy = Policy({"registry.corp": RegistryPolicy(authorize=Authorize.UPSTREAM)})
    assert policy.protects
    assert policy.is_protected("registry.corp")
    assert not policy.is_protected("docker.io")
