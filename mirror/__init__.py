"""An OCI registry that answers from this node's store, then from peers, then from the upstream registry.

**The life of a pull.**

1. The runtime asks `http://127.0.0.1:29990/v2/library/nginx/manifests/1.27?ns=docker.io`. `doors` lets in loopback
   clients only; `registry` reads path, query and headers into a `source.Request`, made of types from `oci` that
   cannot be wrong.
2. `pull` decides. A tag is explained by the registry itself (a HEAD with the client's own credentials); when it does
   not answer, the last that the cluster knew of the tag has to do (`cluster`). From then on all is by digest.
3. The local *store* has it (`stores`): a file, sent as it is.
4. Else a *peer*: the gossiped index names the holders at once, without asking anybody; `choice` orders them, `peers`
   asks one after the other, with a MAC (`peer_mac`) that strangers cannot make.
5. Else *upstream*, proxied as the client asked. Its "no" (401 with the whole challenge, 403, 404) goes back unchanged.
   What nobody holds yet is fetched once for all who want it (`single_flight`): a `transfer` takes it into a file
   (`spool`, or the store's own if the store keeps things), which is read while it grows, also by peers.
6. What is small is verified before its first byte goes out (`verified`). A source that is slow to answer is `hedge`d;
   one that breaks off, or stays below the `floor` rate, is left, and the next goes on at the same offset in the same
   answer (`resuming`). When nothing helps, the answer is one that sends the runtime to the registry itself (`errors`).
7. A large object that was delivered and not committed makes its giver suspect: `suspicion` finds out who is to blame.
8. The store tells what came (`stores.Store.watch`), and `cluster` says so to all other nodes.

**Glossary.** *Source*: whatever answers "which object is this?" and "give me its bytes" (`source`). *Store*: this
node's own content. *Peer*: a member of the cluster that we talk to. *Holder*: a member that has a digest. *Upstream*:
the registry that an image's name begins with. *Face*: a listening port and the app behind it (client, peer, status).
*Transfer*: an object in flight on this node, shared by all who want it. *Giver*: whoever gave bytes of an object.
*Digest*, *descriptor*, *reference*, *tag*, *repository*, *registry*: as in the OCI specifications (`oci`).

**Reading order.** `oci`, `errors`, `source`; `pull`; `registry`; `peers` with `choice` and `peer_mac`; `upstream`,
also for `listings`; `resuming`, `transfer` with `single_flight` and `spool`, `suspicion`; `stores`; `cluster`; then
`app`, which puts an agent together, `settings` and `cli`.
"""
