"""The containerd store: what this node's containerd has, shown to the cluster. It stores nothing itself.

Two independent halves:

- `content` follows containerd's content directory by inotify. A file there is complete and verified (containerd
  renames it into place), so a layer can be served seconds before its image is unpacked, and a garbage
  collection, of which no version of containerd sends an event, is seen as it happens. Bytes are read from the
  files, never through containerd.
- `names` follows the image records by gRPC (`client`): which tag means which manifest.

All that it ever changes in containerd is a lease of its own: `pins` holds content that would be thrown away, when
that is wanted; `unpinned` is for when it is not.

So content is served by digest from all namespaces and while containerd is down; names come from the configured
namespaces, and the last known ones stay while containerd is down.

The message classes in `api` are generated from the `.proto` files in `protos`, which hold what is used and no
more. Made for containerd 1.6 to 2.x.
"""

from mirror.stores.containerd.store import ContainerdSettings, ContainerdStore

__all__ = ["ContainerdSettings", "ContainerdStore"]
