"""An object is given in the names under which it is known, whatever a registry of another name says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirror.belonging import Belonging
from mirror.errors import NotFoundError
from mirror.oci import OCI_MANIFEST, Digest, Kind, Repository
from mirror.policy import Authorize, Policy, RegistryPolicy
from mirror.source import Request, read_all
from mirror.stores.oci_layout import OciLayout
from tests.attributes import require_attributes

PRIVATE = Repository("registry.corp", "team/app")
NEIGHBOUR = Repository("registry.corp", "team/other")
PUBLIC = Repository("docker.io", "library/nginx")
EVIL = Repository("evil.example", "x/y")
DATA = b"a layer"
DIGEST = Digest.of(DATA)
PROTECTED = RegistryPolicy(authorize=Authorize.UPSTREAM)
PROTECTING = Policy({"registry.corp": PROTECTED})


class Labelled(OciLayout):
    """Notes whose an object is as a containerd does: perhaps because an image listed it, not because it came so."""

    @property
    def keeps(self) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path) -> OciLayout:
    require_attributes(tmp_path)
    return OciLayout(tmp_path, 10**6)


async def came(store: OciLayout, *repositories: Repository) -> None:
    """The object came into the store in these names."""
    for repository in repositories:
        ingest = await store.ingest(Request(repository, Kind.BLOB, DIGEST), len(DATA))
        assert ingest is not None
        await ingest.write([DATA])
        assert await ingest.commit()
    store.check()


async def given(store: OciLayout, repository: Repository, policy: Policy = PROTECTING) -> bool:
    belonging = Belonging(store, lambda: policy)
    request = Request(repository, Kind.BLOB, DIGEST)
    try:
        await belonging.resolve(request)
        content = await belonging.open(request)
    except NotFoundError:
        return False
    return await read_all(content.body, 100) == DATA


async def test_what_came_from_a_protected_repository_is_given_in_its_name_alone(store: OciLayout) -> None:
    await came(store, PRIVATE)
    assert await given(store, PRIVATE)
    for other in (NEIGHBOUR, PUBLIC, EVIL):
        assert not await given(store, other)


async def test_what_may_have_come_from_a_protected_port_is_given_in_no_other_name(store: OciLayout) -> None:
    # containerd notes the host alone.
    await came(store, PRIVATE)
    policy = Policy({"registry.corp:5000": RegistryPolicy(authorize=Authorize.UPSTREAM)})
    for other in (PRIVATE, PUBLIC, EVIL, Repository("registry.corp:5000", "team/app")):
        assert not await given(store, other, policy)


async def test_what_came_from_an_open_registry_is_given_in_every_open_name(store: OciLayout) -> None:
    await came(store, PUBLIC)
    assert await given(store, PUBLIC)
    assert await given(store, EVIL)
    assert not await given(store, PRIVATE)


async def test_what_came_in_both_names_is_given_in_both(store: OciLayout) -> None:
    await came(store, PRIVATE, PUBLIC)
    assert await given(store, PRIVATE)
    assert await given(store, PUBLIC)
    assert not await given(store, NEIGHBOUR)


async def test_what_an_image_of_another_registry_lists_is_not_its_own_where_a_protected_one_may_have_it(
    store: OciLayout,
) -> None:
    await came(store, PRIVATE, EVIL)
    labelled = Labelled(store._files.path, 10**6)
    assert await given(labelled, PRIVATE)
    for other in (EVIL, PUBLIC):
        assert not await given(labelled, other)
    both = Policy({"registry.corp": PROTECTED, "evil.example": PROTECTED})
    assert not await given(labelled, EVIL, both)
    assert not await given(labelled, PRIVATE, both), "which of the two only listed it is not known"
    port = Policy({"registry.corp:5000": PROTECTED})
    for other in (EVIL, PRIVATE):
        assert not await given(labelled, other, port)


async def test_repositories_of_one_registry_share_what_both_list(store: OciLayout) -> None:
    await came(store, PRIVATE, NEIGHBOUR)
    labelled = Labelled(store._files.path, 10**6)
    assert await given(labelled, PRIVATE)
    assert await given(labelled, NEIGHBOUR)
    await came(store, PUBLIC)
    assert await given(Labelled(store._files.path, 10**6), PRIVATE), "an open registry has no secrets to lose"


async def test_what_refers_to_an_object_is_told_in_the_names_in_which_it_is_given(tmp_path: Path) -> None:
    require_attributes(tmp_path)
    store = OciLayout(tmp_path, 10**6)
    data = json.dumps({"mediaType": OCI_MANIFEST, "subject": {"digest": str(DIGEST)}}).encode()
    for repository in (PRIVATE, EVIL):
        ingest = await store.ingest(Request(repository, Kind.MANIFEST, Digest.of(data)), len(data))
        assert ingest is not None
        await ingest.write([data])
        assert await ingest.commit()
    labelled = Labelled(tmp_path, 10**6)

    async def told(policy: Policy) -> set[Repository]:
        belonging = Belonging(labelled, lambda: policy)
        return {each for each in (PRIVATE, EVIL, PUBLIC) if await belonging.referring(each, DIGEST)}

    assert await told(PROTECTING) == {PRIVATE}
    assert await told(Policy()) == {PRIVATE, EVIL}


async def test_what_is_nobodys_is_given_to_nobody_as_soon_as_anything_is_protected(store: OciLayout) -> None:
    directory = store._files.path
    (directory / "blobs/sha256" / DIGEST.hex).write_bytes(DATA)
    store = OciLayout(directory, 10**6)
    assert not await given(store, PUBLIC)
    assert await given(store, PUBLIC, Policy())


async def test_where_nothing_is_protected_everything_is_given_in_every_name(store: OciLayout) -> None:
    await came(store, PRIVATE)
    assert await given(store, EVIL, Policy())


async def test_whose_an_object_is_outlives_a_restart(store: OciLayout) -> None:
    await came(store, PRIVATE)
    again = OciLayout(store._files.path, 10**6)
    assert await given(again, PRIVATE)
    assert not await given(again, EVIL)


async def test_a_policy_that_changes_counts_from_the_next_request_on(store: OciLayout) -> None:
    await came(store, PRIVATE)
    policy = Policy()
    belonging = Belonging(store, lambda: policy)
    request = Request(EVIL, Kind.BLOB, DIGEST)
    await belonging.resolve(request)
    policy = PROTECTING
    with pytest.raises(NotFoundError):
        await belonging.resolve(request)
