"""`python -m tests.k8s.render_manifests` renders the manifests anew from the chart. A test holds them equal."""

from __future__ import annotations

from typing import Final

from tests.k8s.tools import ROOT, render

MANIFESTS: Final = ROOT / "k8s" / "manifests" / "skvaller.yaml"
VALUES: Final = MANIFESTS.with_name("values.yaml")


def manifests() -> str:
    """What has to be in the file."""
    return render("--no-hooks", "--values", VALUES)


if __name__ == "__main__":
    MANIFESTS.write_text(manifests())
