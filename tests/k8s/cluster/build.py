"""Builds the programs of Kubernetes from the Go module proxy, once: no package of Debian has them.

    python -m tests.k8s.cluster.build

CoreDNS is built too. It takes half an hour on two idle cores, at a low priority, and half a gigabyte; what was built is
kept in the user's cache directory. The module k8s.io/kubernetes is not made to be required by others: its parts are
found in a directory of its repository, which a module does not have, so each is replaced by the one that was published
with it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

from tests.lab.cache import BUILD_TIMEOUT_S, cached, go_install, run

KUBERNETES_VERSION: Final = "1.37.2"
COREDNS_VERSION: Final = "1.15.0"
OPERATOR_VERSION: Final = "0.85.0"
"""Of the Prometheus operator."""
PROGRAMS: Final = ("kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler")
JOBS: Final = "2"
"""Packages that are compiled at a time; each may take a gigabyte."""

_VERSION_VARIABLES: Final = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def kubernetes() -> Path:
    """The directory of the programs; built unless they are there already. Raises `tests.lab.cache.FetchError`."""
    return cached(f"kubernetes-{KUBERNETES_VERSION}", _build)


def coredns() -> Path:
    """The DNS server that most clusters have; built unless it is there already. Raises `tests.lab.cache.FetchError`."""
    package = f"github.com/coredns/coredns@v{COREDNS_VERSION}"
    return cached(f"coredns-{COREDNS_VERSION}", lambda work: go_install(work / "bin", package)) / "coredns"


def operators_kinds() -> list[Path]:
    """The Prometheus operator's definitions of the kinds that the chart makes. Raises `tests.lab.cache.FetchError`."""
    module = f"github.com/prometheus-operator/prometheus-operator@v{OPERATOR_VERSION}"
    directory = Path(json.loads(run("go", "mod", "download", "-json", module, timeout_s=600))["Dir"])
    names = ("podmonitors", "prometheusrules")
    return [directory / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{name}.yaml" for name in names]


def _build(work: Path) -> Path:
    module = f"k8s.io/kubernetes@v{KUBERNETES_VERSION}"
    environment = {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
    manifest = run("go", "mod", "download", "-json", module, directory=work, environment=environment, timeout_s=600)
    their_file = re.search(r'"GoMod": "([^"]+)"', manifest)
    assert their_file is not None, manifest
    theirs = Path(their_file[1]).read_text()
    _, minor, patch = KUBERNETES_VERSION.split(".")
    parts = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", theirs, re.MULTILINE)
    language = [line for line in theirs.splitlines() if line.startswith(("go ", "godebug "))]
    replacements = "".join(f"\t{part} => {part} v0.{minor}.{patch}\n" for part in parts)
    (work / "go.mod").write_text(
        "\n".join(["module skvaller.example/kubernetes", *language])
        + f"\nrequire k8s.io/kubernetes v{KUBERNETES_VERSION}\nreplace (\n{replacements})\n"
    )
    flags = ["-s", "-w"]
    for package in _VERSION_VARIABLES:
        flags += [f"-X={package}.gitVersion=v{KUBERNETES_VERSION}", f"-X={package}.gitMajor=1"]
        flags += [f"-X={package}.gitMinor={minor}"]
    programs = work / "bin"
    for program in PROGRAMS:
        package = f"k8s.io/kubernetes/cmd/{program}"
        command = ("nice", "-n", "19", "go", "build", "-p", JOBS, "-trimpath", "-ldflags", " ".join(flags))
        run(
            *(*command, "-o", programs / program, package),
            directory=work,
            environment=environment,
            timeout_s=BUILD_TIMEOUT_S,
        )
    return programs


if __name__ == "__main__":
    sys.stdout.write(f"{kubernetes()}\n{coredns()}\n")
