"""One copy from upstream, however many nodes want the same image at the same moment.

**Leases.** For an object that nobody holds, one member leads: it goes upstream, and the others follow it while it
fetches. Who leads is said by the object's *coordinator*: the member that the rendezvous hash of (registry, digest) puts
first, so that all nodes ask the same one without agreeing on it before. The first that asks it gets the *lease* and
renews it while its bytes come; all others are told whom to follow. With several zones there is a coordinator in each,
and the leaders of the zones ask the cluster's: one copy crosses into each zone. A coordinator has soft state only
(`leases`). When it does not answer, the next in rank is asked, which knows as much: a lease is renewed at all three
that may be asked. What a manifest lists is claimed all at once when a client gets it, and the answers are there when it
asks (`expected`).

**Zones.** A zone whose leader has nothing for `leases.STARVED_S` has another leader, who looks beyond as well. Whoever
has first bytes in hand asks before it takes them: of those that were to lead the first one does, and the others follow
it. So what is found still crosses once, and a leader that only waits for a slow registry costs nothing. Where a leader
has gone past what others want (`mirror.window`), another leads those, and it crosses once more.

**Following.** A node streams from another's transfer at whatever offset it has. Each gives a blob to two children at a
time, and all its blobs together to four; one that is full names its children instead (`mirror.upload_slots`), so the
herd forms a tree for each blob by itself, and the trees lie across each other. There are more while each child gets all
that there is (more than two where the tree begins: at holders and leaders), and for those who have waited. Who follows
tells from whom its bytes come (its *lineage*), so that nobody follows itself.

**Leaving.** A follower tells its giver now and then how much it gets, and leaves one that holds back what it has while
others give much more (`pace`).

**Moving.** When a leader is lost, refused by the registry, or stuck (it renews its lease, and those who follow it get
nothing while it comes no further), the most advanced of those that claim leads, and goes on at the offset that it has.
Credentials never go to another node: a new leader that needs some breaks off, and its runtime comes back to the same
offset with its own.

**Bounds.** No request waits longer than `quest.HOLD_S` for a source; then it goes upstream on its own (an *escape*).
The coordinator lets a few do so some seconds before, and more and more. A registry that has had enough (429, 5xx) is
left alone by the whole cluster until its time is over; whoever cannot wait for that is sent to the registry by its own
runtime.

`words` is what members say to each other, `roster` who coordinates what, `leases` the coordinator's decisions, `claims`
the way to ask it, `expected` what is claimed beforehand, `led` what a leader's lease tells of its bytes, `pace` when a
giver is too slow; `source` puts them together. `tags` asks in the same way what a tag means; `watch` shows a herd to
people. `roster`, `words` and `leases` are pure.
"""

from mirror.herd.claims import Claims, Coordinator
from mirror.herd.pace import Pace
from mirror.herd.source import Herd, Unshared
from mirror.herd.tags import SharedTags

__all__ = ["Claims", "Coordinator", "Herd", "Pace", "SharedTags", "Unshared"]
