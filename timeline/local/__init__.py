"""Real engines, and all of Timeline, on one machine: no Docker, no root.

For tests: `with open_engines(folder, Topology(port=21000)) as engines:` gives running engines, `Attached(folder)` those of a
running `timeline local`; both are a `Control`: `.env`, `.pid("kafka")`, `.stop("redis-1")`, `.start("redis-1")`, ...
"""

from __future__ import annotations

from timeline.local.control import Attached, Control
from timeline.local.engines import Topology, open_engines
from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet

__all__ = ["Attached", "Control", "Fleet", "LocalFailure", "Topology", "open_engines"]
