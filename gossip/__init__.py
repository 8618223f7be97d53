"""A replicated index: which member of a cluster holds which key. It knows nothing of what the keys mean.

Every member (`Node`) says which keys it holds, and every member has the whole answer in memory:

    async with Node(Config(name="a", seeds=("10.0.0.2:29993",), secret=secret)) as node:
        node.add(b"a key")
        ...
        node.holders(b"another key")    # the visible members that have it, at once, without asking anybody

**The model.** Each member *owns* a set of keys, which it alone changes. It numbers its changes, so one number, the
*version*, says what its set is; a restart begins a new *epoch*. A replica keeps a *cell* for each owner, an exact
prefix of the owner's history, and merges by taking the higher (epoch, version). This is an OR-set without tombstones:
whether messages are lost, doubled, late or out of order, replicas that have the same numbers have the same sets.

**How it spreads.** A member publishes its changes to all others, at once after a quiet time, otherwise ten times a
second. Every second it publishes its *head*, the version and a hash. Who finds a gap pulls what is missing; every two
seconds a member compares its whole state with a random other one, which finds whatever else was missed. A hash that
does not fit its version drops the cell and pulls it anew.

**Who is there.** A new member asks a *seed* to let it in, learns all records, and is introduced by the seed. Each
member judges by what it hears itself: a member silent for three seconds, or whose connection broke, is ranked last;
silent for eight seconds, and it is hidden; heard again, and it is back. One that leaves says so and is hidden at once.
Who has not been heard by anybody for an hour is forgotten.

**Trust.** Who holds the cluster secret is a member and is believed; it could lie about what it holds, and about others.
Nobody else gets a connection. Without a secret a node listens on loopback only, to every process of its machine.

**Glossary.** *Member*: a node in the membership. *Replica*: one node's copy of the shared state. *Owner*: the member
that writes a set. *Key*: opaque bytes. *Holder*: a member that has a key. *Cell*: an owner's set at a replica. *Delta*:
what brings a cell from one version to another. *Record*: what is said of a member (`Member`). *Refutation*: a member's
answer to a false record. *Visibility*: normal, ranked last, or hidden. *Group*: keys that are listed together.

**Reading order.** `or_set` (the data), `index`, `membership`, `messages`, `replica` (the protocol) with `gaps`,
`comparison` and `lookup`; all of these without I/O. `codec` and `payload` (the bytes). Then `node`, `transport`,
`channel` and `zap`. `simulation` runs the replica in a simulated network.
"""

from gossip.config import Config
from gossip.counters import Counters, Gauges
from gossip.errors import BindError, ConfigError, DuplicateNameError, EpochFileError, GossipError
from gossip.membership import Member, Status
from gossip.node import Node
from gossip.secret import ClusterSecret

__all__ = [
    "BindError",
    "ClusterSecret",
    "Config",
    "ConfigError",
    "Counters",
    "DuplicateNameError",
    "EpochFileError",
    "Gauges",
    "GossipError",
    "Member",
    "Node",
    "Status",
]
