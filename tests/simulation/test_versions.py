"""A cluster changes over to the next version of the protocol, and back, while it runs.

There is no next version yet, so the newer nodes here are today's with a higher number; the older ones are today's, and
drop what is said in a version that they do not know. What today's version looks like is frozen in
`tests.unit.gossip.test_codec`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gossip import codec
from gossip.membership import PROTOCOL
from gossip.replica import Replica
from gossip.simulation import Faults, Simulation

if TYPE_CHECKING:
    from gossip.messages import Message, Sender
    from gossip.simulated_network import Host

NEXT = PROTOCOL + 1
MEET_S = 5.0


class Mixed(Simulation):
    """A cluster in which the nodes named in `newer` speak the next version; `refused` counts what others dropped."""

    newer: set[str]
    refused = 0

    def dispatch(self, host: Host, sender: Sender, message: Message, receivers: list[tuple[Host, int]]) -> None:
        able = [(other, life) for other, life in receivers if sender.protocol != NEXT or other.name in self.newer]
        self.refused += len(receivers) - len(able)
        super().dispatch(host, sender, message, able)

    def spoken(self) -> set[int]:
        """The versions in which the running nodes speak."""
        return {self.replica(name).sender().protocol for name in self.running()}


@pytest.fixture(name="mixed", params=[1, 8])
def fixture_mixed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mixed:
    cluster = Mixed(request.param, ["node0", "node1"], Faults(ordered=True))
    cluster.newer = set()

    def create(*arguments: object, **options: object) -> Replica:
        replica = Replica(*arguments, **options)  # type: ignore[arg-type]
        if replica.me.name in cluster.newer:
            replica.membership.me = replace(replica.me, protocol=NEXT)
            replica._listening.protocol = replica.membership.protocol()
        return replica

    monkeypatch.setattr("gossip.simulation.Replica", create)
    monkeypatch.setattr(codec, "PROTOCOL", NEXT)
    return cluster


def restart(cluster: Mixed, name: str, *, newer: bool) -> None:
    cluster.leave(name)
    (cluster.newer.add if newer else cluster.newer.discard)(name)
    cluster.start(name, [name.encode(), b"all"])
    cluster.run(MEET_S)
    assert not cluster.differences()
    cluster.add(name, b"news of " + name.encode())
    cluster.run(0.5)
    assert not cluster.differences()


@pytest.mark.parametrize("size", [2, 3, 12])
def test_a_cluster_changes_over_and_back_and_speaks_what_all_understand(mixed: Mixed, size: int) -> None:
    names = [f"node{number}" for number in range(size)]
    for name in names:
        mixed.start(name, [name.encode(), b"all"])
    mixed.run(MEET_S)
    for name in names:
        assert mixed.spoken() == {PROTOCOL}
        restart(mixed, name, newer=True)
    assert mixed.spoken() == {NEXT}
    assert mixed.refused == 0, "an older one was never spoken to in words that it does not know"
    restart(mixed, names[-1], newer=False)
    assert mixed.spoken() == {PROTOCOL}
    restart(mixed, names[-1], newer=True)
    assert mixed.spoken() == {NEXT}
