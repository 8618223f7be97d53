"""The chart, the manifests and the image: `tox -e k8s`."""
