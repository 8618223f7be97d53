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

**The protocol on one page.**

1. *Joining.* A new member asks a *seed*, which answers with some records and passes the newcomer's on. It then compares
   its state with one member and gets all that it misses, in parts.
2. *Overlay.* All members stand on 4 to 6 rings, in an order that follows from their names; each listens to the one
   before it and the one after it on every ring. Up to 9 members all listen to each other.
3. *Spreading.* Who learns something new publishes it to those who listen, at once after a quiet time, otherwise ten
   times a second: records first, then content, as the one step from what it had to what it has. More than 8 KiB of an
   owner is only announced, and pulled. So a change is everywhere after three to five steps.
4. *Repair.* A number that is missing on a connection, or in an owner's history, is seen at the next message, and
   pulled. Every two seconds a member compares its state with another: a fingerprint, then the hashes of 256 parts, then
   the versions in those that differ (some at a time, if they are many), then what one lacks. A hash of its keys goes
   with each member's heartbeat; a cell that contradicts it is dropped and pulled anew.
5. *Failure.* A neighbour that is silent for 3.5 seconds, or whose connection broke, is ranked last and probed, directly
   and by three others. If nobody hears it, it is suspected, and everybody is told. It may deny that, for 5 seconds when
   many suspect it and up to 16 when one does; then it is down, and hidden. So a crashed member is hidden within 10
   seconds and one that lost power within 13, and a member that stalls for less than 8 is not.
6. *Return.* A member that was down says so itself, which costs no content. One that restarts with the keys it had sends
   only a hash of them. The halves of a parted cluster keep pinging each other and the seeds; when they meet, they
   compare, and nobody is hidden from its own side by what the other side said.
7. *Leaving.* A member says farewell and is hidden at once. Who is gone is forgotten after two days, and nobody brings
   it back: who met nobody for a day, or whose machine slept for as long, forgets all others and joins anew.

**Questions.** Apart from all this a member's application can ask that of another member something (`Node.ask`), over
the same connections. Gossip gives it no meaning.

**Limits.** 10,000 members; of each 65,536 keys of 1 to 1,024 bytes, 16 MiB together; 4 MiB a message. Every wait, queue
and retry has a limit, named where it is used, but one: publications that come while this process stalls all wait
(`gossip.transport`). No call works for longer than some milliseconds; what takes longer is done in steps, one or two
in a turn of the loop. `python -m tests.benchmark.gossip_calls` shows how long calls take at these limits.

**Versions.** A member understands its own protocol and the one before, and speaks what all live members do. Fields
that it does not know it ignores. docs/wire-format.md shows the bytes, with an example of each message.

**Knobs.** The fields of `Config`, each with its meaning, unit, relation to others and what raising it costs. The
defaults are meant for 2 to 10,000 members on a LAN; none need be changed with the size of the cluster.

**Trust.** Who holds the cluster secret is a member and is believed; it could lie about what it holds, and about others.
Nobody else gets a connection. Without a secret a node listens on loopback only, to every process of its machine. A
cluster changes its secret while it runs (`gossip.secret`).

**Glossary.** *Member*: a node in the membership. *Neighbour*: a member that this one listens to. *Replica*: one node's
copy of the shared state. *Owner*: the member that writes a set. *Key*: opaque bytes. *Holder*: a member that has a key.
*Cell*: an owner's set at a replica. *Delta*: what brings a cell from one version to another. *Head*: where a set
stands, without content. *Record*: what is said of a member (`Member`). *Claim*: a record and who says so.
*Refutation*: a member's answer to a false record. *Visibility*: normal, ranked last, or hidden. *Group*: keys that are
listed together.

**Reading order.** The data: `or_set` with `cell`, `index`. The members: `membership`, `overlay` with `listening`,
`detector`. The protocol: `messages`, `replica` with `encounter`, `content`, `gaps`, `dissemination`, and for the repair
`exchange`, `comparison`, `transfer`; `lookup`. All of these without I/O. The bytes: `codec`, `fields`, `payload`. Then
`node`, `conversation`, `resolver`, `transport`, `channel` and `zap`. `simulation` runs the replica in a simulated
network, `planning` plays scenarios in it.
"""

from gossip.config import Config
from gossip.counters import Counters, Gauges
from gossip.errors import (
    BindError,
    ConfigError,
    DuplicateNameError,
    EpochFileError,
    GossipError,
    UnansweredError,
)
from gossip.membership import Member, Status, Visibility
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
    "UnansweredError",
    "Visibility",
]
