"""How a cluster would behave: a scenario is played in simulated time, and the outcome is a report.

    run = begin(Scenario(nodes=300, deaths=(Death(at_s=20, nodes=1),)))
    for elapsed_s in run.steps():
        ...                             # show how far it is
    print(to_text(run.report()))

Up to `FULL_NODES_MAX` nodes the product's own `gossip.replica` is run, one for each node (`full`); in larger clusters a
model of what matters then (`reduced`), which says what it leaves out. Both draw all chance from the scenario's seed, so
a scenario has one outcome, and neither models bandwidth, queues, and the time that a node needs to compute.

`scenario` is what can be asked, `report` what is answered, as `text` or as a `plot`; `estimate` says how long it takes.
No module here does any I/O.
"""

from gossip.planning.play import Run, begin
from gossip.planning.plot import to_svg
from gossip.planning.report import Report
from gossip.planning.scenario import Death, Partition, Pause, Scenario
from gossip.planning.text import to_text

__all__ = ["Death", "Partition", "Pause", "Report", "Run", "Scenario", "begin", "to_svg", "to_text"]
