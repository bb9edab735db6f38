"""The demo world: a small network with people in it, shipped with the service. See NOTICE beside the files for where it is from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from timeline.domain.ids import UserId

DEMO_READER = UserId(1)  # has the richest home: the one to look at first

FOLLOWS = Path(str(resources.files("timeline.ops.demo") / "follows.gz"))
POSTS = Path(str(resources.files("timeline.ops.demo") / "posts.gz"))
