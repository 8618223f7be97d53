"""`skvaller doctor`: whether pulls on this node really go through the mirror, and if not, why and what to do.

`facts` says what is looked at, `gather` looks at it, and `checks` turn facts into findings without any I/O: each check
is a function of its own, and knows one way in which things go wrong. `containerd_config` reads a containerd's
configuration as that containerd does.

The proof of the whole is a pull of an image that cannot exist: if the runtime asked the agent for it, pulls go through
the mirror, whatever the files say.
"""

from mirror.doctor.checks import diagnose
from mirror.doctor.facts import Facts
from mirror.doctor.findings import Finding, Level
from mirror.doctor.gather import Places, gather

__all__ = ["Facts", "Finding", "Level", "Places", "diagnose", "gather"]
