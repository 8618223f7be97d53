"""Message classes generated from `mirror/stores/containerd/protos`; not to be edited."""
