"""An OCI registry that answers from this node's store, then from peers, then from the upstream registry.

**The life of a pull.**

1. The runtime asks `http://127.0.0.1:29990/v2/library/nginx/manifests/1.27?ns=docker.io`. `doors` lets in loopback
   clients only, `request_limits` nothing that is too large or too slow; `registry` reads path, query and headers into a
   `source.Request`, made of types from `oci` that cannot be wrong.
2. `gate` lets in what the operator's `policy` has mirrored. A tag is explained by the registry itself, with the
   client's own credentials, or by what the cluster knows of it (`tags`, `hearsay`). From then on all is by digest. Of a
   protected registry an object is given only to those whom the registry lets in (`authorization`), and by those nodes
   alone that know it as the registry's (`belonging`).
3. `pull` decides. The local *store* has it (`stores`): a file, which the server sends without reading it (`pieces`,
   `zero_copy`).
4. Else a *peer*: the gossiped index names the holders at once, without asking anybody; `choice` orders them, `peers`
   asks one after the other, with a MAC (`peer_mac`) that strangers cannot make. The bytes are relayed from its
   connection to the runtime's without a copy here, since whoever comes next finds complete holders too.
5. Else the *herd* (`herd`): of all nodes that want the object one goes *upstream*, and the others follow it. Upstream
   is proxied as the client asked; its "no" (401 with the whole challenge, 403, 404) goes back unchanged and is shared
   with nobody. The bytes are a *transfer* (`transfer`, `single_flight`, `spool`): fetched once for all who want the
   object here, and given to other nodes while they come.
6. What is small is verified before its first byte goes out (`verified`); what is large the runtime verifies when it
   commits it, and the agent watches for that (`suspicion`). What breaks off, stalls or crawls goes on at the same
   offset from the next source in the same answer (`resuming`, `floor`, `hedge`). What passes through whole is kept by
   a store that keeps things. When nothing helps, the answer is one that sends the runtime to the registry itself
   (`errors`).
7. The store tells what came (`stores.Store.watch`), and `cluster` says so to all other nodes.

What is done for a request is noted in its trail (`trail`), and the HTTP edge tells of each answer: metrics, log lines
and recent pulls are made of that.

**Glossary.** *Source*: whatever answers "which object is this?" and "give me its bytes" (`source`). *Store*: this
node's own content. *Peer*: a member of the cluster that we talk to. *Holder*: a member that has a digest. *Upstream*:
the registry that an image's name begins with. *Face*: a listening port and the app behind it (client, peer, status).
*Transfer*: an object in flight on this node, shared by all who want it. *Piece*: a run of bytes in memory, in a file or
still in a connection. *Herd*: nodes that want the same object at the same moment. *Giver*: whoever gave bytes of an
object. *Digest*, *descriptor*, *reference*, *tag*, *repository*, *registry*: as in the OCI specifications (`oci`).

**Reading order.** `oci`, `errors`, `source`, `pieces`; `pull`; `registry` between `http_request` and
`content_response`; `policy`, `gate`, `tags` and `authorization`; `peers` with `choice`, `peer_mac` and `peer_tls`;
`upstream` with `address_guard`, also for `listings` and `known_lists`; `resuming`, `transfer` with `single_flight`,
`spool`, `window` and `intake`, `suspicion`; `herd`, with `upload_slots`; `stores`; `elements`, `cluster` and `hearsay`,
and `bootstrap` with `election` and `lease` for who lets it in; then `app`, which puts an agent together, `settings`
with `registry_table`, `live` for what changes of them, and `cli`. Apart from these: what leads runtimes here (`hosts`
with `hosts_toml`, `registries_conf` with `registry_ports`) and what tells whether it works (`explain`, `doctor`).
"""
