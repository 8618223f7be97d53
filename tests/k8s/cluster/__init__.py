"""A real Kubernetes: its API server alone, and three nodes with kubelets: `tox -e k8s-cluster`."""
