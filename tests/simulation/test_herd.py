"""A herd of two hundred nodes in simulated time keeps to its budgets, whatever happens to it; see the benchmark."""

from __future__ import annotations

import pytest

from tests.benchmark.herd_simulation import SCENES, Options, Scene, play
from tests.simulated_time import run

NODES = 200


@pytest.mark.parametrize("seed", [1, 5])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_herd_keeps_to_its_budgets(scene: Scene, seed: int) -> None:
    outcome = run(play(scene, Options(nodes=NODES, registry=1.0, downlink=1.0, seed=seed)))
    assert outcome.never == 0
    assert outcome.slowest <= (scene.slowest_max or 3.0)
    assert outcome.crossed <= (scene.crossed_max or 0.0)
    if scene.copies_max is not None:
        assert outcome.upstream <= scene.copies_max
